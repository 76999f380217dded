//! A target's file system, from outside and with care: whoever made it may want to harm us.
//!
//! Paths are resolved inside the target's root, links included, and never through /proc's own links, so that nothing of
//! the host's is read. Only regular files are opened (a pipe would have us wait, a device might do something), only
//! so much of them is read, and only so many entries of a directory. A file system that never answers is the caller's
//! to give up on.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

/// Bytes of a file that are read.
const MOST_BYTES: u64 = 512 * 1024;
/// Entries of a directory that are looked at; a large Python environment has about a thousand.
const MOST_ENTRIES: usize = 8192;

pub struct Root(OwnedFd);

impl Root {
    /// The root directory of a process.
    pub fn of(pid: u32) -> Option<Self> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/root")))
    }

    pub fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(path, flags, Mode::empty()).ok().map(Self)
    }

    /// The beginning of a file, as text; None when there is no such file, or when it is not a regular one.
    pub fn text(&self, path: &Path) -> Option<String> {
        self.bytes(path, MOST_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first `most` bytes of a file.
    pub fn bytes(&self, path: &Path, most: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(most).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Opens a regular file for reading.
    pub fn file(&self, path: &Path) -> Option<File> {
        let found = self.find(path, OFlags::empty())?;
        let status = fstat(&found).ok()?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return None;
        }
        reopen(&found, OFlags::NOCTTY).map(File::from)
    }

    /// Names in a directory; none when there is no such directory.
    pub fn names(&self, path: &Path) -> Vec<String> {
        let directory = self.find(path, OFlags::DIRECTORY);
        let Some(directory) = directory.and_then(|found| reopen(&found, OFlags::DIRECTORY)) else {
            return Vec::new();
        };
        let entries = Dir::read_from(directory).into_iter().flatten().take(MOST_ENTRIES);
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Opens nothing yet: that is for when we know what it is.
    fn find(&self, path: &Path, flags: OFlags) -> Option<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
    }
}

/// Opens for reading what was found.
fn reopen(found: &OwnedFd, flags: OFlags) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()
}
