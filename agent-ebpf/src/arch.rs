//! Where a system call's number and arguments lie: x86-64, and the 32-bit calls that it also takes.
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
    pub const LISTEN: u64 = 50;
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

/// Numbers of arch/x86/entry/syscalls/syscall_32.tbl.
pub mod nr32 {
    pub const READ: u64 = 3;
    pub const WRITE: u64 = 4;
    pub const CLOSE: u64 = 6;
    pub const DUP2: u64 = 63;
    pub const SOCKETCALL: u64 = 102;
    pub const READV: u64 = 145;
    pub const WRITEV: u64 = 146;
    pub const SENDFILE: u64 = 187;
    pub const SENDFILE64: u64 = 239;
    pub const SPLICE: u64 = 313;
    pub const DUP3: u64 = 330;
    pub const RECVMMSG: u64 = 337;
    pub const SENDMMSG: u64 = 345;
    pub const CONNECT: u64 = 362;
    pub const LISTEN: u64 = 363;
    pub const ACCEPT4: u64 = 364;
    pub const SENDTO: u64 = 369;
    pub const SENDMSG: u64 = 370;
    pub const RECVFROM: u64 = 371;
    pub const RECVMSG: u64 = 372;
    pub const SHUTDOWN: u64 = 373;
    pub const PREADV2: u64 = 378;
    pub const PWRITEV2: u64 = 379;
    pub const RECVMMSG_TIME64: u64 = 417;
}

/// What `socketcall` of the 32-bit calls does (include/uapi/linux/net.h).
pub mod socketcall {
    pub const CONNECT: u64 = 3;
    pub const ACCEPT: u64 = 5;
    pub const SEND: u64 = 9;
    pub const RECV: u64 = 10;
    pub const SENDTO: u64 = 11;
    pub const RECVFROM: u64 = 12;
    pub const SHUTDOWN: u64 = 13;
    pub const SENDMSG: u64 = 16;
    pub const RECVMSG: u64 = 17;
    pub const ACCEPT4: u64 = 18;
    pub const RECVMMSG: u64 = 19;
    pub const SENDMMSG: u64 = 20;
}

/// The native number of the call that a 32-bit one is, for those that we look at. `socketcall` is several.
#[inline(always)]
pub fn native_of_compat(number: u64) -> Option<u64> {
    Some(match number {
        nr32::READ => nr::READ,
        nr32::WRITE => nr::WRITE,
        nr32::CLOSE => nr::CLOSE,
        nr32::DUP2 => nr::DUP2,
        nr32::DUP3 => nr::DUP3,
        nr32::READV => nr::READV,
        nr32::WRITEV => nr::WRITEV,
        nr32::SENDFILE | nr32::SENDFILE64 => nr::SENDFILE,
        nr32::SPLICE => nr::SPLICE,
        nr32::RECVMMSG | nr32::RECVMMSG_TIME64 => nr::RECVMMSG,
        nr32::SENDMMSG => nr::SENDMMSG,
        nr32::CONNECT => nr::CONNECT,
        nr32::ACCEPT4 => nr::ACCEPT4,
        nr32::SENDTO => nr::SENDTO,
        nr32::SENDMSG => nr::SENDMSG,
        nr32::RECVFROM => nr::RECVFROM,
        nr32::RECVMSG => nr::RECVMSG,
        nr32::SHUTDOWN => nr::SHUTDOWN,
        nr32::PREADV2 => nr::PREADV2,
        nr32::PWRITEV2 => nr::PWRITEV2,
        nr::IO_URING_SETUP | nr::IO_URING_ENTER => number, // the same in both
        _ => return None,
    })
}

/// The native number of what `socketcall` does.
#[inline(always)]
pub fn native_of_socketcall(call: u64) -> Option<u64> {
    Some(match call {
        socketcall::CONNECT => nr::CONNECT,
        socketcall::ACCEPT | socketcall::ACCEPT4 => nr::ACCEPT,
        socketcall::SEND | socketcall::SENDTO => nr::SENDTO,
        socketcall::RECV | socketcall::RECVFROM => nr::RECVFROM,
        socketcall::SHUTDOWN => nr::SHUTDOWN,
        socketcall::SENDMSG => nr::SENDMSG,
        socketcall::RECVMSG => nr::RECVMSG,
        socketcall::RECVMMSG => nr::RECVMMSG,
        socketcall::SENDMMSG => nr::SENDMMSG,
        _ => return None,
    })
}

/// Bit of `thread_info.status`: the task is in a 32-bit system call (arch/x86/include/asm/thread_info.h).
const TS_COMPAT: u32 = 2;

/// `struct pt_regs` (arch/x86/include/asm/ptrace.h), from the first register that holds an argument of a
/// 32-bit call to the last that holds one of any; at the end of a system call the arguments are still there.
const BX: u64 = 40;

/// Where the registers of a system call are.
#[derive(Clone, Copy)]
pub struct Regs(pub u64);

/// What they hold, from `BX` to `ORIG_AX`.
#[derive(Clone, Copy)]
pub struct Registers([u64; 11]);

/// How a process passes numbers and structures to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    Native,
    /// 32-bit calls: numbers, registers and structures of their own.
    Compat,
}

/// Arguments of a system call.
#[derive(Clone, Copy)]
pub struct Args {
    /// The first, as a descriptor: the upper half of the register is garbage.
    pub fd: u32,
    pub second: u64,
    pub third: u64,
    pub fourth: u64,
}

impl Regs {
    /// All at once: a look into kernel memory costs more than the words that it copies.
    #[inline(always)]
    pub fn read(self) -> Result<Registers, DropReason> {
        raw::read_kernel(self.0 + BX).map(Registers).ok_or(DropReason::KernelFault)
    }
}

impl Registers {
    /// The system call's number.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        self.0[10]
    }

    #[inline(always)]
    pub fn args(&self, abi: Abi) -> Args {
        let [bx, _r11, r10, _r9, _r8, _ax, cx, dx, si, di, _orig_ax] = self.0;
        match abi {
            Abi::Native => Args { fd: di as u32, second: si, third: dx, fourth: r10 },
            Abi::Compat => Args {
                fd: bx as u32,
                second: u64::from(cx as u32),
                third: u64::from(dx as u32),
                fourth: u64::from(si as u32),
            },
        }
    }
}

impl Args {
    /// The arguments of the call that `socketcall` stands for: an array of words in the process's memory.
    #[inline(always)]
    pub fn of_socketcall(self) -> Result<Args, DropReason> {
        let [fd, second, third, fourth]: [u32; 4] =
            raw::read_user(self.second).ok_or(DropReason::UserFault)?;
        Ok(Args { fd, second: second.into(), third: third.into(), fourth: fourth.into() })
    }
}

impl Abi {
    /// That of the system call the current task is in.
    #[inline(always)]
    pub fn current() -> Self {
        let address = raw::current_task() + u64::from(SETTINGS.load().task_thread_status);
        let status = raw::read_kernel::<u32>(address).unwrap_or(0);
        if status & TS_COMPAT != 0 { Self::Compat } else { Self::Native }
    }

    /// Size of `struct iovec`: an address and a length.
    pub const fn iovec_len(self) -> u64 {
        match self {
            Self::Native => 16,
            Self::Compat => 8,
        }
    }

    /// Address and length of the buffer that the `struct iovec` at `address` describes.
    #[inline(always)]
    pub fn iovec(self, address: u64) -> Option<[u64; 2]> {
        match self {
            Self::Native => raw::read_user(address),
            Self::Compat => {
                let [address, len]: [u32; 2] = raw::read_user(address)?;
                Some([address.into(), len.into()])
            }
        }
    }

    /// `msg_iov` and `msg_iovlen` of the `struct msghdr` at `address`.
    #[inline(always)]
    pub fn message_iovecs(self, address: u64) -> Option<[u64; 2]> {
        match self {
            Self::Native => raw::read_user(address + 16),
            Self::Compat => {
                let [iovecs, count]: [u32; 2] = raw::read_user(address + 8)?;
                Some([iovecs.into(), count.into()])
            }
        }
    }

    /// Size of `struct mmsghdr`, a `struct msghdr` and the length of what it moved, and where that length is.
    pub const fn mmsghdr(self) -> (u64, u64) {
        match self {
            Self::Native => (64, 56),
            Self::Compat => (32, 28),
        }
    }
}
