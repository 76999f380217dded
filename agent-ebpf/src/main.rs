//! The tap. Copies the bytes that a target moves on its sockets into the ring buffer, and counts what it
//! could not copy. It understands no HTTP beyond "do the first bytes look like a request?".
//!
//! `raw` holds the unsafe parts, `maps` every map, the other modules one concern each.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

mod arch;
mod capture;
mod conns;
mod emit;
mod lifecycle;
mod maps;
mod raw;
mod role;
mod sampling;
mod socket;
mod syscall;
mod target;

use agent_common::drops::DropReason;
use aya_ebpf::{
    EbpfContext as _,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};

use crate::{arch::Regs, capture::Walk, raw::count_drop};

/// Data in both directions, for every system call that moves bytes on a socket, and the birth of
/// connections.
///
/// Hook: raw tracepoint `sys_exit(struct pt_regs *regs, long ret)`. Number, arguments and result are all
/// there at once, so there is no table of calls in flight that could leak. Costs every system call of the
/// host one look-up. This form walks many buffers with `bpf_loop`, which needs Linux 5.17.
#[raw_tracepoint(tracepoint = "sys_exit")]
#[inline(always)]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let (regs, result) = (|| Regs(ctx.arg(0)), ctx.arg::<u64>(1) as i64);
    syscall::on_exit(&ctx, regs, result, Walk::WithLoop).unwrap_or_else(count_drop)
}

/// The same for kernels without `bpf_loop`: fewer buffers, in an ordinary bounded loop.
#[raw_tracepoint(tracepoint = "sys_exit")]
#[inline(always)]
pub fn sys_exit_unrolled(ctx: RawTracePointContext) -> i32 {
    let (regs, result) = (|| Regs(ctx.arg(0)), ctx.arg::<u64>(1) as i64);
    syscall::on_exit(&ctx, regs, result, Walk::Unrolled).unwrap_or_else(count_drop)
}

/// The same for Linux 7.2 and newer, which runs raw tracepoint programs of system calls with preemption on
/// and, while a task is preempted inside one, skips it for every other task on that CPU.
///
/// Hook: tracepoint `raw_syscalls:sys_exit`, by way of perf, which still turns preemption off. Its record
/// holds number and result; the registers are the task's.
#[tracepoint]
#[inline(always)]
pub fn sys_exit_perf(ctx: TracePointContext) -> u32 {
    let outcome = match record(&ctx, RECORD_RESULT) {
        Ok(result) => syscall::on_exit(&ctx, || Regs(raw::task_regs()), result, Walk::WithLoop),
        Err(reason) => Err(reason),
    };
    outcome.unwrap_or_else(count_drop) as u32
}

/// The end of connections: `close` and `dup2` as they begin, when the descriptor still leads to its socket.
///
/// Hook: raw tracepoint `sys_enter(struct pt_regs *regs, long id)`. The number is an argument of the
/// tracepoint, so any other system call costs a comparison.
#[raw_tracepoint(tracepoint = "sys_enter")]
#[inline(always)]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    lifecycle::on_enter(&ctx, || Regs(ctx.arg(0)), ctx.arg(1)).unwrap_or_else(count_drop)
}

/// The same for Linux 7.2 and newer, see [`sys_exit_perf`].
///
/// Hook: tracepoint `raw_syscalls:sys_enter`.
#[tracepoint]
#[inline(always)]
pub fn sys_enter_perf(ctx: TracePointContext) -> u32 {
    let on_enter = |number| lifecycle::on_enter(&ctx, || Regs(raw::task_regs()), number);
    record::<u64>(&ctx, RECORD_NUMBER).and_then(on_enter).unwrap_or_else(count_drop) as u32
}

/// Children of a target's processes belong to the target; those of others are noticed, while user space looks for some.
///
/// Hook: raw tracepoint `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, in
/// the context of the parent, before the child runs.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
#[inline(always)]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    lifecycle::on_fork(&ctx).unwrap_or_else(count_drop)
}

/// A process of a target is gone.
///
/// Hook: raw tracepoint `sched_process_exit(struct task_struct *task, ..)`, in the context of the task,
/// before its descriptors are closed.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
#[inline(always)]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    lifecycle::on_exit(&ctx).unwrap_or_else(count_drop)
}

/// A process, any of the host's, has become another program. Attached while there is a target that may get processes
/// at any time: one that is known by their port, their program, their unit or their container.
///
/// Hook: raw tracepoint `sched_process_exec(struct task_struct *task, ..)`, in the context of the task, when its new
/// program, name and control group are in place.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(_ctx: RawTracePointContext) -> i32 {
    lifecycle::on_exec().unwrap_or_else(count_drop)
}

/// A process, any of the host's, was moved to another control group. Attached with [`process_exec`].
///
/// Hook: raw tracepoint `cgroup_attach_task(struct cgroup *, const char *path, struct task_struct *task, ..)`, when it
/// is done, in the context of whoever does it.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub fn process_move(ctx: RawTracePointContext) -> i32 {
    lifecycle::on_move(ctx.arg(2)).unwrap_or_else(count_drop)
}

/// Records of `raw_syscalls` begin with the number; `sys_exit` goes on with the result
/// (include/trace/events/syscalls.h).
const RECORD_NUMBER: u64 = 8;
const RECORD_RESULT: u64 = 16;

#[inline(always)]
fn record<T: Copy>(ctx: &TracePointContext, offset: u64) -> Result<T, DropReason> {
    raw::read_kernel(ctx.as_ptr() as u64 + offset).ok_or(DropReason::KernelFault)
}

/// `bpf_probe_read_*` and the ring buffer are for GPL-compatible programs.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here panics: were a panic reachable, this loop would make the verifier refuse the program.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Only so that the crate can be linted on the host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
