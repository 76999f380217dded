//! Who is the target? Processes, their children, and who listens on a port, from /proc.
//!
//! Reads what is asked for and no more: a `--pid` costs the files of that process and its descendants,
//! a `--port` one pass over the descriptors of all processes, if anybody listens there.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{self, BufReader},
};

use procfs::process::{Process, Stat, StatFlags};
use rustix::process::Pid;

use super::descriptors::{self, Descriptor};

/// The first process. For sockets that systemd opens for a service, it is nobody's server.
pub const INIT: u32 = 1;

/// A process that could serve requests.
#[derive(Debug)]
pub struct Root {
    pub pid: u32,
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error(
        "there is no process {pid}; give the pid of a running process, as `pgrep -f NAME` or `systemctl show -p MainPID UNIT` print it"
    )]
    NoProcess { pid: u32 },
    #[error("process {pid} has exited (its parent has yet to notice); start it again and give its new pid")]
    Exited { pid: u32 },
    #[error("process {pid} exited while we were attaching to it; start it again and give its new pid")]
    Vanished { pid: u32 },
    #[error("process {pid} belongs to a target that is named before this one; take one of the two away")]
    Taken { pid: u32 },
    #[error("{pid} is a thread of process {process}; give --pid {process}")]
    Thread { pid: u32, process: u32 },
    #[error("process {pid} ({name}) is a kernel thread; it serves no requests")]
    KernelThread { pid: u32, name: String },
    #[error("process {pid} is this agent itself; give the pid of the server to watch")]
    Ourselves { pid: u32 },
    #[error("no process listens on TCP port {port} (seen: {seen}); start the server first, or give --pid")]
    NobodyListens { port: u16, seen: String },
    #[error(
        "TCP port {port} is listened on, but not by a process we can see; run the agent in the host's pid namespace and \
         with CAP_SYS_PTRACE (before Linux 5.14 also CAP_DAC_READ_SEARCH), or give --pid"
    )]
    OwnerHidden { port: u16 },
    #[error(
        "TCP port {port} is held open for a service that does not run yet (socket activation); start the service, or name it with --unit"
    )]
    HeldByInit { port: u16 },
    #[error(
        "no process runs {glob:?}; a pattern with a slash is compared with whole paths as /proc/PID/exe shows them, one \
         without with the names of programs"
    )]
    NoProgram { glob: String },
    #[error("unit {unit} has no processes; `systemctl status {unit}` says whether it runs")]
    NoUnit { unit: String },
    #[error(
        "container {container} has no processes that we can see; `docker ps --no-trunc` or `crictl ps --no-trunc` prints \
         the ids of those that run"
    )]
    NoContainer { container: String },
    #[error("cannot read /proc: {0}")]
    Proc(String),
}

impl Root {
    /// Opens a process by its pid.
    ///
    /// # Errors
    /// When it does not exist, or is nothing that could serve requests.
    pub fn open(pid: u32) -> Result<Self, DiscoverError> {
        if pid == std::process::id() {
            return Err(DiscoverError::Ourselves { pid });
        }
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(DiscoverError::NoProcess { pid })?;
        let status = Process::new(raw.as_raw_nonzero().get())
            .and_then(|process| process.status())
            .map_err(|_| DiscoverError::NoProcess { pid })?;
        let process = status.tgid.unsigned_abs();
        if process != pid {
            return Err(DiscoverError::Thread { pid, process });
        }
        // Neither a kernel thread nor a process on its way out has memory of its own (proc_pid_status(5): VmSize is
        // missing).
        if status.vmsize.is_none() {
            return Err(if is_kernel_thread(raw) {
                DiscoverError::KernelThread { pid, name: status.name }
            } else {
                DiscoverError::Exited { pid }
            });
        }
        Ok(Self { pid, name: status.name })
    }
}

fn is_kernel_thread(pid: Pid) -> bool {
    let stat = Process::new(pid.as_raw_nonzero().get()).and_then(|process| process.stat());
    let flags = stat.ok().and_then(|stat| StatFlags::from_bits(stat.flags));
    flags.is_some_and(|flags| flags.contains(StatFlags::PF_KTHREAD))
}

/// Whether a process is there and alive; a zombie is not.
pub fn exists(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// The parent of a process; None when the process is gone, or has none that we can see.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.ppid.unsigned_abs()).filter(|parent| *parent != 0)
}

/// The name of a process; None when it is gone.
pub fn name(pid: u32) -> Option<String> {
    stat(pid).map(|stat| stat.comm)
}

fn stat(pid: u32) -> Option<Stat> {
    i32::try_from(pid).ok().and_then(|pid| Process::new(pid).and_then(|process| process.stat()).ok())
}

/// All processes there are now, in no order.
pub fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a process is in our network namespace, so that ports mean the same to both.
pub fn shares_our_network(pid: u32) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let ours = namespace("self");
    ours.is_some() && namespace(&pid.to_string()) == ours
}

/// The sockets that a process holds, by inode number: none when it is gone. None also when we may not look, which only
/// [`descriptors::of`] tells apart.
pub fn sockets(pid: u32) -> HashSet<u64> {
    descriptors::of(pid).into_iter().flatten().filter_map(Descriptor::socket).collect()
}

/// Whether a process has set up io_uring.
pub fn uses_io_uring(pid: u32) -> bool {
    descriptors::of(pid).into_iter().flatten().any(|open| open == Descriptor::IoUring)
}

/// All living descendants of a process, parents before their children, without those that are left out and theirs.
pub fn descendants(pid: u32, is_left_out: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut found = vec![pid];
    let mut seen = HashSet::from([pid]);
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        for child in children(parent) {
            if seen.insert(child) && !is_left_out(child) {
                found.push(child);
            }
        }
    }
    found.remove(0);
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists: io::Result<Vec<String>> = tasks
        .filter_map(Result::ok)
        .map(|task| fs::read_to_string(task.path().join("children")))
        .filter(|list| !matches!(list, Err(error) if is_gone(error)))
        .collect();
    match lists {
        Ok(lists) if !lists.is_empty() => lists
            .iter()
            .flat_map(|list| list.split_ascii_whitespace())
            .filter_map(|pid| pid.parse().ok())
            .collect(),
        // A kernel without CONFIG_PROC_CHILDREN: look at every process's parent.
        _ => all_stats()
            .filter(|stat| stat.ppid.unsigned_abs() == pid)
            .map(|stat| stat.pid.unsigned_abs())
            .collect(),
    }
}

/// A thread that ended while we looked; ENOENT also says that there are no such files in this kernel.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn all_stats() -> impl Iterator<Item = Stat> {
    procfs::process::all_processes().into_iter().flatten().filter_map(|process| process.ok()?.stat().ok())
}

/// The processes to watch for a port: those that hold a listening socket of it and whose parent does not.
/// A prefork server has one, its master; servers that share a port by SO_REUSEPORT have several. That systemd keeps the
/// socket open for them does not count.
///
/// # Errors
/// When nobody listens there, or nobody we can see.
pub fn listeners(port: u16) -> Result<Vec<u32>, DiscoverError> {
    let mut sockets = HashSet::new();
    let mut ports = Vec::new();
    for entry in listening_sockets("self")? {
        if entry.1 == port {
            sockets.insert(entry.0);
        } else if !ports.contains(&entry.1) {
            ports.push(entry.1);
        }
    }
    if sockets.is_empty() {
        ports.sort_unstable();
        return Err(DiscoverError::NobodyListens { port, seen: list(&ports) });
    }
    let mut holders = Vec::new();
    for pid in all_pids() {
        let Ok(mut open) = descriptors::of(pid) else { continue };
        let holds = open.any(|open| open.socket().is_some_and(|inode| sockets.contains(&inode)));
        if holds && let Some(stat) = stat(pid) {
            holders.push((pid, stat.ppid.unsigned_abs()));
        }
    }
    if holders.is_empty() {
        return Err(DiscoverError::OwnerHidden { port });
    }
    holders.retain(|holder| holder.0 != INIT);
    if holders.is_empty() {
        return Err(DiscoverError::HeldByInit { port });
    }
    let pids: HashSet<u32> = holders.iter().map(|holder| holder.0).collect();
    Ok(holders.iter().filter(|holder| !pids.contains(&holder.1)).map(|holder| holder.0).collect())
}

/// TCP ports that any of these processes listens on, in the network namespace of the first.
pub fn listening_ports(pids: &[u32]) -> Vec<u16> {
    let Some(first) = pids.first() else { return Vec::new() };
    let Ok(listening) = listening_sockets(&first.to_string()) else { return Vec::new() };
    let held: HashSet<u64> = pids.iter().flat_map(|pid| sockets(*pid)).collect();
    let ports = listening.iter().filter(|entry| held.contains(&entry.0)).map(|entry| entry.1);
    ports.collect::<BTreeSet<_>>().into_iter().collect()
}

/// (inode, port) of every listening TCP socket in the network namespace of a process.
fn listening_sockets(of: &str) -> Result<Vec<(u64, u16)>, DiscoverError> {
    let mut entries = Vec::new();
    for table in ["tcp", "tcp6"] {
        match File::open(format!("/proc/{of}/net/{table}")) {
            Ok(table) => entries.extend(listening_in(BufReader::new(table))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // no IPv6
            Err(error) => return Err(DiscoverError::Proc(error.to_string())),
        }
    }
    Ok(entries)
}

/// Of a table as proc_pid_net(5) describes it. The kernel has the listening sockets first (`tcp_seq_start` in
/// net/ipv4/tcp_ipv4.c), so the connections, of which there may be many, need not be read.
fn listening_in(table: impl io::BufRead) -> impl Iterator<Item = (u64, u16)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).map_while(|line| {
        let line = line.ok()?;
        let mut fields = line.split_ascii_whitespace();
        let (address, state, inode) = (fields.nth(1)?, fields.nth(1)?, fields.nth(5)?);
        let port = u16::from_str_radix(address.rsplit(':').next()?, 16).ok()?;
        (state == LISTEN).then_some((inode.parse().ok()?, port))
    })
}

/// At most eight ports; a host may have thousands.
fn list(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "no listening port at all".to_owned();
    }
    let shown: Vec<String> = ports.iter().take(8).map(u16::to_string).collect();
    let more = if ports.len() > 8 { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command};

    use super::*;

    #[test]
    fn children_of_children_are_found() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & sleep 60"]).spawn().unwrap();
        let pid = shell.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let descendants = || descendants(pid, |_| false);
        while descendants().len() < 2 {
            assert!(std::time::Instant::now() < deadline, "found only {:?}", descendants());
            std::thread::yield_now();
        }
        let [first, second] = descendants()[..] else { panic!("it has two") };
        assert_eq!(super::descendants(pid, |child| child == first), [second]);
        for child in [first, second] {
            let _ = rustix::process::kill_process(
                Pid::from_raw(child as i32).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_gone_is_said_to_be_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let root = Root::open(child.id()).unwrap();
        assert!(exists(root.pid) && all_pids().any(|pid| pid == root.pid));
        assert_eq!(parent(root.pid), Some(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!exists(root.pid) && parent(root.pid).is_none());
        assert!(matches!(Root::open(child.id()), Err(DiscoverError::NoProcess { .. })));
    }

    #[test]
    fn what_cannot_be_watched_is_named() {
        assert!(matches!(Root::open(std::process::id()), Err(DiscoverError::Ourselves { .. })));
        assert!(matches!(Root::open(4_294_967_295), Err(DiscoverError::NoProcess { .. })));
        assert!(matches!(Root::open(0), Err(DiscoverError::NoProcess { .. })));
    }

    #[test]
    fn the_holder_of_a_listening_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listeners(port).unwrap().contains(&std::process::id()));
        // Among many connections, which come behind it in the kernel's table.
        let _connections: Vec<_> =
            (0..50).map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        assert!(listeners(port).unwrap().contains(&std::process::id()));
        drop(listener);
        assert!(matches!(listeners(port), Err(DiscoverError::NobodyListens { .. })));
    }
}
