//! The table of connections: entering and finding them, and how far each has got.

use agent_common::{
    conn::{ConnState, Direction, TargetId, role},
    drops::DropReason,
};

use crate::{
    maps::CONNS,
    raw,
    socket::{Sock, Socket},
};

/// How we came to know a connection.
#[derive(Clone, Copy)]
pub enum Origin {
    /// Accepted just now.
    Accepted,
    /// Opened by the target towards somebody else.
    Connected,
    /// It was there before us.
    MetInTheMiddle,
}

/// Enters a connection. `false` when the socket is none we watch.
#[inline(always)]
pub fn enter(socket: Socket, target: TargetId, origin: Origin) -> Result<bool, DropReason> {
    let Some(stream) = socket.stream()? else { return Ok(false) };
    let sequence = |direction| stream.sock.sequence(direction).unwrap_or(0);
    let (ingress_seq, egress_seq) =
        if stream.is_tcp { (sequence(Direction::Ingress), sequence(Direction::Egress)) } else { (0, 0) };
    let state = ConnState {
        sock: stream.sock.0,
        ingress_seq,
        egress_seq,
        counted: u8::from(stream.is_tcp),
        target,
        local_port: stream.local_port,
        role: match origin {
            Origin::Connected => role::IGNORED,
            Origin::Accepted | Origin::MetInTheMiddle => role::UNKNOWN,
        },
        from_start: match origin {
            Origin::Accepted | Origin::Connected => 1,
            Origin::MetInTheMiddle => 0,
        },
        last_direction: u8::MAX,
        ..ConnState::default()
    };
    CONNS.insert(socket.conn, state, 0).map_err(|_| DropReason::ConnsFull)?;
    Ok(true)
}

/// Moves a direction on by `moved` bytes, after which the same call moved `later` ones; answers the position of
/// the first of them. Bytes that moved before them by a call we did not see lie between the last position and
/// this one. `None`: they did not move on this connection. The call began on another one, which was closed
/// meanwhile and whose descriptor is this one's now.
#[inline(always)]
pub fn advance(state: &mut ConnState, direction: Direction, moved: u64, later: u64) -> Option<u64> {
    let unseen = match counted(state, direction, moved, later) {
        Counted::Unseen(unseen) => unseen,
        Counted::Elsewhere => return None,
    };
    if unseen > 0 && state.role == role::UNKNOWN {
        state.from_start = 0; // what we see is not its beginning
    }
    let position = match direction {
        Direction::Ingress => &mut state.ingress_pos,
        Direction::Egress => &mut state.egress_pos,
    };
    let base = position.wrapping_add(unseen);
    *position = base.wrapping_add(moved);
    Some(base)
}

/// What the kernel counted on a TCP connection since the last call.
enum Counted {
    /// So many bytes beyond those of this call; 0 where nothing is known.
    Unseen(u64),
    /// None at all, though this call moved some.
    Elsewhere,
}

#[inline(always)]
fn counted(state: &mut ConnState, direction: Direction, moved: u64, later: u64) -> Counted {
    if state.counted == 0 {
        return Counted::Unseen(0);
    }
    let sock = Sock(state.sock);
    let Ok(now) = sock.sequence(direction) else { return Counted::Unseen(0) };
    let sequence = match direction {
        Direction::Ingress => &mut state.ingress_seq,
        Direction::Egress => &mut state.egress_seq,
    };
    let now = now.wrapping_sub(later as u32);
    let since = now.wrapping_sub(*sequence);
    let ahead = since.wrapping_sub(moved as u32);
    *sequence = now;
    // Met in this very call, the connection was entered after the bytes had moved.
    let is_new = state.from_start == 0 && state.ingress_pos == 0 && state.egress_pos == 0;
    let elsewhere = since == 0 && moved > 0 && !is_new;
    // Behind, when somebody else's call was counted first.
    if ahead == 0 || (ahead > u32::MAX / 2 && !elsewhere) {
        return Counted::Unseen(0);
    }
    // The end of a direction takes a number of its own (RFC 9293 section 3.4).
    if ahead == 1 && sock.has_ended(direction).unwrap_or(false) {
        return Counted::Unseen(0);
    }
    if sock.is_layered().unwrap_or(true) {
        state.counted = 0;
        return Counted::Unseen(0);
    }
    if elsewhere {
        return Counted::Elsewhere;
    }
    raw::count_drop(DropReason::UnseenBytes);
    Counted::Unseen(u64::from(ahead))
}

/// A data record of this turn found room.
#[inline(always)]
pub fn told(state: &mut ConnState) {
    state.noted_turn = state.turn;
    state.untold = 0;
}

/// A data record of this turn found no room.
#[inline(always)]
pub fn not_told(state: &mut ConnState) {
    if state.noted_turn != state.turn {
        state.noted_turn = state.turn;
        state.untold += 1;
    }
}
