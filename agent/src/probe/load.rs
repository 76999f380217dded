//! Puts the programs into the kernel and attaches them; the maps are reached through here.
//!
//! Nothing outlives the process: links, programs and maps die with their file descriptors.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU64, Ordering},
};

use agent_common::{
    conn::{Capture, ConnId, ConnState, LocalPorts, Mute, PidSlot, TargetId, pid_slot, role},
    drops::{COUNTERS, DropReason, Tally},
    limits,
    settings::Settings,
};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapData, MapError},
    programs::{ProgramError, ProgramType, RawTracePoint, TracePoint, raw_trace_point::RawTracePointLink},
    sys::{SyscallError, is_program_supported},
};
use tracing::{debug, warn};

use super::{
    btf::{Btf, BtfError},
    counters::{self, Counters, Turns},
    host::{KernelVersion, NO_MEMLOCK},
    mutes::Mutes,
    shared::Shared,
    source::{Records, readiness},
};
use crate::exit::chain;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-ebpf.o"));

/// The fields of a [`Capture`], in its order.
const CAPTURE_WORDS: usize = size_of::<Capture>() / size_of::<u64>();
const _: () = assert!(CAPTURE_WORDS == 2);

/// `bpf_loop` arrived with this version.
const BPF_LOOP: KernelVersion = KernelVersion::new(5, 17);
/// From this version on raw tracepoint programs of system calls may be preempted, and meanwhile the kernel skips
/// them for every other task on that CPU (`prog->active` in kernel/trace/bpf_trace.c).
const PREEMPTIBLE: KernelVersion = KernelVersion::new(7, 2);
/// There the tracepoints of perf are used in their place, which are found in tracefs.
pub const NEEDS_TRACEFS: KernelVersion = PREEMPTIBLE;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Btf(#[from] BtfError),
    #[error(
        "the kernel refused program `{program}`: {reason}; please report this with the log below\n{verifier_log}"
    )]
    Rejected { program: &'static str, reason: String, verifier_log: String },
    #[error("cannot attach program `{program}`: {reason}")]
    Attach { program: &'static str, reason: String },
    #[error("cannot create the maps or load the object: {0}")]
    Object(String),
    #[error(
        "the kernel answered bpf() with \"{0}\": eBPF is disabled here (a seccomp profile, a container runtime or a security module forbids it); allow the bpf system call for the agent"
    )]
    Forbidden(String),
    #[error("map `{map}` cannot be used: {reason}")]
    Map { map: &'static str, reason: String },
}

/// What may be chosen when loading.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Size of the ring buffer, bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Let the programs log through aya-log.
    pub verbose: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { ring_bytes: limits::RING_BYTES, verbose: false }
    }
}

/// The programs that notice processes, and where.
const NOTICING: [(&str, &str); 2] =
    [("process_exec", "sched_process_exec"), ("process_move", "cgroup_attach_task")];

/// The attached programs and their maps.
pub struct Probe {
    targets: HashMap<MapData, u32, TargetId>,
    mutes: Mutes,
    conns: HashMap<MapData, ConnId, ConnState>,
    counters: Counters,
    tell_peers: Shared,
    /// See `PID_SLOTS` of the kernel side.
    pid_slots: Shared,
    ports: Shared,
    tell_processes: Shared,
    /// The programs that notice processes, for as long as they are asked to.
    noticing: Vec<RawTracePointLink>,
    /// What `targets` holds, from our own doing and from records: looking into a map has Linux 7.2 skip programs.
    watched: BTreeMap<u32, TargetId>,
    /// Records of that kind that found no room, when `watched` was last read from the map.
    lost_records: u64,
    /// What of [`Counters::turns`] was taken, by target.
    turns_taken: BTreeMap<TargetId, Turns>,
    capture: Shared,
    programs: [&'static str; 4],
    /// Holds the programs and their links.
    ebpf: Ebpf,
}

impl Probe {
    /// Loads and attaches the programs. No process is watched yet.
    ///
    /// # Errors
    /// When the kernel lacks something or refuses a program; `host::obstacles` says most of it beforehand
    /// and in better words.
    pub fn load(kernel: KernelVersion, options: LoadOptions) -> Result<(Self, Records), LoadError> {
        if kernel < NO_MEMLOCK {
            lift_memlock();
        }
        may_load_programs()?;
        let settings = settings(&Btf::of_kernel()?, options)?;
        let cpus = counters::cpus().map_err(|error| LoadError::Object(format!("number of CPUs: {error}")))?;
        let log_level = if options.verbose { 4_u8 } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .btf(None) // offsets come through `settings`; nothing in the object needs relocation
            .override_global("SETTINGS", &settings, true)
            .override_global("AYA_LOG_LEVEL", &log_level, false)
            .map_max_entries("RECORDS", options.ring_bytes)
            .map_max_entries("COUNTERS", cpus)
            .map_max_entries("UNTOLD", cpus * limits::TARGETS)
            .map_max_entries("SAMPLED_OUT", cpus * limits::TARGETS)
            .load(OBJECT)
            .map_err(|error| object_error(&error))?;
        let (sys_exit, sys_enter) = attach_to_syscalls(&mut ebpf, kernel)?;
        attach(&mut ebpf, "process_fork", "sched_process_fork")?;
        attach(&mut ebpf, "process_exit", "sched_process_exit")?;
        // They refer to maps by descriptors, some of which are closed below.
        for (program, _) in NOTICING {
            raw_tracepoint(&mut ebpf, program).load().map_err(|error| rejected(program, error))?;
        }
        debug!(%kernel, sys_exit, ?settings, "programs attached");
        if options.verbose {
            start_program_log(&mut ebpf);
        }
        let records = Records::new(take(&mut ebpf, "RECORDS")?);
        let mut probe = Self {
            targets: take(&mut ebpf, "TARGETS")?,
            mutes: Mutes::new(shared(&mut ebpf, "MUTES", Mutes::WORDS)?),
            conns: take(&mut ebpf, "CONNS")?,
            counters: Counters::new(
                shared(&mut ebpf, "COUNTERS", cpus as usize * COUNTERS)?,
                shared(&mut ebpf, "UNTOLD", (cpus * limits::TARGETS) as usize)?,
                shared(&mut ebpf, "SAMPLED_OUT", (cpus * limits::TARGETS) as usize)?,
            ),
            tell_peers: shared(&mut ebpf, "TELL_PEERS", 1)?,
            pid_slots: shared(&mut ebpf, "PID_SLOTS", limits::PID_SLOTS as usize)?,
            ports: shared(&mut ebpf, "PORTS", limits::TARGETS as usize)?,
            tell_processes: shared(&mut ebpf, "TELL_PROCESSES", 1)?,
            noticing: Vec::new(),
            watched: BTreeMap::new(),
            lost_records: 0,
            turns_taken: BTreeMap::new(),
            capture: shared(&mut ebpf, "CAPTURE", CAPTURE_WORDS)?,
            programs: [sys_exit, sys_enter, "process_fork", "process_exit"],
            ebpf,
        };
        probe.set_capture(Capture::ALL);
        Ok((probe, records))
    }

    /// Watches a process from now on; the children it forks from now on follow by themselves.
    ///
    /// # Errors
    /// When the process table is full.
    pub fn watch(&mut self, pid: u32, target: TargetId) -> Result<(), LoadError> {
        self.watched.insert(pid, target);
        self.targets.insert(pid, target, 0).map_err(|error| map_error("TARGETS", &error))?;
        let (empty, filled) = (PidSlot::EMPTY.0, PidSlot::of(pid, target).0);
        let slot = self.pid_slot(pid);
        // Not empty: another process's, or this one's, which may be gone already.
        if slot.compare_exchange(empty, filled, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            slot.store(PidSlot::ASK.0, Ordering::Release);
        }
        Ok(())
    }

    /// Watches a process no longer.
    pub fn unwatch(&mut self, pid: u32) {
        self.watched.remove(&pid);
        self.pid_slot(pid).store(PidSlot::ASK.0, Ordering::Release);
        // Not there: it exited, and the kernel side has removed it.
        let _ = self.targets.remove(&pid);
    }

    fn pid_slot(&self, pid: u32) -> &AtomicU64 {
        &self.pid_slots.words()[pid_slot(pid) as usize]
    }

    /// The target that a process belongs to, if it is watched.
    pub fn target_of(&self, pid: u32) -> Option<TargetId> {
        self.watched.get(&pid).copied()
    }

    /// Whether the kernel side tells of processes.
    pub fn notices(&self) -> bool {
        !self.noticing.is_empty()
    }

    /// Processes that it did not tell of, since there was no room for it.
    pub fn lost_notices(&self) -> u64 {
        self.counters.drops(DropReason::NoticeLost)
    }

    /// Takes note that the kernel side watches a process, since its parent is watched.
    pub fn has_forked(&mut self, pid: u32, target: TargetId) {
        self.watched.insert(pid, target);
    }

    /// Takes note that it does so no longer.
    pub fn has_exited(&mut self, pid: u32) {
        self.watched.remove(&pid);
    }

    /// Looks into the kernel side's table of processes, if records about some of them may have been lost.
    pub fn catch_up(&mut self) {
        let lost_records = self.counters.drops(DropReason::RingFullControl);
        if lost_records != self.lost_records {
            self.lost_records = lost_records;
            self.watched = self.targets.iter().filter_map(Result::ok).collect();
        }
    }

    /// The processes watched now and the target of each.
    pub fn watched(&self) -> Vec<(u32, TargetId)> {
        self.watched.iter().map(|(pid, target)| (*pid, *target)).collect()
    }

    /// The processes of one target that are watched now.
    pub fn processes(&self, target: TargetId) -> Vec<u32> {
        self.watched.iter().filter(|(_, of)| **of == target).map(|(pid, _)| *pid).collect()
    }

    /// Whether the kernel side tells who is at the other end of server connections: a record more for each, before
    /// the data of its next turn. It does not until told so.
    pub fn tell_peers(&self, wanted: bool) {
        self.tell_peers.words().iter().for_each(|word| word.store(wanted.into(), Ordering::Relaxed));
    }

    /// Tells the kernel side which local ports of a target count.
    pub fn watch_ports(&self, target: TargetId, ports: LocalPorts) {
        if let Some(word) = self.ports.words().get(target as usize) {
            word.store(ports.0, Ordering::Relaxed);
        }
    }

    /// Has the kernel side tell of every process that is forked, becomes another program, is moved to another control
    /// group, or begins to listen; or no longer. It does not until told so.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub fn notice(&mut self, wanted: bool) -> Result<(), LoadError> {
        let words = self.tell_processes.words();
        words.iter().for_each(|word| word.store(wanted.into(), Ordering::Relaxed));
        if !wanted {
            self.noticing.clear();
        } else if self.noticing.is_empty() {
            let links =
                NOTICING.map(|(program, tracepoint)| attach_owned(&mut self.ebpf, program, tracepoint));
            self.noticing = links.into_iter().collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Tells the kernel side what is not needed of a connection.
    pub fn mute(&mut self, conn: ConnId, mute: Mute) {
        self.mutes.set(conn, mute);
    }

    /// Takes back what was said about a connection, which the kernel side has closed.
    pub fn unmute(&mut self, conn: ConnId) {
        self.mutes.remove(conn);
    }

    /// Has the kernel side forget a connection that it has not closed. What it knew of it: nothing, when it has
    /// forgotten it by itself.
    pub fn forget(&mut self, conn: ConnId) -> Option<ConnState> {
        self.unmute(conn);
        let state = self.conns.get(&conn, 0).ok()?;
        // Not there: removed by the kernel side a moment ago.
        let _ = self.conns.remove(&conn);
        Some(state)
    }

    /// Has the kernel side forget a target whose processes are not watched any more, and all its connections: should
    /// one of its processes be watched again, they are as if met in the middle.
    pub fn forget_target(&mut self, target: TargetId) {
        let connections = self.conns.iter().filter_map(Result::ok);
        let own: Vec<ConnId> =
            connections.filter(|(_, state)| state.target == target).map(|(conn, _)| conn).collect();
        for conn in own {
            self.forget(conn);
        }
        // The next one of this number has nothing to do with them.
        self.take_turns(target);
    }

    /// Names of the programs that are attached.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        // In the order of their links, which are all there or none.
        let noticing = NOTICING.iter().zip(&self.noticing).map(|((program, _), _)| *program);
        self.programs.into_iter().chain(noticing)
    }

    /// How often the kernel side gave something up, by reason, since loading.
    pub fn drops(&self) -> [(DropReason, u64); DropReason::ALL.len()] {
        DropReason::ALL.map(|reason| (reason, self.counters.drops(reason)))
    }

    /// Turns of which there is no record, since the last call or since the target was attached.
    pub fn take_turns(&mut self, target: TargetId) -> Turns {
        let turns = self.counters.turns(target);
        let taken = self.turns_taken.insert(target, turns).unwrap_or_default();
        Turns {
            untold: turns.untold.saturating_sub(taken.untold),
            sampled_out: turns.sampled_out.saturating_sub(taken.sampled_out),
        }
    }

    /// Tells the kernel side how much to look at from now on.
    pub fn set_capture(&mut self, capture: Capture) {
        for (word, value) in self.capture.words().iter().zip([capture.per_call, capture.sampled_out]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// What the kernel side knows of a connection.
    pub fn connection(&self, conn: ConnId) -> Option<ConnState> {
        self.conns.get(&conn, 0).ok()
    }

    /// Runs of the programs that the kernel left out, because one was unfinished on the same CPU, since loading:
    /// calls that we did not see (`recursion_misses` in the program's fdinfo, Linux 5.12). 0 where it does not say.
    pub fn missed_runs(&self) -> u64 {
        let fds = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        let misses = fds.filter_map(|fd| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()?;
            info.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
        });
        misses.sum()
    }

    /// Connections of a target that are in use as a server, as the kernel side knows them: a walk over all.
    pub fn server_connections(&self, target: TargetId) -> Vec<(ConnId, ConnState)> {
        let is_one = |state: &ConnState| state.target == target && state.role == role::SERVER;
        self.conns.iter().filter_map(Result::ok).filter(|(_, state)| is_one(state)).collect()
    }

    /// How much moved since loading.
    pub fn tallies(&self) -> [(Tally, u64); Tally::ALL.len()] {
        Tally::ALL.map(|tally| (tally, self.counters.tally(tally)))
    }
}

/// Asked with a program of two instructions: where that is forbidden, aya takes the kernel for one that can do
/// nothing, and rejects our object for reasons that mislead.
fn may_load_programs() -> Result<(), LoadError> {
    match is_program_supported(ProgramType::RawTracePoint) {
        Err(ProgramError::SyscallError(SyscallError { io_error, .. })) if is_forbidden(&io_error) => {
            Err(LoadError::Forbidden(io_error.to_string()))
        }
        // Anything else is said in better words when it happens to our own programs.
        _ => Ok(()),
    }
}

fn settings(btf: &Btf, options: LoadOptions) -> Result<Settings, BtfError> {
    // Linux 6.13 replaced the plain counter by `file_ref_t`, which counts from zero (include/linux/file_ref.h).
    let (file_count, file_count_one) = match btf.offset("file.f_ref.refcnt") {
        Ok(offset) => (offset, 0),
        Err(_) => (btf.offset("file.f_count")?, 1),
    };
    let fdt_max_fds = btf.offset("fdtable.max_fds")?;
    if btf.offset("fdtable.fd")? != fdt_max_fds + 8 {
        return Err(BtfError::NoMember("fdtable.fd, 8 bytes behind max_fds".to_owned()));
    }
    Ok(Settings {
        task_files: btf.offset("task_struct.files")?,
        task_tgid: btf.offset("task_struct.tgid")?,
        task_signal: btf.offset("task_struct.signal")?,
        signal_live: btf.offset("signal_struct.live")?,
        task_thread_status: btf.offset("task_struct.thread_info.status")?,
        files_fdt: btf.offset("files_struct.fdt")?,
        fdt_max_fds,
        file_inode: btf.offset("file.f_inode")?,
        file_private_data: btf.offset("file.private_data")?,
        file_count,
        inode_mode: btf.offset("inode.i_mode")?,
        inode_ino: btf.offset("inode.i_ino")?,
        socket_sk: btf.offset("socket.sk")?,
        socket_type: btf.offset("socket.type")?,
        sock_family: btf.offset("sock.__sk_common.skc_family")?,
        sock_num: btf.offset("sock.__sk_common.skc_num")?,
        sock_state: btf.offset("sock.__sk_common.skc_state")?,
        sock_shutdown: btf.offset("sock.sk_shutdown")?,
        sock_protocol: btf.offset("sock.sk_protocol")?,
        sock_user_data: btf.offset("sock.sk_user_data")?,
        sock_daddr: btf.offset("sock.__sk_common.skc_daddr")?,
        sock_dport: btf.offset("sock.__sk_common.skc_dport")?,
        sock_v6_daddr: btf.offset("sock.__sk_common.skc_v6_daddr").unwrap_or(0),
        tcp_ulp: btf.offset("inet_connection_sock.icsk_ulp_ops")?,
        tcp_copied_seq: btf.offset("tcp_sock.copied_seq")?,
        tcp_write_seq: btf.offset("tcp_sock.write_seq")?,
        file_count_one,
        wakeup_bytes: options.ring_bytes / 8,
        data_bytes: options.ring_bytes - options.ring_bytes / 8,
    })
}

/// Attaches a program for as long as it is loaded.
fn attach(ebpf: &mut Ebpf, program: &'static str, tracepoint: &str) -> Result<(), LoadError> {
    let loaded = raw_tracepoint(ebpf, program);
    loaded.load().map_err(|error| rejected(program, error))?;
    loaded.attach(tracepoint).map_err(|error| not_attached(program, &error)).map(|_link| ())
}

/// Attaches a program that is loaded, for as long as the link lives.
fn attach_owned(
    ebpf: &mut Ebpf,
    program: &'static str,
    tracepoint: &str,
) -> Result<RawTracePointLink, LoadError> {
    let loaded = raw_tracepoint(ebpf, program);
    let link = loaded.attach(tracepoint).and_then(|link| loaded.take_link(link));
    link.map_err(|error| not_attached(program, &error))
}

fn raw_tracepoint<'e>(ebpf: &'e mut Ebpf, program: &str) -> &'e mut RawTracePoint {
    ebpf.program_mut(program)
        .and_then(|found| found.try_into().ok())
        .expect("the object holds these raw tracepoint programs")
}

fn not_attached(program: &'static str, error: &ProgramError) -> LoadError {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) if is_forbidden(io_error) => {
            LoadError::Forbidden(io_error.to_string())
        }
        _ => LoadError::Attach { program, reason: chain(error) },
    }
}

/// Attaches the programs on every system call; the names of the one at its end and the one at its beginning.
fn attach_to_syscalls(
    ebpf: &mut Ebpf,
    kernel: KernelVersion,
) -> Result<(&'static str, &'static str), LoadError> {
    if kernel >= PREEMPTIBLE {
        match attach_to_perf(ebpf, "sys_exit_perf", "sys_exit") {
            Ok(()) => {
                attach_to_perf(ebpf, "sys_enter_perf", "sys_enter")?;
                return Ok(("sys_exit_perf", "sys_enter_perf"));
            }
            Err(LoadError::Attach { reason, .. }) => warn!(
                reason,
                "cannot use the tracepoints of perf, calls on busy processors will be missed; \
                 mount tracefs: mount -t tracefs tracefs /sys/kernel/tracing; where permission is denied, \
                 sysctl -w kernel.perf_event_paranoid=2, or add CAP_SYS_ADMIN"
            ),
            Err(error) => return Err(error),
        }
    }
    let sys_exit = if kernel >= BPF_LOOP { "sys_exit" } else { "sys_exit_unrolled" };
    attach(ebpf, sys_exit, "sys_exit")?;
    attach(ebpf, "sys_enter", "sys_enter")?;
    Ok((sys_exit, "sys_enter"))
}

fn attach_to_perf(ebpf: &mut Ebpf, program: &'static str, tracepoint: &str) -> Result<(), LoadError> {
    let loaded: &mut TracePoint = ebpf
        .program_mut(program)
        .and_then(|found| found.try_into().ok())
        .expect("the object holds these tracepoint programs");
    loaded.load().map_err(|error| rejected(program, error))?;
    loaded
        .attach("raw_syscalls", tracepoint)
        .map_err(|error| LoadError::Attach { program, reason: chain(&error) })
        .map(|_link| ())
}

fn rejected(program: &'static str, error: ProgramError) -> LoadError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let verifier_log = tail(&verifier_log.to_string(), 40);
            // The verifier says what it minds; whoever else forbids programs says nothing.
            if verifier_log.trim().is_empty() && is_forbidden(&io_error) {
                return LoadError::Forbidden(io_error.to_string());
            }
            LoadError::Rejected { program, reason: io_error.to_string(), verifier_log }
        }
        other => LoadError::Rejected { program, reason: chain(&other), verifier_log: String::new() },
    }
}

/// The end of the verifier's log is where it says what it minds.
fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn object_error(error: &aya::EbpfError) -> LoadError {
    if let aya::EbpfError::MapError(MapError::CreateError { io_error, .. }) = error
        && is_forbidden(io_error)
    {
        return LoadError::Forbidden(io_error.to_string());
    }
    LoadError::Object(chain(error))
}

/// What a seccomp profile or a security module makes bpf() answer, and a kernel that has none.
fn is_forbidden(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS))
}

fn map_error(map: &'static str, error: &MapError) -> LoadError {
    LoadError::Map { map, reason: chain(error) }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, map: &'static str) -> Result<M, LoadError> {
    let found = ebpf.take_map(map).expect("the object holds these maps");
    M::try_from(found).map_err(|error| map_error(map, &error))
}

fn shared(ebpf: &mut Ebpf, map: &'static str, words: usize) -> Result<Shared, LoadError> {
    let Some(Map::Array(array)) = ebpf.take_map(map) else { unreachable!("the object holds these arrays") };
    Shared::of_map(array.fd().as_fd(), words)
        .map_err(|error| LoadError::Map { map, reason: error.to_string() })
}

fn lift_memlock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        warn!(%error, "cannot lift RLIMIT_MEMLOCK (CAP_SYS_RESOURCE); the maps may not fit");
    }
}

/// Brings the programs' own diagnostics into our log.
fn start_program_log(ebpf: &mut Ebpf) {
    let mut logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!(%error, "the programs' own log is not available"),
    };
    let readable = match readiness(logger.as_fd()) {
        Ok(readable) => readable,
        Err(error) => return warn!(%error, "the programs' own log is not available"),
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = readable.readable().await {
            guard.clear_ready();
            logger.flush();
        }
    });
}
