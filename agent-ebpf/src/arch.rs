//! Where a system call's number and arguments lie: x86-64.
//!
//! Another architecture is another `Regs` and another list of numbers; nothing else in this crate knows.

use agent_common::drops::DropReason;

use crate::{maps::SETTINGS, raw};

/// Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
pub mod nr {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const DUP2: u64 = 33;
    pub const SENDFILE: u64 = 40;
    pub const CONNECT: u64 = 42;
    pub const ACCEPT: u64 = 43;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SHUTDOWN: u64 = 48;
    pub const SPLICE: u64 = 275;
    pub const ACCEPT4: u64 = 288;
    pub const DUP3: u64 = 292;
    pub const RECVMMSG: u64 = 299;
    pub const SENDMMSG: u64 = 307;
    pub const PREADV2: u64 = 327;
    pub const PWRITEV2: u64 = 328;
    pub const IO_URING_SETUP: u64 = 425;
    pub const IO_URING_ENTER: u64 = 426;
}

/// Bit of `thread_info.status`: the task is in a 32-bit system call (arch/x86/include/asm/thread_info.h).
const TS_COMPAT: u32 = 2;

/// `struct pt_regs` from `r10` on (arch/x86/include/asm/ptrace.h); at the end of a system call the
/// arguments are still there.
const R10: u64 = 56;
const ORIG_AX: u64 = 120;

/// The registers of a system call.
#[derive(Clone, Copy)]
pub struct Regs(pub u64);

/// Arguments of a system call, as registers hold them.
#[derive(Clone, Copy)]
pub struct Args {
    /// r10, r9, r8, ax, cx, dx, si, di: the order of `struct pt_regs`.
    regs: [u64; 8],
}

impl Regs {
    /// The system call's number.
    #[inline(always)]
    pub fn number(self) -> Result<u64, DropReason> {
        raw::read_kernel(self.0 + ORIG_AX).ok_or(DropReason::KernelFault)
    }

    #[inline(always)]
    pub fn args(self) -> Result<Args, DropReason> {
        Ok(Args { regs: raw::read_kernel(self.0 + R10).ok_or(DropReason::KernelFault)? })
    }
}

impl Args {
    /// Descriptors are 32 bits wide; the upper half of the register is garbage.
    #[inline(always)]
    pub fn fd(&self) -> u32 {
        self.regs[7] as u32
    }

    #[inline(always)]
    pub fn second(&self) -> u64 {
        self.regs[6]
    }

    #[inline(always)]
    pub fn third(&self) -> u64 {
        self.regs[5]
    }

    #[inline(always)]
    pub fn fourth(&self) -> u64 {
        self.regs[0]
    }
}

/// Whether the current system call is a 32-bit one, with numbers and structures of its own.
#[inline(always)]
pub fn is_compat() -> bool {
    let status = raw::read_kernel::<u32>(raw::current_task() + u64::from(SETTINGS.load().task_thread_status));
    status.is_some_and(|status| status & TS_COMPAT != 0)
}
