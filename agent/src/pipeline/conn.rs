//! Connections: which records belong together, and when to let go.

use core::net::SocketAddr;
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    time::Duration,
};

use agent_common::{
    conn::{ConnId, Direction, Mute, TargetId},
    decode::{Closed, Data, End, Peer, Process},
    limits::ROLE_PREFIX,
};
use foldhash::fast::FixedState;

use super::{
    Ktime, Limits,
    http::{
        exchange::{Context, Ending, Exchanges, Over, Place, Start},
        parser::At,
    },
    ledger::{Bytes, Cause},
    stream::{Advance, Stream},
    target::Target,
};

/// Body bytes that must be certain to come before it pays to have the kernel side leave them out.
const WORTH_MUTING: u64 = 4 * 1024;

/// Between two looks for idle connections.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The targets by id.
pub type Targets = HashMap<TargetId, Target, FixedState>;

/// Every connection that brought a record, up to [`super::Limits::max_connections`]. One more is ignored for
/// good, and counted, unless idle ones can be evicted. One idle too long is evicted, on both sides; if it comes
/// back, it is one met in the middle.
///
/// Numbers of connections come from a counter in the kernel that no client can steer, so any hash will do; and without a
/// random one the same records give the same order of events.
#[derive(Debug, Default)]
pub struct ConnTracker {
    conns: HashMap<ConnId, Connection, FixedState>,
    /// Those that the latest sweep evicted: records of theirs may have been on their way.
    evicted: HashSet<ConnId, FixedState>,
    /// Memory held by incomplete heads, all together.
    buffered: usize,
    mutes: Vec<(ConnId, Mute)>,
    closed: Vec<ConnId>,
    /// Gone without a close, as far as we are concerned.
    forgotten: Vec<ConnId>,
    swept: Ktime,
    /// Who is at the other end of connections whose first data is on its way, and since when. As many as connections
    /// may be; the client of one more stays unknown, as that of one whose data does not come.
    clients: HashMap<ConnId, (SocketAddr, Ktime), FixedState>,
}

#[derive(Debug)]
struct Connection {
    target: TargetId,
    /// The latest process that used it.
    pid: u32,
    last_seen: Ktime,
    /// The other end; None on a Unix socket, or where it was not seen.
    client: Option<SocketAddr>,
    ingress: Stream,
    egress: Stream,
    /// What the kernel side was asked to leave out.
    muted: Mute,
    /// Bytes that are not in the ledger: it is not proven that the target is the server here.
    unproven: Bytes,
    /// None when nothing more is wanted from it.
    exchanges: Option<Exchanges>,
}

/// What a connection did after its last record, as far as the kernel side says.
#[derive(Clone, Copy, Debug, Default)]
struct Unseen {
    /// Position at which egress ended, where that is known.
    egress_end: Option<u64>,
    /// Turns that had something to tell.
    turns: u32,
}

impl ConnTracker {
    pub fn handle_data(&mut self, data: &Data<'_>, targets: &mut Targets, limits: &Limits) {
        let now = Ktime(data.ktime_ns);
        if is_first_of_its_entry(data) {
            self.begin_anew(data, targets, limits);
        }
        if !self.conns.contains_key(&data.conn) && !self.admit(data, targets, limits) {
            return;
        }
        let Some(conn) = self.conns.get_mut(&data.conn) else { return };
        conn.pid = data.pid;
        conn.last_seen = now;
        let Some(target) = targets.get_mut(&conn.target).filter(|target| !target.finished) else { return };
        let advance = conn.advance(data.direction, data.offset, data.original_len.into(), data.bytes, target);
        let Some(exchanges) = &mut conn.exchanges else {
            conn.count_bytes(target);
            return;
        };

        let held = exchanges.buffered();
        let others = self.buffered.saturating_sub(held);
        let place = Place {
            at: At { time: now, turn: data.turn },
            begins_call: data.call_start,
            begins_turn: data.call_start && data.turn_start,
        };
        let room = limits.max_buffered.saturating_sub(others);
        let mut cx = context(target, limits, room, conn.client);
        match data.direction {
            Direction::Ingress => exchanges.ingress(advance, place, &mut cx),
            Direction::Egress => exchanges.egress(advance, place, &mut cx),
        }
        let mut muted = conn.muted;
        if exchanges.over() == Some(Over::NotYet) {
            // Forgotten on both sides: the kernel side looks at the beginning of each read again.
            target.ledger.connections = target.ledger.connections.saturating_sub(1);
            self.conns.remove(&data.conn);
            self.forgotten.push(data.conn);
            self.buffered = others;
            return;
        }
        if let Some(over) = exchanges.over() {
            exchanges.finish(Ending::Evicted, 0, &mut cx);
            target.ledger.connections_overflowed += u64::from(over == Over::Overflow);
            conn.exchanges = None;
            muted = Mute::FOR_GOOD;
            self.buffered = others;
        } else {
            self.buffered = others.saturating_add(exchanges.buffered());
            let (ingress, egress) = exchanges.certain();
            if ingress > WORTH_MUTING {
                muted.ingress_until = conn.ingress.position().saturating_add(ingress);
            }
            if egress > WORTH_MUTING {
                muted.egress_until = conn.egress.position().saturating_add(egress);
            }
        }
        conn.count_bytes(target);
        if muted != conn.muted {
            conn.muted = muted;
            self.mutes.push((data.conn, muted));
        }
    }

    pub fn handle_peer(&mut self, peer: &Peer, limits: &Limits) {
        if let Some(conn) = self.conns.get_mut(&peer.conn) {
            conn.client = Some(peer.address);
        } else if self.clients.len() < limits.max_connections {
            self.clients.insert(peer.conn, (peer.address, Ktime(peer.ktime_ns)));
        }
    }

    pub fn handle_end(&mut self, end: &End, targets: &mut Targets, limits: &Limits) {
        let Some(conn) = self.conns.get_mut(&end.conn) else { return };
        conn.pid = end.pid;
        conn.last_seen = Ktime(end.ktime_ns);
        let Some(target) = targets.get_mut(&conn.target) else { return };
        match end.direction {
            Direction::Ingress => {
                let missing = conn.advance(Direction::Ingress, end.offset, 0, &[], target).gap;
                if let Some(exchanges) = &mut conn.exchanges {
                    exchanges.end_ingress(missing, end.untold, &mut context(target, limits, 0, conn.client));
                }
                conn.count_bytes(target);
            }
            Direction::Egress => {
                let missing = conn.advance(Direction::Egress, end.offset, 0, &[], target).gap;
                if let Some(exchanges) = &mut conn.exchanges {
                    exchanges.end_egress(missing, &mut context(target, limits, 0, conn.client));
                }
                conn.count_bytes(target);
            }
        }
    }

    pub fn handle_closed(&mut self, closed: &Closed, targets: &mut Targets, limits: &Limits) {
        self.clients.remove(&closed.conn);
        let mut is_counted = false;
        if let Some(mut conn) = self.conns.remove(&closed.conn) {
            is_counted = conn.exchanges.as_ref().is_some_and(|exchanges| !exchanges.is_unproven());
            let unseen = Unseen { egress_end: Some(closed.egress_end), turns: closed.untold };
            let ending = if closed.sampled_out { Ending::SampledOut } else { Ending::Closed };
            self.buffered = self.buffered.saturating_sub(conn.finish(ending, unseen, targets, limits));
        } else if closed.from_start
            && let Some(target) = targets.get_mut(&closed.target)
            && !target.finished
            && target.watches_port(closed.local_port)
        {
            is_counted = true;
            target.lose(Cause::LostRingFull, closed.untold.into());
            target.lose(Cause::SampledOut, closed.sampled_out.into());
        }
        if closed.sampled_out && !is_counted {
            // One that is none of ours must not be counted by its turns: the kernel side is to look at it anew.
            self.forgotten.push(closed.conn);
        } else {
            self.closed.push(closed.conn);
        }
    }

    /// Connections that this process used last.
    pub fn last_used_by(&self, process: &Process) -> impl Iterator<Item = ConnId> {
        let (pid, target) = (process.pid, process.target);
        self.conns.iter().filter(move |(_, conn)| conn.pid == pid && conn.target == target).map(|(id, _)| *id)
    }

    /// Ends the connections that this process used last. What another one has used since lives on.
    pub fn handle_exit(&mut self, process: &Process, targets: &mut Targets, limits: &Limits) {
        let forgotten = &mut self.forgotten;
        let buffered = &mut self.buffered;
        self.conns.retain(|id, conn| {
            let ends = conn.pid == process.pid && conn.target == process.target;
            if ends {
                *buffered =
                    buffered.saturating_sub(conn.finish(Ending::Closed, Unseen::default(), targets, limits));
                forgotten.push(*id);
            }
            !ends
        });
    }

    /// Evicts what has been idle too long; looks at all connections, but only every few seconds.
    pub fn handle_tick(&mut self, now: Ktime, targets: &mut Targets, limits: &Limits) {
        if now.since(self.swept) >= SWEEP_EVERY {
            self.sweep(now, Sweep::Idle, targets, limits);
        }
    }

    /// Evicts what is idle now, and hands back the memory.
    pub fn make_room(&mut self, now: Ktime, targets: &mut Targets, limits: &Limits) {
        self.sweep(now, Sweep::Full, targets, limits);
        self.conns.shrink_to_fit();
        self.clients.shrink_to_fit();
    }

    pub fn finish_target(&mut self, id: TargetId, targets: &mut Targets, limits: &Limits) {
        let buffered = &mut self.buffered;
        self.conns.retain(|_, conn| {
            if conn.target == id {
                *buffered =
                    buffered.saturating_sub(conn.finish(Ending::Exit, Unseen::default(), targets, limits));
            }
            conn.target != id
        });
    }

    /// Connections with an exchange open that have been quiet for as long as `is_due` wants.
    pub fn quiet(
        &self,
        now: Ktime,
        is_due: impl Fn(Duration) -> bool,
    ) -> impl Iterator<Item = (TargetId, ConnId)> {
        self.conns.iter().filter_map(move |(id, conn)| {
            let open = conn.exchanges.as_ref().is_some_and(Exchanges::has_open);
            (open && is_due(now.since(conn.last_seen))).then_some((conn.target, *id))
        })
    }

    pub fn take_mutes(&mut self) -> std::vec::Drain<'_, (ConnId, Mute)> {
        self.mutes.drain(..)
    }

    pub fn take_closed(&mut self) -> std::vec::Drain<'_, ConnId> {
        self.closed.drain(..)
    }

    pub fn take_forgotten(&mut self) -> std::vec::Drain<'_, ConnId> {
        self.forgotten.drain(..)
    }

    /// Memory held by incomplete heads, added up.
    pub fn buffered(&self) -> usize {
        self.conns.values().filter_map(|conn| conn.exchanges.as_ref()).map(Exchanges::buffered).sum()
    }

    /// Memory held by details of open exchanges, counted anew, bytes.
    pub fn details(&self) -> usize {
        self.conns.values().filter_map(|conn| conn.exchanges.as_ref()).map(Exchanges::details).sum()
    }

    pub fn count(&self, target: TargetId) -> usize {
        self.conns.values().filter(|conn| conn.target == target).count()
    }

    /// Lets go of a connection that the kernel side has forgotten, and now met again: its positions begin anew.
    fn begin_anew(&mut self, data: &Data<'_>, targets: &mut Targets, limits: &Limits) {
        if let Entry::Occupied(known) = self.conns.entry(data.conn)
            && known.get().exchanges.is_some()
            && data.offset < known.get().ingress.position()
        {
            let held = known.remove().finish(Ending::Evicted, Unseen::default(), targets, limits);
            self.buffered = self.buffered.saturating_sub(held);
        }
    }

    /// Makes an entry for a connection that brings its first record.
    fn admit(&mut self, data: &Data<'_>, targets: &mut Targets, limits: &Limits) -> bool {
        let now = Ktime(data.ktime_ns);
        if targets.get(&data.target).is_none_or(|target| target.finished) {
            return false;
        }
        // On a connection met in the middle everything begins with a read that may begin a request. What else
        // there is comes from one that turned out not to: the kernel side has not heard of it yet.
        if !data.from_start && (data.direction == Direction::Egress || !data.call_start) {
            return false;
        }
        if self.conns.len() >= limits.max_connections && now.since(self.swept) >= SWEEP_EVERY {
            self.sweep(now, Sweep::Full, targets, limits);
        }
        let Some(target) = targets.get_mut(&data.target) else { return false };
        if self.conns.len() >= limits.max_connections {
            target.ledger.connections_over_limit += 1;
            self.mutes.push((data.conn, Mute::FOR_GOOD));
            return false;
        }
        target.ledger.connections += 1;
        let mut conn = Connection {
            target: data.target,
            pid: data.pid,
            last_seen: now,
            client: self.clients.remove(&data.conn).map(|(client, _)| client),
            ingress: Stream::default(),
            egress: Stream::default(),
            muted: Mute::default(),
            unproven: Bytes::default(),
            exchanges: None,
        };
        if target.watches_port(data.local_port) {
            let start = start_of(data, self.evicted.contains(&data.conn));
            if start == Start::Beginning {
                conn.egress = Stream::starting_at(0);
            }
            conn.exchanges = Some(Exchanges::new(start, data.turn));
        } else {
            target.ledger.connections_other_port += 1;
            conn.muted = Mute::FOR_GOOD;
            self.mutes.push((data.conn, Mute::FOR_GOOD));
        }
        self.conns.insert(data.conn, conn);
        true
    }

    /// Evicts what brought nothing for a while, or for the longer timeout if an exchange is open.
    fn sweep(&mut self, now: Ktime, sweep: Sweep, targets: &mut Targets, limits: &Limits) {
        self.swept = now;
        self.clients.retain(|_, (_, since)| now.since(*since) < SWEEP_EVERY);
        let idle = match sweep {
            Sweep::Idle => limits.idle_timeout,
            Sweep::Full => SWEEP_EVERY,
        };
        self.evicted.clear();
        let Self { conns, evicted, forgotten, buffered, .. } = self;
        conns.retain(|id, conn| {
            let open = conn.exchanges.as_ref().is_some_and(Exchanges::has_open);
            let timeout = if open { limits.idle_open_timeout } else { idle };
            let stays = now.since(conn.last_seen) < timeout;
            if !stays {
                // What is muted for good stays so.
                if conn.exchanges.is_some() {
                    evicted.insert(*id);
                    forgotten.push(*id);
                }
                let held = conn.finish(Ending::Evicted, Unseen::default(), targets, limits);
                *buffered = buffered.saturating_sub(held);
                if let Some(target) = targets.get_mut(&conn.target) {
                    match sweep {
                        Sweep::Idle => target.ledger.connections_evicted_idle += 1,
                        Sweep::Full => target.ledger.connections_evicted_full += 1,
                    }
                }
            }
            stays
        });
    }
}

/// Why idle connections are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Nothing will come of them any more.
    Idle,
    /// Their room is needed.
    Full,
}

impl Connection {
    /// Moves a direction to the end of a record, and accounts for every byte that it moved over.
    fn advance<'a>(
        &mut self,
        direction: Direction,
        offset: u64,
        original_len: u64,
        bytes: &'a [u8],
        target: &mut Target,
    ) -> Advance<'a> {
        let (stream, muted_until) = match direction {
            Direction::Ingress => (&mut self.ingress, self.muted.ingress_until),
            Direction::Egress => (&mut self.egress, self.muted.egress_until),
        };
        let start = stream.next_at(offset);
        let advance = stream.advance(offset, original_len, bytes);
        let captured = advance.bytes.len() as u64;
        let behind = start.wrapping_add(advance.gap).wrapping_add(captured);
        let ledger = &mut target.ledger;
        ledger.stale_bytes = ledger.stale_bytes.saturating_add(advance.stale);
        self.unproven.add(Bytes {
            seen: stream.position().wrapping_sub(start),
            captured,
            ..Bytes::default()
        });
        for (start, gap) in [(start, advance.gap), (behind, advance.gap_after)] {
            let muted = gap.min(muted_until.saturating_sub(start));
            let gapped = gap.saturating_sub(muted);
            ledger.gaps += u64::from(gapped > 0);
            self.unproven.add(Bytes { muted, gapped, ..Bytes::default() });
        }
        advance
    }

    /// Puts bytes into the ledger, unless they may be of a connection on which the target is no server.
    fn count_bytes(&mut self, target: &mut Target) {
        if !self.exchanges.as_ref().is_some_and(Exchanges::is_unproven) {
            target.ledger.bytes.add(std::mem::take(&mut self.unproven));
        }
    }

    /// Ends all exchanges. Memory that its incomplete heads held, bytes.
    fn finish(&mut self, ending: Ending, unseen: Unseen, targets: &mut Targets, limits: &Limits) -> usize {
        let Some(target) = targets.get_mut(&self.target) else { return 0 };
        let missing =
            unseen.egress_end.map_or(0, |end| self.advance(Direction::Egress, end, 0, &[], target).gap);
        self.count_bytes(target);
        let Some(mut exchanges) = self.exchanges.take() else { return 0 };
        let held = exchanges.buffered();
        let mut cx = context(target, limits, 0, self.client);
        if matches!(ending, Ending::Closed | Ending::SampledOut) {
            exchanges.end_egress(missing, &mut cx);
        }
        exchanges.finish(ending, unseen.turns, &mut cx);
        held
    }
}

fn context<'a>(
    target: &'a mut Target,
    limits: &'a Limits,
    room: usize,
    client: Option<SocketAddr>,
) -> Context<'a> {
    Context { target, limits, room, client }
}

/// Whether this is the first record since the kernel side met the connection in the middle.
fn is_first_of_its_entry(data: &Data<'_>) -> bool {
    !data.from_start
        && data.turn == 1
        && data.direction == Direction::Ingress
        && data.call_start
        && data.turn_start
}

/// What the first record of a connection says about where we are. `again`: we knew the connection, and let it go.
///
/// The kernel side emits nothing before received bytes begin like a request. So on a connection met in the
/// middle the first ingress record stands where a request may begin, at whatever position. On one seen from
/// its start that place is position 0, or a few bytes on when there were empty lines; anywhere else, records
/// were lost, and what comes may be the rest of something.
fn start_of(data: &Data<'_>, again: bool) -> Start {
    let begins_turn = data.call_start && data.turn_start;
    let near_start = data.offset == 0 || (data.offset <= ROLE_PREFIX as u64 && begins_turn && data.turn == 1);
    let lost_to = if data.call_start { Cause::LostRingFull } else { Cause::LostGap };
    match data.direction {
        Direction::Ingress if data.from_start && near_start => Start::Beginning,
        Direction::Ingress if !data.from_start => Start::MaybeRequest,
        _ if !again => Start::Middle { accounted: 0, lost_to },
        Direction::Ingress if begins_turn => {
            Start::Middle { accounted: data.turn.saturating_sub(1), lost_to: Cause::LostGap }
        }
        _ => Start::Middle { accounted: data.turn, lost_to: Cause::LostGap },
    }
}
