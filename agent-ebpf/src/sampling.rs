//! Looking at less where user space wants it so: at fewer bytes of a call, and at fewer connections, each of which is
//! seen or left out as a whole.
//!
//! A connection changes sides where ingress begins a turn, so that no exchange is cut. That is also the only time at
//! which `CAPTURE` is looked at, but for calls that are long.

use agent_common::{
    conn::{ConnId, ConnState, Direction, role},
    event::{RecordHeader, flag},
    limits::{CAPTURE_LEAST, CAPTURE_PER_CALL},
};

use crate::{
    emit::{self, Wake},
    maps::SAMPLED_OUT,
    raw,
};

/// Bytes to copy from the beginning of a call that moved so many.
#[inline(always)]
pub fn per_call(moved: u64) -> u64 {
    if moved <= CAPTURE_LEAST as u64 { moved } else { raw::capture().per_call.min(CAPTURE_PER_CALL as u64) }
}

/// Leaves a connection out from here on, where ingress has begun a turn, if it is to be. It is not yet when there is
/// no room to say so, since user space has to know that what it saw is all; nor when it was met in the middle just now:
/// whether it is one to be counted has to turn out first.
#[inline(always)]
pub fn leaves_out(conn: ConnId, state: &mut ConnState) -> bool {
    if !raw::capture().leaves_out(conn) || !raw::watches_port(state.target, state.local_port) {
        return false;
    }
    if state.turn > 1 {
        let mut header = RecordHeader::closed(conn, state, raw::current_pid(), raw::now_ns());
        header.flags |= flag::SAMPLED_OUT;
        if emit::control(&header, Wake::WhenWorthwhile).is_none() {
            return false;
        }
    } else if state.from_start == 1 {
        raw::add_turns(&SAMPLED_OUT, state.target, 1);
    } else {
        return false;
    }
    state.role = role::SAMPLED_OUT;
    state.untold = 0;
    true
}

/// A call on a connection that is left out. True when it is to be seen again: from here on it is like one met in the
/// middle. Otherwise counts its turn.
#[inline(always)]
pub fn takes_in(conn: ConnId, state: &mut ConnState, direction: Direction) -> bool {
    let begins =
        direction as u8 == Direction::Ingress as u8 && state.last_direction != Direction::Ingress as u8;
    state.last_direction = direction as u8;
    if !begins {
        return false;
    }
    if raw::capture().leaves_out(conn) {
        raw::add_turns(&SAMPLED_OUT, state.target, 1);
        return false;
    }
    state.role = role::UNKNOWN;
    state.from_start = 0;
    (state.turn, state.noted_turn) = (0, 0);
    state.last_direction = u8::MAX;
    state.peer_told = 0;
    true
}
