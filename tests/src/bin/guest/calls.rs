//! System calls that move bytes on a socket, one way each.
//!
//! On x86-64 `send` is `sendto` and `recv` is `recvfrom` without an address, so there are not two of them here.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use clap::ValueEnum;
use rustix::io::ReadWriteFlags;
use rustix::net::{
    MMsgHdr, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvfrom, recvmsg, send,
    sendmmsg, sendmsg,
};
use rustix::pipe::{SpliceFlags, pipe, splice};

/// `preadv2` and `pwritev2` without a position, which sockets do not have (readv(2)).
const NO_POSITION: u64 = u64::MAX;
/// What a pipe holds (pipe(7)).
const PIPE_BYTES: usize = 65_536;

/// A way to take bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Receive {
    Read,
    Recv,
    /// Asks who sent it.
    Recvfrom,
    /// Into three buffers, the first two of them small.
    Readv,
    Preadv2,
    Recvmsg,
    /// Up to three messages at once, the first two of them small.
    Recvmmsg,
    /// Looks at the bytes before it takes them.
    Peek,
    /// Reads the head and lets the kernel throw the body away.
    Discard,
    /// Reads the head and leads the body through a pipe.
    Splice,
}

impl Receive {
    /// Whether bodies pass through the process.
    pub fn reads_bodies(self) -> bool {
        !matches!(self, Self::Discard | Self::Splice)
    }

    /// Takes what there is, at most as much as fits. 0: the peer has ended.
    pub fn take(self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match self {
            Self::Read | Self::Discard | Self::Splice => rustix::io::read(socket, buffer)?,
            Self::Recv => recv(socket, buffer, RecvFlags::empty())?.0,
            Self::Recvfrom => recvfrom(socket, buffer, RecvFlags::empty())?.0,
            Self::Readv => rustix::io::readv(socket, &mut parts(buffer))?,
            Self::Preadv2 => {
                rustix::io::preadv2(socket, &mut parts(buffer), NO_POSITION, ReadWriteFlags::empty())?
            }
            Self::Recvmsg => {
                let mut control = RecvAncillaryBuffer::default();
                recvmsg(socket, &mut parts(buffer), &mut control, RecvFlags::empty())?.bytes
            }
            Self::Recvmmsg => receive_messages(socket, &mut parts(buffer))?,
            Self::Peek => {
                recv(socket, &mut *buffer, RecvFlags::PEEK)?;
                rustix::io::read(socket, buffer)?
            }
        };
        Ok(length)
    }

    /// Takes at most `most` bytes of a body without looking at them.
    pub fn throw_away(self, socket: BorrowedFd<'_>, most: usize, room: &mut [u8]) -> io::Result<usize> {
        let most = most.min(room.len());
        match self {
            Self::Discard => Ok(recv(socket, &mut room[..most], RecvFlags::TRUNC)?.0),
            Self::Splice => {
                let (out, into) = pipe()?;
                let length = splice(socket, None, into, None, most.min(PIPE_BYTES), SpliceFlags::empty())?;
                drop(out);
                Ok(length)
            }
            _ => self.take(socket, &mut room[..most]),
        }
    }
}

/// Parts of a buffer, the first ones small and of uneven length.
fn parts(buffer: &mut [u8]) -> [IoSliceMut<'_>; 3] {
    let (first, rest) = buffer.split_at_mut(7.min(buffer.len()));
    let (second, rest) = rest.split_at_mut(100.min(rest.len()));
    [first, second, rest].map(IoSliceMut::new)
}

/// One message for each buffer; waits for the first of them only.
fn receive_messages(socket: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>; 3]) -> io::Result<usize> {
    let mut messages = buffers.each_mut().map(|buffer| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: std::ptr::from_mut(buffer).cast(),
            msg_iovlen: 1,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    });
    // SAFETY: each message names one buffer, `IoSliceMut` is an iovec by its documentation, and the buffers are
    // borrowed for as long as the call takes.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            3,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok(messages[..count].iter().map(|message| message.msg_len as usize).sum())
}

/// A way to send a head and a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transmit {
    /// One call each.
    Write,
    /// Both in one buffer.
    WriteOnce,
    /// The head in pieces of a few bytes.
    WritePieces,
    /// The head with the promise of more.
    Send,
    Writev,
    /// The body in many buffers, an empty one among them.
    Writev40,
    Writev200,
    Writev900,
    /// The head in many buffers.
    WritevHead,
    Pwritev2,
    Sendmsg,
    /// Head and halves of the body as messages of one call.
    Sendmmsg,
    Sendfile,
    Splice,
}

impl Transmit {
    /// Sends all of it. `file` holds at least as many bytes as the body, which is its beginning.
    pub fn send(self, socket: BorrowedFd<'_>, head: &[u8], body: &[u8], file: &File) -> io::Result<()> {
        match self {
            Self::Write => {
                write_all(socket, head)?;
                write_all(socket, body)
            }
            Self::WriteOnce => write_all(socket, &[head, body].concat()),
            Self::WritePieces => {
                head.chunks(7).try_for_each(|piece| write_all(socket, piece))?;
                write_all(socket, body)
            }
            Self::Send => {
                complete(send(socket, head, SendFlags::MORE)?, head.len())?;
                complete(send(socket, body, SendFlags::empty())?, body.len())
            }
            Self::Writev => write_vectored(socket, &[head, body]),
            Self::Writev40 => write_vectored(socket, &with_pieces(head, body, 39)),
            Self::Writev200 => write_vectored(socket, &with_pieces(head, body, 199)),
            Self::Writev900 => write_vectored(socket, &with_pieces(head, body, 899)),
            Self::WritevHead => {
                let pieces = head.chunks(head.len().div_ceil(39)).chain([body]);
                write_vectored(socket, &pieces.collect::<Vec<_>>())
            }
            Self::Pwritev2 => {
                let buffers = [head, body].map(IoSlice::new);
                let sent = rustix::io::pwritev2(socket, &buffers, NO_POSITION, ReadWriteFlags::empty())?;
                complete(sent, head.len() + body.len())
            }
            Self::Sendmsg => {
                let (mut control, buffers) = (SendAncillaryBuffer::default(), [head, body].map(IoSlice::new));
                let sent = sendmsg(socket, &buffers, &mut control, SendFlags::empty())?;
                complete(sent, head.len() + body.len())
            }
            Self::Sendmmsg => send_messages(socket, head, body),
            Self::Sendfile => {
                complete(send(socket, head, SendFlags::MORE)?, head.len())?;
                let mut sent = 0;
                while sent < body.len() as u64 {
                    let left = body.len() - usize::try_from(sent).expect("it is less than a length");
                    let length = rustix::fs::sendfile(socket, file, Some(&mut sent), left)?;
                    complete(length.min(1), 1)?;
                }
                Ok(())
            }
            Self::Splice => {
                complete(send(socket, head, SendFlags::MORE)?, head.len())?;
                splice_all(socket, body.len() as u64, file)
            }
        }
    }
}

fn send_messages(socket: BorrowedFd<'_>, head: &[u8], body: &[u8]) -> io::Result<()> {
    let (first, second) = body.split_at(body.len() / 2);
    let parts = [head, first, second].map(|part| [IoSlice::new(part)]);
    let mut controls = [(); 3].map(|()| SendAncillaryBuffer::default());
    let mut controls = controls.iter_mut();
    let mut messages =
        parts.each_ref().map(|part| MMsgHdr::new(part, controls.next().expect("there is one for each part")));
    let sent = sendmmsg(socket, &mut messages, SendFlags::empty())?;
    complete(sent, messages.len())?;
    complete(messages.iter().map(MMsgHdr::bytes_sent).sum(), head.len() + body.len())
}

fn splice_all(socket: BorrowedFd<'_>, length: u64, file: &File) -> io::Result<()> {
    let (out, into) = pipe()?;
    let mut at = 0;
    while at < length {
        let most = usize::try_from(length - at).expect("bodies fit into memory").min(PIPE_BYTES);
        let mut in_pipe = splice(file, Some(&mut at), &into, None, most, SpliceFlags::empty())?;
        complete(in_pipe.min(1), 1)?;
        while in_pipe > 0 {
            in_pipe -= splice(&out, None, socket, None, in_pipe, SpliceFlags::MORE)?;
        }
    }
    Ok(())
}

/// The head, and the body in `count` buffers of which one is empty.
fn with_pieces<'a>(head: &'a [u8], body: &'a [u8], count: usize) -> Vec<&'a [u8]> {
    let (mut buffers, mut rest, length) = (vec![head], body, body.len() / count);
    for index in 1..count {
        let (piece, after) = rest.split_at(if index == 5 { 0 } else { length });
        buffers.push(piece);
        rest = after;
    }
    buffers.push(rest);
    buffers
}

pub fn write_all(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    complete(rustix::io::write(socket, bytes)?, bytes.len())
}

pub fn write_vectored(socket: impl AsFd, buffers: &[&[u8]]) -> io::Result<()> {
    let slices: Vec<IoSlice<'_>> = buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
    complete(rustix::io::writev(socket, &slices)?, buffers.iter().map(|buffer| buffer.len()).sum())
}

/// Blocking sockets take all that they are given, unless a signal comes, and we send none.
fn complete(done: usize, asked: usize) -> io::Result<()> {
    if done == asked {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, format!("{done} of {asked} were sent")))
}
