//! Bytes of the ring buffer -> [`Record`]. Total: whatever the bytes, it answers, and never panics.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use zerocopy::FromBytes as _;

use crate::{
    conn::{ConnId, Direction, TargetId},
    event::{Kind, RecordHeader, flag},
};

/// One record, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    Data(Data<'a>),
    End(End),
    Closed(Closed),
    ProcessForked(Process),
    ProcessExited(Process),
    Peer(Peer),
    Notice(Notice),
}

/// Bytes that moved in one direction of a connection. See [`RecordHeader`] for what positions mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ktime_ns: u64,
    pub conn: ConnId,
    pub target: TargetId,
    pub pid: u32,
    pub local_port: u16,
    pub direction: Direction,
    pub turn: u32,
    /// Position of the first byte in its direction.
    pub offset: u64,
    /// Bytes the record stands for; at least `bytes.len()`.
    pub original_len: u32,
    /// The first of them.
    pub bytes: &'a [u8],
    /// We saw the connection from its start.
    pub from_start: bool,
    /// `bytes` begins where a system call began.
    pub call_start: bool,
    /// `bytes` begins this direction's part of the turn.
    pub turn_start: bool,
}

/// No more bytes will come in `direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub ktime_ns: u64,
    pub conn: ConnId,
    pub target: TargetId,
    pub pid: u32,
    pub direction: Direction,
    /// Position the direction had reached, bytes.
    pub offset: u64,
    /// Turns after that of the last data record, of which none has found room in the ring buffer so far. They are
    /// accounted for when the connection is closed: the record of the close has them too, or what else tells of it.
    pub untold: u32,
}

/// The connection is gone, or nothing more will be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub ktime_ns: u64,
    pub conn: ConnId,
    pub target: TargetId,
    pub pid: u32,
    pub local_port: u16,
    /// We saw the connection from its start.
    pub from_start: bool,
    /// Turns after that of the last data record, of which none found room in the ring buffer. All turns of a
    /// connection without any data record, possibly.
    pub untold: u32,
    /// Position egress had reached, bytes.
    pub egress_end: u64,
    /// It is not gone: user space wants to see less.
    pub sampled_out: bool,
}

/// A process came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub ktime_ns: u64,
    pub target: TargetId,
    pub pid: u32,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub ktime_ns: u64,
    pub conn: ConnId,
    pub target: TargetId,
    pub address: SocketAddr,
}

/// A process of the host that may belong to a target from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    pub ktime_ns: u64,
    pub pid: u32,
    /// Where it begins to listen, if that is what it does.
    pub listener: Option<Listener>,
}

/// A TCP socket that somebody begins to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Its inode number.
    pub socket: u64,
    pub port: u16,
}

/// Why bytes are not a record. The kernel side never writes such; a file might hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than its header, or than the captured bytes the header announces.
    Truncated,
    /// Unknown record kind.
    Kind(u8),
    /// Unknown direction.
    Direction(u8),
    /// More bytes captured than the record stands for, or a position that overflows.
    Lengths,
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => write!(f, "record is cut short"),
            Self::Kind(kind) => write!(f, "unknown record kind {kind}"),
            Self::Direction(direction) => write!(f, "unknown direction {direction}"),
            Self::Lengths => write!(f, "record lengths contradict each other"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Reads one record from the front of `bytes`; what follows it is ignored (size classes leave a rest).
///
/// # Errors
/// When the bytes are no record, see [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (header, rest) = RecordHeader::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated)?;
    let kind = Kind::from_u8(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    let direction = Direction::from_u8(header.direction).ok_or(DecodeError::Direction(header.direction))?;
    let RecordHeader { ktime_ns, conn, offset, target, pid, .. } = header;
    Ok(match kind {
        Kind::Data => {
            if header.captured_len > header.original_len
                || offset.checked_add(u64::from(header.original_len)).is_none()
            {
                return Err(DecodeError::Lengths);
            }
            let bytes = rest.get(..header.captured_len as usize).ok_or(DecodeError::Truncated)?;
            Record::Data(Data {
                ktime_ns,
                conn,
                target,
                pid,
                local_port: header.local_port,
                direction,
                turn: header.turn,
                offset,
                original_len: header.original_len,
                bytes,
                from_start: header.flags & flag::FROM_START != 0,
                call_start: header.flags & flag::CALL_START != 0,
                turn_start: header.flags & flag::TURN_START != 0,
            })
        }
        Kind::End => {
            Record::End(End { ktime_ns, conn, target, pid, direction, offset, untold: header.original_len })
        }
        Kind::Closed => Record::Closed(Closed {
            ktime_ns,
            conn,
            target,
            pid,
            local_port: header.local_port,
            from_start: header.flags & flag::FROM_START != 0,
            untold: header.original_len,
            egress_end: offset,
            sampled_out: header.flags & flag::SAMPLED_OUT != 0,
        }),
        Kind::ProcessForked => Record::ProcessForked(Process { ktime_ns, target, pid }),
        Kind::ProcessExited => Record::ProcessExited(Process { ktime_ns, target, pid }),
        Kind::Peer => Record::Peer(Peer { ktime_ns, conn, target, address: peer_address(&header) }),
        Kind::Notice => {
            let port = header.local_port;
            let listener = (port != 0).then_some(Listener { socket: conn, port });
            Record::Notice(Notice { ktime_ns, pid, listener })
        }
    })
}

/// The address of a record about a peer: IPv4 where it is mapped.
fn peer_address(header: &RecordHeader) -> SocketAddr {
    let mut address = [0; 16];
    let (first, rest) = address.split_at_mut(8);
    let (third, fourth) = rest.split_at_mut(4);
    first.copy_from_slice(&header.offset.to_ne_bytes());
    third.copy_from_slice(&header.original_len.to_ne_bytes());
    fourth.copy_from_slice(&header.captured_len.to_ne_bytes());
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)).to_canonical(), header.turn as u16)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::{conn::ConnState, event};

    fn data(header: RecordHeader, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn header() -> RecordHeader {
        RecordHeader { kind: 1, captured_len: 3, original_len: 9, offset: 7, flags: 5, ..Default::default() }
    }

    #[test]
    fn a_record_is_followed_by_the_rest_of_its_size_class() {
        let bytes = data(header(), b"abc...........");
        let Ok(Record::Data(data)) = decode(&bytes) else { panic!("not a data record") };
        assert_eq!((data.bytes, data.original_len, data.offset), (&b"abc"[..], 9, 7));
        assert!(data.from_start && !data.call_start && data.turn_start);
    }

    #[test]
    fn a_peer_has_an_address_of_either_kind() {
        let check = |peer, want: &str| {
            let header = RecordHeader::peer(7, &ConnState::default(), peer, 1);
            let Ok(Record::Peer(peer)) = decode(&data(header, b"")) else { panic!("not about a peer") };
            assert_eq!((peer.conn, peer.address), (7, want.parse().unwrap()));
        };
        check(event::Peer::mapped(u32::from_ne_bytes([192, 0, 2, 7]), 4711), "192.0.2.7:4711");
        let first = u64::from_ne_bytes([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]);
        let fourth = u32::from_ne_bytes([0, 0, 0, 9]);
        check(event::Peer { first, third: 0, fourth, port: 80 }, "[2001:db8::9]:80");
    }

    #[test]
    fn a_notice_says_where_a_process_listens_if_it_does() {
        let check = |local_port, want| {
            let header = RecordHeader { kind: 7, conn: 9, pid: 4711, local_port, ..Default::default() };
            let notice = Notice { ktime_ns: 0, pid: 4711, listener: want };
            assert_eq!(decode(&data(header, b"")), Ok(Record::Notice(notice)));
        };
        check(0, None);
        check(80, Some(Listener { socket: 9, port: 80 }));
    }

    #[test]
    fn contradictions_are_named() {
        let check = |header: RecordHeader, payload: &[u8], want| {
            assert_eq!(decode(&data(header, payload)), Err(want));
        };
        check(header(), b"ab", DecodeError::Truncated);
        check(RecordHeader { kind: 9, ..header() }, b"abc", DecodeError::Kind(9));
        check(RecordHeader { direction: 2, ..header() }, b"abc", DecodeError::Direction(2));
        check(RecordHeader { original_len: 2, ..header() }, b"abc", DecodeError::Lengths);
        check(RecordHeader { offset: u64::MAX, ..header() }, b"abc", DecodeError::Lengths);
        assert_eq!(decode(&[1; 55]), Err(DecodeError::Truncated));
    }
}
