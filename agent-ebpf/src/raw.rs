//! Helpers and pointers behind safe functions; where `unsafe` lives.
//!
//! A function here is safe to call with any address: the kernel's probe reads check it and report a fault.

use core::{ffi::c_void, mem::MaybeUninit};

use agent_common::{
    conn::{
        Capture, ConnId, ConnState, LocalPorts, Mute, MuteSlot, PidSlot, SlotSays, TargetId, mute_set,
        pid_slot,
    },
    drops::{COUNTERS, DropReason, TALLIES_AT, Tally},
    event::RecordHeader,
    limits::{self, MUTE_SLOTS},
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated},
    maps::{Array, ring_buf::RingBufEntry},
};

use crate::{capture::Pieces, maps};

/// A value of kernel memory; `None` when the address cannot be read.
#[inline(always)]
pub fn read_kernel<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value`, or returns an error; it checks `address`.
    let status = unsafe {
        generated::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        )
    };
    // SAFETY: filled by the helper; callers read integers and arrays of integers only.
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// A value of the current process's memory; `None` when it is not there.
#[inline(always)]
pub fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `read_kernel`.
    let status = unsafe {
        generated::bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _)
    };
    // SAFETY: filled by the helper; callers read integers and arrays of integers only.
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// Copies up to `N` bytes of the current process's memory; returns how many, 0 on a fault.
#[inline(always)]
pub fn read_user_bytes<const N: usize>(into: &mut [u8; N], address: u64, len: u32) -> u32 {
    let len = len.min(N as u32);
    // SAFETY: `len` is at most the size of `into`; the helper checks `address`.
    let status =
        unsafe { generated::bpf_probe_read_user(into.as_mut_ptr().cast(), len, address as *const _) };
    if status == 0 { len } else { 0 }
}

/// `struct task_struct *` of the current thread.
#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: no preconditions.
    unsafe { generated::bpf_get_current_task() }
}

/// `struct pt_regs *` of the current thread's system call (`bpf_task_pt_regs`, Linux 5.15).
#[inline(always)]
pub fn task_regs() -> u64 {
    // SAFETY: no preconditions; the task is the current one.
    unsafe { generated::bpf_task_pt_regs(generated::bpf_get_current_task_btf()) as u64 }
}

/// Process (thread group) of the current thread, in the initial pid namespace.
#[inline(always)]
pub fn current_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// CLOCK_MONOTONIC, nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Fills the slot of a process that was entered into `TARGETS` and does not run yet.
#[inline(always)]
pub fn fill_pid_slot(pid: u32, target: TargetId) {
    if let Some(slot) = maps::PID_SLOTS.get_ptr_mut(pid_slot(pid)) {
        // SAFETY: the pointer comes from a look-up; all read and write the value whole.
        unsafe { slot.write_volatile(PidSlot(slot.read_volatile()).entering(pid, target).0) }
    }
}

/// Spoils the slot of a process that is about to be taken out of `TARGETS`.
#[inline(always)]
pub fn spoil_pid_slot(pid: u32) {
    if let Some(slot) = maps::PID_SLOTS.get_ptr_mut(pid_slot(pid)) {
        // SAFETY: the pointer comes from a look-up; all read and write the value whole.
        unsafe { slot.write_volatile(PidSlot::ASK.0) }
    }
}

/// The target that `pid` belongs to.
#[inline(always)]
pub fn target_of(pid: u32) -> Option<TargetId> {
    let slot = maps::PID_SLOTS.get_ptr(pid_slot(pid))?;
    // SAFETY: the pointer comes from a look-up; all read and write the value whole.
    match PidSlot(unsafe { slot.read_volatile() }).target(pid) {
        SlotSays::Nobody => return None,
        SlotSays::Target(target) => return Some(target),
        SlotSays::AskTable => {}
    }
    // SAFETY: a u32 that is written whole; a stale value is as good as one read a moment earlier.
    unsafe { maps::TARGETS.get(pid) }.copied()
}

/// State of a connection. The reference is to a map value, which stays readable even when the entry is
/// removed meanwhile; each field is written by one direction (see `ConnState`).
#[inline(always)]
pub fn conn_state(conn: ConnId) -> Option<&'static mut ConnState> {
    // SAFETY: the pointer comes from a look-up; map values live as long as the map.
    maps::CONNS.get_ptr_mut(conn).map(|state| unsafe { &mut *state })
}

/// Reads `count` values of the current process's memory into the first places; false when they are not there.
#[inline(always)]
pub fn read_user_array<T: Copy, const N: usize>(into: &mut [T; N], address: u64, count: u32) -> bool {
    let len = count.min(N as u32) * size_of::<T>() as u32;
    // SAFETY: `len` is at most the size of `into`; the helper checks `address`. Callers read integers only.
    unsafe { generated::bpf_probe_read_user(into.as_mut_ptr().cast(), len, address as *const _) == 0 }
}

/// The walk over the buffers of the call at hand.
#[inline(always)]
pub fn pieces() -> Option<&'static mut Pieces> {
    // SAFETY: the pointer comes from a look-up; map values live as long as the map. Only one program uses
    // the map, and it runs once at a time on a CPU (see `PIECES`).
    maps::PIECES.get_ptr_mut(0).map(|pieces| unsafe { &mut *pieces })
}

/// How much user space wants to see.
#[inline(always)]
pub fn capture() -> Capture {
    // SAFETY: the pointer comes from a look-up; the fields are u64 that user space writes whole, and any value of one
    // goes with any of the other.
    maps::CAPTURE.get_ptr(0).map_or(Capture::ALL, |capture| unsafe { capture.read_volatile() })
}

/// Whether connections on this local port count.
#[inline(always)]
pub fn watches_port(target: TargetId, port: u16) -> bool {
    // SAFETY: the pointer comes from a look-up; user space writes the value whole.
    let watched = maps::PORTS.get_ptr(target).map_or(0, |watched| unsafe { watched.read_volatile() });
    LocalPorts(watched).count(port)
}

/// What user space does not need of `conn`.
#[inline(always)]
pub fn mute_of(conn: ConnId) -> Mute {
    let Some(set) = maps::MUTES.get_ptr(mute_set(conn)) else { return Mute::default() };
    for slot in 0..MUTE_SLOTS {
        // SAFETY: the pointer comes from a look-up, `slot` is within the set, and the fields are u64 that user
        // space writes whole; `conn` before and after says that the positions between are its own.
        let (before, ingress_until, egress_until, after) = unsafe {
            let slot = set.cast::<MuteSlot>().add(slot);
            (
                (&raw const (*slot).conn).read_volatile(),
                (&raw const (*slot).ingress_until).read_volatile(),
                (&raw const (*slot).egress_until).read_volatile(),
                (&raw const (*slot).conn).read_volatile(),
            )
        };
        if before == conn && after == conn {
            return Mute { ingress_until, egress_until };
        }
    }
    Mute::default()
}

/// Whether user space wants to know who is at the other end of server connections.
#[inline(always)]
pub fn tells_peers() -> bool {
    // SAFETY: the pointer comes from a look-up; user space writes the value whole.
    maps::TELL_PEERS.get_ptr(0).is_some_and(|wanted| unsafe { wanted.read_volatile() } == 1)
}

/// Whether user space looks for processes that may become those of a target.
#[inline(always)]
pub fn tells_processes() -> bool {
    // SAFETY: the pointer comes from a look-up; user space writes the value whole.
    maps::TELL_PROCESSES.get_ptr(0).is_some_and(|wanted| unsafe { wanted.read_volatile() } == 1)
}

/// Whether a notice may wake user space at this time; if so, the next ones may not for a while. That several CPUs
/// come to that answer at once costs a wake-up each.
#[inline(always)]
pub fn may_wake_for_notice(now_ns: u64) -> bool {
    let Some(woke) = maps::NOTICE_WOKE.get_ptr_mut(0) else { return false };
    // SAFETY: the pointer comes from a look-up and is aligned as map values are; a u64 is read and written whole.
    unsafe {
        if now_ns.wrapping_sub(woke.read_volatile()) < limits::NOTICE_WAKES_NS {
            return false;
        }
        woke.write_volatile(now_ns);
    }
    true
}

/// Counts a failure; the value is what a program returns.
#[inline(always)]
pub fn count_drop(reason: DropReason) -> i32 {
    add(reason as usize, 1);
    0
}

/// Adds to a tally.
#[inline(always)]
pub fn tally(what: Tally, amount: u64) {
    add(TALLIES_AT + what as usize, amount);
}

/// Adds to the turns of a target in `UNTOLD` or `SAMPLED_OUT`.
#[inline(always)]
pub fn add_turns(map: &Array<u64>, target: TargetId, turns: u64) {
    if target < limits::TARGETS
        && let Some(counter) = map.get_ptr_mut(current_cpu() * limits::TARGETS + target)
    {
        // A plain add, as below.
        // SAFETY: the pointer comes from a look-up and is aligned as map values are.
        unsafe { *counter = (*counter).wrapping_add(turns) }
    }
}

/// verifier: wants to see that `index` is below `COUNTERS`, where it does not know the failures apart.
#[inline(always)]
fn add(index: usize, amount: u64) {
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(current_cpu()) {
        // A plain add: raw tracepoints run with preemption off (`cant_sleep` in kernel/trace/bpf_trace.c),
        // and none of ours fires in an interrupt, so no program interrupts another on one CPU. From Linux 7.2
        // on those of system calls may be preempted; a program is then still never interrupted by itself, and
        // that another of ours comes in between these two instructions costs one count of a diagnostic.
        // SAFETY: the pointer comes from a look-up and is aligned as map values are; the index is within.
        unsafe {
            let counter = counters.cast::<u64>().add(index % COUNTERS);
            *counter = (*counter).wrapping_add(amount);
        }
    }
}

#[inline(always)]
fn current_cpu() -> u32 {
    // SAFETY: no preconditions.
    unsafe { generated::bpf_get_smp_processor_id() }
}

/// A record of one size class, reserved in the ring buffer.
#[repr(C)]
pub struct Slot<const PAYLOAD: usize> {
    header: RecordHeader,
    payload: [u8; PAYLOAD],
}

/// Reserves a record with room for `PAYLOAD` bytes.
#[inline(always)]
pub fn reserve<const PAYLOAD: usize>() -> Option<RingBufEntry<Slot<PAYLOAD>>> {
    maps::RECORDS.reserve::<Slot<PAYLOAD>>(0)
}

/// Copies `len` bytes of the process's memory behind the header, bounded by the class. False on a fault.
#[inline(always)]
pub fn fill<const PAYLOAD: usize>(slot: &mut RingBufEntry<Slot<PAYLOAD>>, address: u64, len: u32) -> bool {
    // verifier: wants to see the bound right before the call. The callers have compared `len` with the class
    // already, but on another copy of it; the black box keeps the compiler from leaving this one out.
    let len = core::hint::black_box(len);
    let len = if len > PAYLOAD as u32 { PAYLOAD as u32 } else { len };
    // SAFETY: `payload` has room for `PAYLOAD` bytes; the helper checks `address`.
    unsafe {
        let payload = &raw mut (*slot.as_mut_ptr()).payload;
        generated::bpf_probe_read_user(payload.cast(), len, address as *const _) == 0
    }
}

/// Copies `len` bytes of the process's memory into the record behind `at` others, as long as both are within half of the
/// class. False on a fault.
#[inline(always)]
pub fn fill_behind<const PAYLOAD: usize>(
    slot: &mut RingBufEntry<Slot<PAYLOAD>>,
    at: u32,
    address: u64,
    len: u32,
) -> bool {
    // verifier: knows the bound of each number and not that of their sum, hence the halves; see `fill` for the box.
    let (at, len) = (core::hint::black_box(at), core::hint::black_box(len));
    if at > PAYLOAD as u32 / 2 || len > PAYLOAD as u32 / 2 {
        return false;
    }
    // SAFETY: `at + len` is at most `PAYLOAD`, the room in `payload`; the helper checks `address`.
    unsafe {
        let payload = (&raw mut (*slot.as_mut_ptr()).payload).cast::<u8>().add(at as usize);
        generated::bpf_probe_read_user(payload.cast(), len, address as *const _) == 0
    }
}

/// Writes the header of a record.
#[inline(always)]
pub fn set_header<const PAYLOAD: usize>(slot: &mut RingBufEntry<Slot<PAYLOAD>>, header: &RecordHeader) {
    // SAFETY: the slot is ours until it is submitted; the header is its first field.
    unsafe { (&raw mut (*slot.as_mut_ptr()).header).write(*header) }
}

/// Runs `step` up to `max` times, until it answers 1 (`bpf_loop`, Linux 5.17).
#[inline(always)]
pub fn loop_times(max: u32, step: extern "C" fn(u32, *mut c_void) -> i64) {
    // SAFETY: the kernel calls `step` with a round and the null context.
    unsafe {
        generated::bpf_loop(max, step as *mut _, core::ptr::null_mut(), 0);
    }
}
