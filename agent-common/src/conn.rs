//! A connection: its name, its two directions, and what the kernel side remembers about it.

use crate::limits::{CAPTURE_PER_CALL, MUTE_SETS, MUTE_SLOTS, PID_SLOTS};

/// Inode number of the socket, the one `/proc/PID/fd` shows. Sockets take it from one kernel-wide counter,
/// so it is the same for every process that holds the socket, and distinct while the socket lives.
pub type ConnId = u64;

/// Names one watched target for the life of the agent; given out by user space, starting from 1.
pub type TargetId = u32;

/// A place of the `PID_SLOTS` map, where most looks for the target of a process end.
///
/// Written without a lock by both sides. The slot of a process is filled after the process was entered into `TARGETS`, and
/// spoilt before it is taken out: a slot never says more than the table does. When two processes are entered into one slot
/// at the same time, the one that finds the other's number there asks the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidSlot(pub u64);

impl PidSlot {
    /// No process whose number leads here is or was a target's.
    pub const EMPTY: PidSlot = PidSlot(0);
    /// Whoever comes here is to ask the table.
    pub const ASK: PidSlot = PidSlot(1);

    /// Process `pid` belongs to `target`, which is not 0.
    #[inline(always)]
    pub fn of(pid: u32, target: TargetId) -> Self {
        Self((pid as u64) << 32 | target as u64)
    }

    /// What the slot is to hold when one more process is entered.
    #[inline(always)]
    pub fn entering(self, pid: u32, target: TargetId) -> Self {
        if self == Self::EMPTY { Self::of(pid, target) } else { Self::ASK }
    }

    /// The target of process `pid`: none, one, or what the table says.
    #[inline(always)]
    pub fn target(self, pid: u32) -> SlotSays {
        if self == Self::EMPTY {
            SlotSays::Nobody
        } else if (self.0 >> 32) as u32 == pid {
            SlotSays::Target(self.0 as TargetId)
        } else {
            SlotSays::AskTable
        }
    }
}

/// What a [`PidSlot`] says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSays {
    Nobody,
    Target(TargetId),
    AskTable,
}

/// Where in `PID_SLOTS` a process is.
#[inline(always)]
pub fn pid_slot(pid: u32) -> u32 {
    pid & (PID_SLOTS - 1)
}

/// Which way bytes moved, as the target sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// The target received them.
    Ingress = 0,
    /// The target sent them.
    Egress = 1,
}

impl Direction {
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }
}

/// What a connection is used for, decided from the first bytes the target received on it.
pub mod role {
    /// Nothing decided yet; nothing is emitted.
    pub const UNKNOWN: u8 = 0;
    /// Received bytes began like a request line: the target is the server.
    pub const SERVER: u8 = 1;
    /// Anything else. Costs one look-up per call and is never emitted.
    pub const IGNORED: u8 = 2;
    /// The target is the server, and user space has the connection left out ([`super::Capture`]): its turns are
    /// counted, and nothing of it is emitted.
    pub const SAMPLED_OUT: u8 = 3;
}

/// Value of the `CAPTURE` map: how much user space wants to see, written by it alone, each field whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Bytes copied from the beginning of one call, from [`crate::limits::CAPTURE_LEAST`] to
    /// [`crate::limits::CAPTURE_PER_CALL`].
    pub per_call: u64,
    /// Of [`Capture::CONNECTIONS`], so many are left out as a whole.
    pub sampled_out: u64,
}

impl Capture {
    /// What [`Capture::sampled_out`] is a share of.
    pub const CONNECTIONS: u64 = 1 << 16;
    /// What there is.
    pub const ALL: Capture = Capture { per_call: CAPTURE_PER_CALL as u64, sampled_out: 0 };

    /// Whether a connection is left out, by its number alone, so that it stays in or out for as long as the share stays.
    /// When more are left out, they join those that were; none takes another one's place.
    #[inline(always)]
    pub fn leaves_out(self, conn: ConnId) -> bool {
        self.sampled_out > 0 && mixed(conn) >> 48 < self.sampled_out
    }
}

/// Which local ports of a target count; every one when none is named. In one word, so that it is read and written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPorts(pub u64);

impl LocalPorts {
    /// There is no room for more.
    pub const MOST: usize = 4;

    /// Those beyond [`LocalPorts::MOST`] are left out.
    pub fn of(ports: &[u16]) -> Self {
        // Each place has a port that counts: connections without a port are on 0.
        Self(ports.iter().cycle().take(Self::MOST).fold(0, |word, port| word << 16 | *port as u64))
    }

    /// Whether connections on this port count.
    #[inline(always)]
    pub fn count(self, port: u16) -> bool {
        let [a, b, c, d] =
            [self.0 as u16, (self.0 >> 16) as u16, (self.0 >> 32) as u16, (self.0 >> 48) as u16];
        self.0 == 0 || port == a || port == b || port == c || port == d
    }
}

/// A number in which every bit depends on every bit of `conn` (the finalizer of SplitMix64: Steele, Lea, Flood, "Fast
/// Splittable Pseudorandom Number Generators"). Inode numbers come from a counter, and a target that opens sockets of
/// its own for each request would take a fixed step in it.
#[inline(always)]
fn mixed(conn: ConnId) -> u64 {
    let mixed = (conn ^ (conn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Value of the `CONNS` map. Written by the kernel side alone, once for every call that moved bytes.
///
/// The two directions have fields of their own: a thread that reads while another writes shares nothing
/// but `turn` and `last_direction`, which are hints.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ConnState {
    /// Bytes the target received so far, counted from the first call we saw.
    pub ingress_pos: u64,
    /// Bytes the target sent so far, likewise.
    pub egress_pos: u64,
    /// `struct sock *`
    pub sock: u64,
    /// Bytes moved in this turn that were copied or reported rather than muted.
    pub turn_bytes: u64,
    /// What the kernel's own counters of a TCP connection (`copied_seq`, `write_seq`) read at these positions.
    pub ingress_seq: u32,
    pub egress_seq: u32,
    /// Bursts of ingress so far: goes up when ingress follows egress. See [`crate::event::RecordHeader::turn`].
    pub turn: u32,
    /// The latest turn that had something to tell, whether it found room in the ring buffer or not.
    pub noted_turn: u32,
    /// Turns since the last data record that found room: user space cannot know of them.
    pub untold: u32,
    /// Whose connection, see [`TargetId`].
    pub target: u32,
    /// Local TCP port; 0 for a Unix socket.
    pub local_port: u16,
    /// One of [`role`].
    pub role: u8,
    /// 1 when we saw the connection from its start (accept), 0 when we met it in the middle.
    pub from_start: u8,
    /// Direction of the latest call, as [`Direction`]; 255 before the first.
    pub last_direction: u8,
    /// 1 once the wake-up for a long message went out in this turn (one per turn and connection).
    pub nudged: u8,
    /// 1 while the kernel's counters tell how many bytes the process moved: plain TCP.
    pub counted: u8,
    /// 1 once user space was told who is at the other end, or nobody can be.
    pub peer_told: u8,
}

const _: () = assert!(size_of::<ConnState>() == 64);

/// User space's word that no byte before these positions is needed.
/// A call that ends before the position is counted and not reported; the call that reaches it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mute {
    pub ingress_until: u64,
    pub egress_until: u64,
}

impl Mute {
    /// Nothing more is ever needed from this connection.
    pub const FOR_GOOD: Mute = Mute { ingress_until: u64::MAX, egress_until: u64::MAX };
}

/// One mute in the `MUTES` map, written by user space alone, in memory that both sides see. Whoever writes
/// changes `conn` to 0 before the positions and to its new value after them; whoever reads looks at `conn`
/// before and after.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MuteSlot {
    /// Whose, 0 when the slot is free.
    pub conn: ConnId,
    pub ingress_until: u64,
    pub egress_until: u64,
}

/// Value of the `MUTES` map: the slots that a connection may be in.
pub type MuteSet = [MuteSlot; MUTE_SLOTS];

/// Which set of `MUTES` a connection belongs to.
#[inline(always)]
pub fn mute_set(conn: ConnId) -> u32 {
    // Inode numbers come from a counter; the multiplication spreads neighbours over the table.
    (conn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 & (MUTE_SETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_knows_the_process_that_came_first() {
        let (pid, neighbour) = (4711, 4711 + PID_SLOTS);
        assert_eq!(pid_slot(pid), pid_slot(neighbour));
        assert_eq!(PidSlot::EMPTY.target(pid), SlotSays::Nobody);

        let one = PidSlot::EMPTY.entering(pid, 3);
        assert_eq!(one.target(pid), SlotSays::Target(3));
        assert_eq!(one.target(neighbour), SlotSays::AskTable);

        let two = one.entering(neighbour, 4);
        assert_eq!(two.target(pid), SlotSays::AskTable);
        assert_eq!(two.target(neighbour), SlotSays::AskTable);
    }

    #[test]
    fn ports_that_are_named_count() {
        let check = |ports: &[u16], want: &[u16]| {
            let of = LocalPorts::of(ports);
            let all = [0, 1, 2, 3, 4, 5, u16::MAX];
            assert!(all.into_iter().all(|port| of.count(port) == want.contains(&port)), "{ports:?}");
        };
        check(&[], &[0, 1, 2, 3, 4, 5, u16::MAX]);
        check(&[u16::MAX], &[u16::MAX]);
        check(&[1, 2, 3], &[1, 2, 3]);
        check(&[1, 2, 3, u16::MAX], &[1, 2, 3, u16::MAX]);
    }

    #[test]
    fn a_slot_that_was_in_use_asks_the_table() {
        for pid in [1, 4711, u32::MAX] {
            assert_eq!(PidSlot::ASK.target(pid), SlotSays::AskTable);
            assert_eq!(PidSlot::ASK.entering(pid, 3).target(pid), SlotSays::AskTable);
        }
    }
}
