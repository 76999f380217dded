//! Records: what the kernel side puts into the ring buffer.

use crate::conn::{ConnId, ConnState};

/// Precedes the captured bytes; `captured_len` bytes follow it, then whatever the size class left over.
///
/// A data record says: this direction has moved to `offset + original_len`, and here are the first
/// `captured_len` of the bytes from `offset` on. The rest, and whatever lies between the end of one record
/// and the offset of the next, is a gap of known length.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct RecordHeader {
    /// When the system call returned: CLOCK_MONOTONIC, nanoseconds.
    pub ktime_ns: u64,
    /// [`crate::conn::ConnId`]; 0 in records about processes.
    pub conn: u64,
    /// Position of the first byte in this direction of the connection, in bytes.
    pub offset: u64,
    /// Bytes this record stands for.
    pub original_len: u32,
    /// Bytes that follow the header, at most `original_len`.
    pub captured_len: u32,
    /// Which burst of ingress this belongs to. On a connection without pipelining, the request and its
    /// response share a turn, and turns number the exchanges (an interim 100 splits one in two).
    pub turn: u32,
    /// [`crate::conn::TargetId`].
    pub target: u32,
    /// Process (thread group) in the initial pid namespace: who moved the bytes, was forked, or exited.
    pub pid: u32,
    /// Local TCP port; 0 for a Unix socket.
    pub local_port: u16,
    /// [`Kind`], checked when decoded.
    pub kind: u8,
    /// [`crate::conn::Direction`], checked when decoded.
    pub direction: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Written out: implicit padding is garbage, and `IntoBytes` refuses it. In these pieces a compiler writes it with
    /// three instructions; for seven bytes in an array, one of them at any address, it called a loop.
    pub _pad: u8,
    pub _pad2: u16,
    pub _pad4: u32,
}

impl RecordHeader {
    /// The record of a close, as the kernel side knows the connection.
    #[inline(always)]
    pub fn closed(conn: ConnId, state: &ConnState, pid: u32, ktime_ns: u64) -> Self {
        Self {
            ktime_ns,
            conn,
            offset: state.egress_pos,
            original_len: state.untold,
            turn: state.turn,
            target: state.target,
            pid,
            local_port: state.local_port,
            kind: Kind::Closed as u8,
            flags: if state.from_start == 1 { flag::FROM_START } else { 0 },
            ..Self::default()
        }
    }

    /// The record of who is at the other end.
    #[inline(always)]
    pub fn peer(conn: ConnId, state: &ConnState, peer: Peer, ktime_ns: u64) -> Self {
        Self {
            ktime_ns,
            conn,
            offset: peer.first,
            original_len: peer.third,
            captured_len: peer.fourth,
            turn: peer.port as u32,
            target: state.target,
            local_port: state.local_port,
            kind: Kind::Peer as u8,
            ..Self::default()
        }
    }
}

/// The other end of a connection, in the places that a record about it has no other use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address as IPv6, in the order of the network; IPv4 is mapped (RFC 4291 section 2.5.5.2). In the record's
    /// `offset`, `original_len` and `captured_len`.
    pub first: u64,
    pub third: u32,
    pub fourth: u32,
    /// In `turn`.
    pub port: u16,
}

impl Peer {
    /// From an IPv4 address in the order of the network.
    #[inline(always)]
    pub fn mapped(address: u32, port: u16) -> Self {
        Self { first: 0, third: u32::from_ne_bytes([0, 0, 0xff, 0xff]), fourth: address, port }
    }
}

pub const HEADER_LEN: usize = size_of::<RecordHeader>();
const _: () = assert!(HEADER_LEN == 56);

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes moved.
    Data = 1,
    /// No more bytes will come in `direction`: the peer's end was read, or the target shut down its own.
    /// `original_len` is as in a record of the close.
    End = 2,
    /// The last descriptor of the connection was closed, or it is left out from now on ([`flag::SAMPLED_OUT`]).
    /// `original_len` is the number of turns since the last data record that had something to tell and found no room.
    Closed = 3,
    /// A process of the target forked; `pid` is the new one.
    ProcessForked = 4,
    /// A process of the target is gone, and its descriptors with it.
    ProcessExited = 5,
    /// Who is at the other end of a connection, see [`Peer`]. Before its first data record, where user space has asked
    /// for it; there is none about a Unix socket.
    Peer = 6,
    /// A process of no target, mostly, that one may be looking for: `pid` was forked, has become another program, was
    /// moved to another control group, or begins to listen; then `conn` is the socket and `local_port` where. Only for
    /// as long as user space has asked for it.
    Notice = 7,
}

impl Kind {
    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Data),
            2 => Some(Self::End),
            3 => Some(Self::Closed),
            4 => Some(Self::ProcessForked),
            5 => Some(Self::ProcessExited),
            6 => Some(Self::Peer),
            7 => Some(Self::Notice),
            _ => None,
        }
    }
}

/// Bits of [`RecordHeader::flags`].
pub mod flag {
    /// We saw this connection from its start.
    pub const FROM_START: u8 = 1;
    /// The first byte of the record is the first byte of a system call.
    pub const CALL_START: u8 = 2;
    /// The record begins this direction's part of the turn: for ingress, the first bytes after egress.
    pub const TURN_START: u8 = 4;
    /// The connection is not closed, but left out from here on, where ingress begins a turn: the turns after this one
    /// are counted in `SAMPLED_OUT`, this one is not, since it may go on with a request that user space knows.
    pub const SAMPLED_OUT: u8 = 8;
}
