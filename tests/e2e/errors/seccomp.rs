//! A kernel without eBPF, as seccomp profiles of container runtimes make one.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What bpf() is forbidden.
#[derive(Clone, Copy, Debug)]
pub enum Forbidden {
    Everything,
    /// One of its commands, `BPF_PROG_LOAD` and so on in include/uapi/linux/bpf.h.
    Command(u32),
}

/// Has bpf() fail with this error number in the process that `command` starts.
pub fn forbid_bpf(command: &mut Command, what: Forbidden, errno: i32) {
    let mut filter = program(what, errno.unsigned_abs());
    // SAFETY: between fork and exec the closure allocates nothing, takes no locks and makes one system call.
    unsafe { command.pre_exec(move || install(&mut filter)) };
}

/// Answers bpf() with an error, and lets everything else pass. The architecture is not looked at: nothing that the
/// agent starts has another than ours.
fn program(what: Forbidden, errno: u32) -> Vec<libc::sock_filter> {
    // Places in struct seccomp_data: the number of the system call; the low half of its first argument.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let load = |place| step((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, place, 0, 0);
    let equals = |value, jt, jf| step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, value, jt, jf);
    let answer = |action| step((libc::BPF_RET | libc::BPF_K) as u16, action, 0, 0);
    let bpf = u32::try_from(libc::SYS_bpf).expect("numbers of system calls are small");
    let (pass, fail) = (answer(libc::SECCOMP_RET_ALLOW), answer(libc::SECCOMP_RET_ERRNO | errno));
    match what {
        Forbidden::Everything => vec![load(NUMBER), equals(bpf, 0, 1), fail, pass],
        Forbidden::Command(command) => {
            let is_command = equals(command, 0, 1);
            vec![load(NUMBER), equals(bpf, 0, 3), load(FIRST_ARGUMENT), is_command, fail, pass]
        }
    }
}

fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).expect("a handful of steps");
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the pointers lead to a program of that length that outlives the call; the kernel copies it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
