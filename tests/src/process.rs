//! Processes that we started, and what the kernel says about them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::eventually::{eventually, let_pass};

/// A process that leads a process group of its own. Killed with the group when dropped.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Child,
}

impl ProcessGroup {
    /// Starts a leader that hears nothing, and writes what it says to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        Self::of(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// `leader` was spawned with `process_group(0)`.
    pub fn of(leader: Child) -> Self {
        Self { leader }
    }

    pub fn pid(&self) -> u32 {
        self.leader.id()
    }

    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    pub fn signal_leader(&self, signal: Signal) {
        kill_process(self.rustix_pid(), signal).expect("we have not waited for it, so it can be signalled");
    }

    pub fn leader_has_exited(&mut self) -> bool {
        self.leader.try_wait().expect("it is our child").is_some()
    }

    pub fn kill(&mut self) {
        let _ = kill_process_group(self.rustix_pid(), Signal::KILL);
        let _ = self.leader.wait();
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.leader)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that the kernel ends when the thread that spawns it does: a test that is killed leaves no server behind.
pub fn ending_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Sends a signal to our child unless it has ended.
pub fn signal(child: &mut Child, signal: Signal) {
    if child.try_wait().expect("it is our child").is_none() {
        kill_process(Pid::from_child(child), signal).expect("our child can be signalled");
    }
}

/// Sends a signal to a process of ours that has not been waited for.
pub fn signal_to(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a positive number");
    kill_process(pid, signal).expect("a process of ours can be signalled");
}

/// Waits for our child to end.
///
/// # Panics
/// When it does not in time.
pub fn wait_for(child: &mut Child, within: Duration) -> ExitStatus {
    eventually("the process ends", within, || child.try_wait().expect("it is our child"))
}

/// Children of a process; none when it is gone.
pub fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// CPU time used so far by all threads of a process that runs.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let spent = threads.map(|thread| {
        let path = thread.expect("a directory can be listed").path().join("schedstat");
        let line = fs::read_to_string(path).unwrap_or_default();
        line.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(spent.sum())
}

/// Memory that a process holds, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kib = line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("VmRSS is a number of kB");
    kib * 1024
}

/// Descriptors that a process has open: the least within half a second, since a message on its way takes some.
pub fn file_descriptors(pid: u32) -> usize {
    let looks = (0..10).map(|_| {
        let_pass(Duration::from_millis(50));
        fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
    });
    looks.min().expect("there were looks")
}

/// The eBPF programs that a process holds, by the kernel's numbers.
pub fn program_ids(pid: u32) -> Vec<u32> {
    let ids = descriptor_fields(pid, "prog_id:").into_iter();
    let mut ids: Vec<u32> = ids.map(|id| u32::try_from(id).expect("program numbers are small")).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Kernel memory in the eBPF maps that a process holds, bytes.
pub fn map_bytes(pid: u32) -> u64 {
    // Programs have `memlock` too, and no `map_id`.
    let infos = descriptor_infos(pid).into_iter().filter(|info| info.contains("map_id:"));
    infos.filter_map(|info| number_of(&info, "memlock:")).sum()
}

fn descriptor_fields(pid: u32, name: &str) -> Vec<u64> {
    descriptor_infos(pid).iter().filter_map(|info| number_of(info, name)).collect()
}

fn descriptor_infos(pid: u32) -> Vec<String> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the process runs");
    // One that was closed meanwhile says nothing.
    infos.flatten().filter_map(|info| fs::read_to_string(info.path()).ok()).collect()
}

fn number_of(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
