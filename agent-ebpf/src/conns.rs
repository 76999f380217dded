//! The table of connections: entering, finding and removing them.

use agent_common::{
    conn::{ConnState, TargetId, role},
    drops::DropReason,
};

use crate::{maps::CONNS, raw, socket::Socket};

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
    let state = ConnState {
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

/// Whether bytes on this socket may be of interest. A socket that is new to us is entered.
#[inline(always)]
pub fn is_watchable(socket: Socket, target: TargetId) -> Result<bool, DropReason> {
    match raw::conn_state(socket.conn) {
        Some(state) => Ok(state.role != role::IGNORED),
        None => enter(socket, target, Origin::MetInTheMiddle),
    }
}
