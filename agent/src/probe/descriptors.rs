//! What a process has open, as far as it matters to us.
//!
//! /proc/PID/fd has links, for the process's owner and for whoever may read everything (CAP_DAC_READ_SEARCH). From
//! Linux 5.14 on, /proc/PID/fdinfo has inode numbers and mounts, for whoever may trace the process (CAP_SYS_PTRACE):
//! more to read, less to be granted. All sockets are on one mount, which has no path; one of our own says which.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::Path,
    sync::OnceLock,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// By its inode number.
    Socket(u64),
    IoUring,
}

impl Descriptor {
    /// Inode number of the socket that it is.
    pub fn socket(self) -> Option<u64> {
        match self {
            Self::Socket(inode) => Some(inode),
            Self::IoUring => None,
        }
    }
}

/// The descriptors of a process; those that are closed meanwhile may be missing.
///
/// # Errors
/// `PermissionDenied` when we may not look.
pub fn of(pid: u32) -> io::Result<impl Iterator<Item = Descriptor>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"));
    let is_refused = links.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let entries = if is_refused { fs::read_dir(format!("/proc/{pid}/fdinfo"))? } else { links? };
    let read = if is_refused { by_info } else { by_link };
    Ok(entries.flatten().filter_map(move |entry| read(&entry.path())))
}

fn by_link(path: &Path) -> Option<Descriptor> {
    let target = fs::read_link(path).ok()?;
    let target = target.to_str()?;
    match target.strip_prefix("socket:[") {
        Some(rest) => Some(Descriptor::Socket(rest.strip_suffix(']')?.parse().ok()?)),
        None => (target == "anon_inode:[io_uring]").then_some(Descriptor::IoUring),
    }
}

fn by_info(path: &Path) -> Option<Descriptor> {
    said_by(&fs::read_to_string(path).ok()?, mount_of_sockets()?)
}

/// See proc_pid_fdinfo(5); `UserFiles` is what io_uring says of itself (io_uring/fdinfo.c).
fn said_by(info: &str, sockets: u64) -> Option<Descriptor> {
    if info.lines().any(|line| line.starts_with("UserFiles:")) {
        return Some(Descriptor::IoUring);
    }
    (number(info, "mnt_id:")? == sockets).then(|| number(info, "ino:").map(Descriptor::Socket))?
}

fn number(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

fn mount_of_sockets() -> Option<u64> {
    static MOUNT: OnceLock<Option<u64>> = OnceLock::new();
    *MOUNT.get_or_init(|| {
        let socket = UnixDatagram::unbound().ok()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd())).ok()?;
        number(&info, "mnt_id:")
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn both_ways_find_a_socket_and_nothing_else() {
        let (socket, file) = (UnixDatagram::unbound().unwrap(), File::open("/proc/self/stat").unwrap());
        let path = |of: &str, fd: i32| format!("/proc/self/{of}/{fd}");
        let inode = fs::metadata(path("fd", socket.as_raw_fd())).unwrap().ino();
        for (of, read) in [("fd", by_link as fn(&Path) -> _), ("fdinfo", by_info)] {
            let found = read(Path::new(&path(of, socket.as_raw_fd())));
            assert_eq!(found, Some(Descriptor::Socket(inode)), "{of}");
            assert_eq!(read(Path::new(&path(of, file.as_raw_fd()))), None, "{of}");
        }
        assert!(of(std::process::id()).unwrap().any(|found| found == Descriptor::Socket(inode)));
    }

    #[test]
    fn infos_are_read() {
        let check = |info: &str, want| assert_eq!(said_by(info, 9), want, "{info}");
        check("pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t17\n", Some(Descriptor::Socket(17)));
        check("pos:\t0\nflags:\t02\nmnt_id:\t24\nino:\t17\n", None);
        check("pos:\t0\nflags:\t02\nmnt_id:\t9\n", None);
        check("pos:\t0\nmnt_id:\t15\nino:\t1057\nSqThread:\t-1\nUserFiles:\t0\n", Some(Descriptor::IoUring));
    }

    #[test]
    fn a_process_that_is_gone_has_nothing_open() {
        assert_eq!(of(u32::MAX).err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }
}
