//! close, fork, exit; and what processes do that may make them a target.

use agent_common::{
    conn::{ConnId, Direction, role},
    drops::DropReason,
    event::{Kind, RecordHeader},
};
use aya_ebpf::{EbpfContext, programs::RawTracePointContext};
use aya_log_ebpf::debug;

use crate::{
    arch::{self, Abi, Regs, nr, nr32},
    conns,
    emit::{self, Wake},
    maps::{CONNS, SETTINGS, TARGETS, UNTOLD},
    raw, socket,
    target::{self, Current},
};

/// The beginning of system call `number`: `close(fd)`, or `dup2(old, new)`, which closes `new`; or `listen(fd)`, of
/// whichever process.
#[inline(always)]
pub fn on_enter(ctx: &impl EbpfContext, regs: impl FnOnce() -> Regs, number: u64) -> Result<i32, DropReason> {
    let closes = |number: u64| matches!(number, nr::CLOSE | nr::DUP2 | nr::DUP3);
    if matches!(number, nr::LISTEN | nr32::LISTEN) && raw::tells_processes() {
        return on_listen(regs(), number);
    }
    let (native, compat) = (Some(number), arch::native_of_compat(number));
    if !native.is_some_and(closes) && !compat.is_some_and(closes) {
        return Ok(0);
    }
    let Some(current) = target::current() else { return Ok(0) };
    let abi = Abi::current();
    let number = match abi {
        Abi::Native => native,
        Abi::Compat => compat,
    };
    let Some(number) = number.filter(|number| closes(*number)) else { return Ok(0) };
    let args = regs().read()?.args(abi);
    let closed = if number == nr::CLOSE {
        args.fd
    } else if args.second as u32 == args.fd {
        return Ok(0);
    } else {
        args.second as u32
    };
    if let Some(conn) = closing(current, closed)? {
        debug!(ctx, "pid {}: connection {} closed", current.pid, conn);
    }
    Ok(0)
}

/// Ends the connection behind `fd` when this is its last descriptor; its number when it was watched.
#[inline(always)]
fn closing(current: Current, fd: u32) -> Result<Option<ConnId>, DropReason> {
    let Some(socket) = socket::find(fd)? else { return Ok(None) };
    let Some(state) = raw::conn_state(socket.conn) else { return Ok(None) };
    if !socket.is_last_reference()? {
        return Ok(None);
    }
    let watched = state.role == role::SERVER;
    if watched {
        // What moved behind our back is in the record of the close.
        let _ = conns::advance(state, Direction::Egress, 0, 0);
    }
    let header = RecordHeader::closed(socket.conn, state, current.pid, raw::now_ns());
    // Not there: removed by another thread's close a moment ago.
    let _ = CONNS.remove(socket.conn);
    if !watched {
        return Ok(None);
    }
    if emit::control(&header, Wake::WhenWorthwhile).is_none() {
        raw::add_turns(&UNTOLD, header.target, u64::from(header.original_len));
        return Err(DropReason::RingFullControl);
    }
    Ok(Some(socket.conn))
}

/// A process begins to listen on a TCP port. One that was given none by `bind` gets any, and nobody looks for that.
#[inline(always)]
fn on_listen(regs: Regs, number: u64) -> Result<i32, DropReason> {
    let abi = Abi::current();
    let listens = match abi {
        Abi::Native => number == nr::LISTEN,
        Abi::Compat => number == nr32::LISTEN,
    };
    if !listens {
        return Ok(0);
    }
    let Some(socket) = socket::find(regs.read()?.args(abi).fd)? else { return Ok(0) };
    match socket.stream()? {
        Some(stream) if stream.local_port != 0 => {
            notice(raw::current_pid(), Some((socket.conn, stream.local_port)), Wake::Now)
        }
        _ => Ok(0),
    }
}

/// The current process has become another program.
#[inline(always)]
pub fn on_exec() -> Result<i32, DropReason> {
    notice(raw::current_pid(), None, Wake::Now)
}

/// The process of a `struct task_struct *` was moved to another control group.
#[inline(always)]
pub fn on_move(task: u64) -> Result<i32, DropReason> {
    let pid = raw::read_kernel(task + u64::from(SETTINGS.load().task_tgid)).ok_or(DropReason::KernelFault)?;
    notice(pid, None, Wake::Now)
}

/// Tells of a process that a target may be looking for, and of the socket and port if it begins to listen.
#[inline(always)]
fn notice(pid: u32, listener: Option<(ConnId, u16)>, wake: Wake) -> Result<i32, DropReason> {
    let ktime_ns = raw::now_ns();
    let (socket, local_port) = listener.unwrap_or_default();
    let header = RecordHeader {
        ktime_ns,
        conn: socket,
        pid,
        local_port,
        kind: Kind::Notice as u8,
        ..RecordHeader::default()
    };
    let may_wake = wake == Wake::Now && raw::may_wake_for_notice(ktime_ns);
    let wake = if may_wake { Wake::Now } else { Wake::WhenWorthwhile };
    emit::control(&header, wake).ok_or(DropReason::NoticeLost)?;
    Ok(0)
}

#[inline(always)]
pub fn on_fork(ctx: &RawTracePointContext) -> Result<i32, DropReason> {
    let current = target::current();
    if current.is_none() && !raw::tells_processes() {
        return Ok(0);
    }
    let child = ctx.arg::<u64>(1);
    let pid: u32 =
        raw::read_kernel(child + u64::from(SETTINGS.load().task_tgid)).ok_or(DropReason::KernelFault)?;
    if pid == raw::current_pid() {
        return Ok(0); // a thread
    }
    // Whoever it was that became what is looked for may be gone before user space looks: a daemon's parent.
    // While it is there it is enough to find that one, so nobody need hurry.
    let Some(current) = current else { return notice(pid, None, Wake::WhenWorthwhile) };
    TARGETS.insert(pid, current.target, 0).map_err(|_| DropReason::TargetsFull)?;
    raw::fill_pid_slot(pid, current.target);
    debug!(ctx, "pid {}: forked {}", current.pid, pid);
    process(Current { pid, ..current }, Kind::ProcessForked)
}

#[inline(always)]
pub fn on_exit(ctx: &RawTracePointContext) -> Result<i32, DropReason> {
    let Some(current) = target::current() else { return Ok(0) };
    let at = SETTINGS.load();
    // The kernel lowers the count of live threads before it runs the tracepoint (kernel/exit.c, do_exit).
    let signal: u64 =
        raw::read_kernel(raw::current_task() + u64::from(at.task_signal)).ok_or(DropReason::KernelFault)?;
    let live: u32 = raw::read_kernel(signal + u64::from(at.signal_live)).ok_or(DropReason::KernelFault)?;
    if live > 0 {
        return Ok(0); // a thread
    }
    raw::spoil_pid_slot(current.pid);
    // Not there: removed by user space a moment ago.
    let _ = TARGETS.remove(current.pid);
    debug!(ctx, "pid {}: exited", current.pid);
    process(current, Kind::ProcessExited)
}

#[inline(always)]
fn process(process: Current, kind: Kind) -> Result<i32, DropReason> {
    let header = RecordHeader {
        ktime_ns: raw::now_ns(),
        target: process.target,
        pid: process.pid,
        kind: kind as u8,
        ..RecordHeader::default()
    };
    emit::control(&header, Wake::Now).ok_or(DropReason::RingFullControl)?;
    Ok(0)
}
