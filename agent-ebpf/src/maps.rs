//! Every map, one per concern.

use agent_common::{
    conn::{Capture, ConnId, ConnState, MuteSet, TargetId},
    drops::Counters,
    limits,
    settings::Settings,
};
use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};

use crate::capture::Pieces;

/// Processes (thread groups) of the targets. Roots are put in by user space, children by `process_fork`;
/// `process_exit` removes them. Full: the child is not watched (`DropReason::TargetsFull`).
#[map]
pub static TARGETS: HashMap<u32, TargetId> = HashMap::with_max_entries(limits::TARGET_PROCESSES, 0);

/// The same as far as it fits, by the last bits of a process's number; see `PidSlot`. What is not a target's is told so
/// here, at half the cost of a look into the table. A slot that was in use is never empty again: that costs the few
/// processes that come to it a look into the table.
#[map]
pub static PID_SLOTS: Array<u64> = Array::with_max_entries(limits::PID_SLOTS, BPF_F_MMAPABLE);

/// Stream positions of the targets' connections. Written by the programs alone; removed at close, else
/// least recently used out first: an evicted connection starts over as one met in the middle.
#[map]
pub static CONNS: LruHashMap<ConnId, ConnState> = LruHashMap::with_max_entries(limits::CONNS, 0);

/// What user space does not need, in sets by `mute_set`. User space writes it as ordinary memory: a system call
/// for each mute would cost both sides more, and while one runs, Linux 7.2 skips programs on that CPU.
#[map]
pub static MUTES: Array<MuteSet> = Array::with_max_entries(limits::MUTE_SETS, BPF_F_MMAPABLE);

/// How much user space wants to see; it writes it as ordinary memory.
#[map]
pub static CAPTURE: Array<Capture> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Of each target, the [`LocalPorts`] whose connections count; likewise. Connections on others are not left out (their
/// turns would be counted as exchanges): user space mutes them.
///
/// [`LocalPorts`]: agent_common::conn::LocalPorts
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(limits::TARGETS, BPF_F_MMAPABLE);

/// Records. Full: the record is dropped and counted, its bytes show up as a gap.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(limits::RING_BYTES, 0);

/// The walk over the buffers of the call at hand. Used by the program on `sys_exit` alone, of which one run at
/// a time is on a CPU: up to Linux 7.1 preemption is off, and later the kernel skips a run that finds another
/// one unfinished (`prog->active` in kernel/trace/bpf_trace.c).
#[map]
pub static PIECES: PerCpuArray<Pieces> = PerCpuArray::with_max_entries(1, 0);

/// What was given up and what moved, by CPU; user space makes room for all of them. It reads them, as it does
/// `UNTOLD`, in memory that both sides see: Linux 7.2 skips programs while somebody on their CPU looks into a map.
#[map]
pub static COUNTERS: Array<Counters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Turns of which user space cannot know, on connections whose end it was not told either: by CPU, and by target
/// within.
#[map]
pub static UNTOLD: Array<u64> = Array::with_max_entries(limits::TARGETS, BPF_F_MMAPABLE);

/// Turns of connections that are left out ([`role::SAMPLED_OUT`](agent_common::conn::role::SAMPLED_OUT)), likewise.
#[map]
pub static SAMPLED_OUT: Array<u64> = Array::with_max_entries(limits::TARGETS, BPF_F_MMAPABLE);

/// 1 while user space wants to know who is at the other end of server connections. That may change while the programs
/// run, so it is no setting.
#[map]
pub static TELL_PEERS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// 1 while user space looks for processes that may become those of a target.
#[map]
pub static TELL_PROCESSES: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// When a notice of a process last woke user space: CLOCK_MONOTONIC, nanoseconds.
#[map]
pub static NOTICE_WOKE: Array<u64> = Array::with_max_entries(1, 0);

/// Field offsets and bounds, put in by user space before loading; constants to the verifier.
#[unsafe(no_mangle)]
pub static SETTINGS: aya_ebpf::Global<Settings> = aya_ebpf::Global::new(Settings {
    task_files: 0,
    task_tgid: 0,
    task_signal: 0,
    signal_live: 0,
    task_thread_status: 0,
    files_fdt: 0,
    fdt_max_fds: 0,
    file_inode: 0,
    file_private_data: 0,
    file_count: 0,
    inode_mode: 0,
    inode_ino: 0,
    socket_sk: 0,
    socket_type: 0,
    sock_family: 0,
    sock_num: 0,
    sock_state: 0,
    sock_shutdown: 0,
    sock_protocol: 0,
    sock_user_data: 0,
    sock_daddr: 0,
    sock_dport: 0,
    sock_v6_daddr: 0,
    tcp_ulp: 0,
    tcp_copied_seq: 0,
    tcp_write_seq: 0,
    file_count_one: 0,
    wakeup_bytes: 0,
    data_bytes: 0,
});
