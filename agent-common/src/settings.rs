//! What user space tells the programs before they are attached: constants for the verifier.

/// Field offsets in bytes, from the kernel's BTF, and the few values that differ between kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub task_files: u32,
    pub task_tgid: u32,
    pub task_signal: u32,
    pub signal_live: u32,
    /// `thread_info.status` within `task_struct`; says whether a system call is a 32-bit one (x86).
    pub task_thread_status: u32,
    pub files_fdt: u32,
    /// `fdtable.max_fds`, a u32 that 8 bytes are left for; `fdtable.fd` is behind them.
    pub fdt_max_fds: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    /// The reference count: `f_count` up to 6.12, `f_ref.refcnt` from 6.13.
    pub file_count: u32,
    pub inode_mode: u32,
    pub inode_ino: u32,
    pub socket_sk: u32,
    pub socket_type: u32,
    pub sock_family: u32,
    pub sock_num: u32,
    pub sock_state: u32,
    pub sock_shutdown: u32,
    pub sock_protocol: u32,
    pub sock_user_data: u32,
    /// The other end: its IPv4 address, its port, and its IPv6 address, which is 0 in a kernel without IPv6.
    pub sock_daddr: u32,
    pub sock_dport: u32,
    pub sock_v6_daddr: u32,
    pub tcp_ulp: u32,
    /// Bytes the process has taken from a TCP connection, modulo 2^32, from an arbitrary start.
    pub tcp_copied_seq: u32,
    /// Bytes it has put in, likewise.
    pub tcp_write_seq: u32,
    /// What the reference count of a file reads when one reference is left: 1 up to 6.12, 0 from 6.13
    /// (`FILE_REF_ONEREF`).
    pub file_count_one: u32,
    /// User space is woken each time when so many more bytes wait; a power of two.
    pub wakeup_bytes: u32,
    /// Waiting bytes beyond which there is no room for data. What is left is for records without any: an end, a
    /// close, a process.
    pub data_bytes: u32,
}
