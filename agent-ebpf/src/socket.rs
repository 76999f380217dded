//! fd -> socket, by field offsets that user space found in kernel BTF.

use agent_common::{
    conn::{ConnId, Direction},
    drops::DropReason,
    event::Peer,
};

use crate::{maps::SETTINGS, raw};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const SOCK_STREAM: u16 = 1;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
/// include/net/tcp_states.h
const TCP_CLOSE: u8 = 7;
/// From `i_mode` to `i_ino` in a kernel with access lists and security modules (include/linux/fs.h).
const INO_BEHIND_MODE: u32 = 64;
/// Bits of `sk_shutdown` (include/net/sock.h).
const RCV_SHUTDOWN: u8 = 1;
const SEND_SHUTDOWN: u8 = 2;

/// A descriptor of the current process that leads to a socket.
#[derive(Clone, Copy)]
pub struct Socket {
    pub conn: ConnId,
    /// `struct file *`.
    pub file: u64,
}

/// What kind of connection a stream socket is.
#[derive(Clone, Copy)]
pub struct Stream {
    /// Local TCP port; 0 for a Unix socket.
    pub local_port: u16,
    pub sock: Sock,
    /// Whether this is TCP and nothing above it, such as MPTCP, whose `struct sock` is another.
    pub is_tcp: bool,
}

/// `struct sock *`
#[derive(Clone, Copy)]
pub struct Sock(pub u64);

/// Follows `current->files->fdt->fd[fd]`. `None`: no descriptor, or no socket behind it.
///
/// The table is read without a lock: a thread that closes the descriptor meanwhile can make us miss the
/// call, or read a structure that was freed a moment ago, whose inode then leads to no connection we know.
#[inline(always)]
pub fn find(fd: u32) -> Result<Option<Socket>, DropReason> {
    let at = SETTINGS.load();
    let files: u64 = kernel(raw::current_task(), at.task_files)?;
    let fdt: u64 = kernel(files, at.files_fdt)?;
    let [max_fds, table]: [u64; 2] = kernel(fdt, at.fdt_max_fds)?;
    if fd >= max_fds as u32 {
        return Ok(None);
    }
    let file: u64 = raw::read_kernel(table + u64::from(fd) * 8).ok_or(DropReason::KernelFault)?;
    if file == 0 {
        return Ok(None);
    }
    let (mode, number) = inode(kernel(file, at.file_inode)?)?;
    Ok((mode & S_IFMT == S_IFSOCK).then_some(Socket { conn: number, file }))
}

/// Mode and number of an inode: in one look where they lie as in most kernels.
#[inline(always)]
fn inode(inode: u64) -> Result<(u16, u64), DropReason> {
    let at = SETTINGS.load();
    if at.inode_ino == at.inode_mode + INO_BEHIND_MODE {
        let [mode, .., number]: [u64; INO_BEHIND_MODE as usize / 8 + 1] = kernel(inode, at.inode_mode)?;
        return Ok((mode as u16, number));
    }
    Ok((kernel(inode, at.inode_mode)?, kernel(inode, at.inode_ino)?))
}

impl Socket {
    /// Whether this is a connection we watch: a TCP or Unix stream socket.
    #[inline(always)]
    pub fn stream(self) -> Result<Option<Stream>, DropReason> {
        let at = SETTINGS.load();
        let socket: u64 = kernel(self.file, at.file_private_data)?;
        let kind: u16 = kernel(socket, at.socket_type)?;
        if kind != SOCK_STREAM {
            return Ok(None);
        }
        let sock: u64 = kernel(socket, at.socket_sk)?;
        let family: u16 = kernel(sock, at.sock_family)?;
        Ok(match family {
            AF_INET | AF_INET6 => {
                let protocol: u16 = kernel(sock, at.sock_protocol)?;
                let local_port = kernel(sock, at.sock_num)?;
                Some(Stream { local_port, sock: Sock(sock), is_tcp: protocol == IPPROTO_TCP })
            }
            AF_UNIX => Some(Stream { local_port: 0, sock: Sock(sock), is_tcp: false }),
            _ => None,
        })
    }

    /// Whether the current descriptor is the only thing that keeps the socket open. A thread that is inside
    /// a call on the same socket holds a reference of its own, so this may say no where yes would be true,
    /// never the other way round.
    #[inline(always)]
    pub fn is_last_reference(self) -> Result<bool, DropReason> {
        let at = SETTINGS.load();
        let count: u64 = kernel(self.file, at.file_count)?;
        Ok(count == u64::from(at.file_count_one))
    }
}

impl Sock {
    /// What the kernel's counter of bytes taken from, or put into, a TCP connection reads.
    #[inline(always)]
    pub fn sequence(self, direction: Direction) -> Result<u32, DropReason> {
        let at = SETTINGS.load();
        match direction {
            Direction::Ingress => kernel(self.0, at.tcp_copied_seq),
            Direction::Egress => kernel(self.0, at.tcp_write_seq),
        }
    }

    /// The other end of a TCP connection; None for what has none.
    #[inline(always)]
    pub fn peer(self) -> Result<Option<Peer>, DropReason> {
        let at = SETTINGS.load();
        let port = u16::from_be(kernel(self.0, at.sock_dport)?);
        let family: u16 = kernel(self.0, at.sock_family)?;
        Ok(match family {
            AF_INET => Some(Peer::mapped(kernel(self.0, at.sock_daddr)?, port)),
            AF_INET6 if at.sock_v6_daddr != 0 => Some(Peer {
                first: kernel(self.0, at.sock_v6_daddr)?,
                third: kernel(self.0, at.sock_v6_daddr + 8)?,
                fourth: kernel(self.0, at.sock_v6_daddr + 12)?,
                port,
            }),
            _ => None,
        })
    }

    /// Whether a direction is at its end: it was shut down by either side, or the connection is no more.
    #[inline(always)]
    pub fn has_ended(self, direction: Direction) -> Result<bool, DropReason> {
        let at = SETTINGS.load();
        let bit = match direction {
            Direction::Ingress => RCV_SHUTDOWN,
            Direction::Egress => SEND_SHUTDOWN,
        };
        let shutdown: u8 = kernel(self.0, at.sock_shutdown)?;
        let state: u8 = kernel(self.0, at.sock_state)?;
        Ok(shutdown & bit != 0 || state == TCP_CLOSE)
    }

    /// Whether something between the process and TCP takes or adds bytes: kernel TLS, or a sockmap.
    #[inline(always)]
    pub fn is_layered(self) -> Result<bool, DropReason> {
        let at = SETTINGS.load();
        let protocol: u64 = kernel(self.0, at.tcp_ulp)?;
        let redirection: u64 = kernel(self.0, at.sock_user_data)?;
        Ok(protocol != 0 || redirection != 0)
    }
}

#[inline(always)]
fn kernel<T: Copy>(base: u64, offset: u32) -> Result<T, DropReason> {
    raw::read_kernel(base + u64::from(offset)).ok_or(DropReason::KernelFault)
}
