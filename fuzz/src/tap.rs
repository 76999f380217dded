//! The kernel side, as far as it can be told from outside: positions, turns, pieces, muting and loss. What it
//! does, and where, says `agent-ebpf/src/syscall.rs`.

use std::collections::HashMap;

use agent::pipeline::{
    Limits, Pipeline, Policy,
    ledger::{Cause, Ledger},
};
use agent_common::{
    conn::{ConnId, Direction, Mute, TargetId},
    decode::{Closed, Data, End, Record},
};

use crate::{
    account::{Account, assert_adds_up},
    dialog::{Act, Step},
};

const TARGET: TargetId = 1;
const MS: u64 = 1_000_000;

/// How a tap delivers what happens.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Longest piece of a call that one record holds, bytes; more than 0.
    pub piece: usize,
    /// Whether it leaves out what it was told is not needed.
    pub mutes: bool,
    /// What becomes of its records, over and over; empty when none is lost.
    pub fates: Vec<Fate>,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    Lost,
    /// With no more than so many bytes.
    Cut(usize),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub account: Account,
    pub ledger: Ledger,
    /// Bytes of all records.
    pub captured: usize,
}

/// What the kernel side knows of a connection.
#[derive(Default)]
struct Conn {
    positions: [u64; 2],
    turn: u32,
    /// The latest turn that had something to tell, and how many of those found no room since one did.
    noted_turn: u32,
    untold: u32,
    last: Option<Direction>,
    mute: Mute,
}

/// Runs what happens on some connections through a pipeline, to the end of the target.
pub fn deliver(steps: &[Step], manner: &Manner) -> Seen {
    let mut tap = Tap {
        pipeline: Pipeline::new(Limits::default()),
        conns: HashMap::new(),
        manner,
        records: 0,
        captured: 0,
        now: 1_000 * MS,
    };
    tap.pipeline.add_target(TARGET, Policy::default());
    for step in steps {
        tap.now += step.after_ms * MS;
        tap.act(step.conn, &step.act);
        assert_adds_up(&tap.pipeline, TARGET);
    }
    let Tap { mut pipeline, captured, .. } = tap;
    pipeline.finish_target(TARGET);
    assert_eq!((pipeline.open_exchanges(TARGET), pipeline.buffered()), (0, 0));
    let mut account = Account::default();
    account.close(&mut pipeline, TARGET);
    Seen { account, ledger: pipeline.ledger(TARGET), captured }
}

struct Tap<'a> {
    pipeline: Pipeline,
    conns: HashMap<ConnId, Conn>,
    manner: &'a Manner,
    /// Records so far, the lost ones included.
    records: usize,
    captured: usize,
    now: u64,
}

impl Tap<'_> {
    fn act(&mut self, conn: ConnId, act: &Act) {
        let state = self.conns.entry(conn).or_default();
        let (ktime_ns, target, pid) = (self.now, TARGET, 42);
        match *act {
            Act::Call(direction, ref bytes) => self.call(conn, direction, bytes),
            Act::End(direction) => {
                let offset = state.positions[direction as usize];
                let untold = state.untold;
                let end = Record::End(End { ktime_ns, conn, target, pid, direction, offset, untold });
                if self.fate() != Fate::Lost {
                    self.hand_over(end);
                }
            }
            Act::Close => {
                let egress_end = state.positions[Direction::Egress as usize];
                let untold = state.untold;
                self.conns.remove(&conn);
                if self.fate() == Fate::Lost {
                    self.pipeline.lose(TARGET, Cause::LostRingFull, untold.into());
                    return;
                }
                let (local_port, from_start) = (80, true);
                self.hand_over(Record::Closed(Closed {
                    ktime_ns,
                    conn,
                    target,
                    pid,
                    local_port,
                    from_start,
                    untold,
                    egress_end,
                    sampled_out: false,
                }));
            }
        }
    }

    /// A system call that moved `bytes`.
    fn call(&mut self, conn: ConnId, direction: Direction, bytes: &[u8]) {
        let state = self.conns.entry(conn).or_default();
        let position = &mut state.positions[direction as usize];
        let base = *position;
        *position += bytes.len() as u64;
        let begins_turn = state.last != Some(direction);
        state.last = Some(direction);
        state.turn += u32::from(begins_turn && direction == Direction::Ingress);
        let turn = state.turn;
        let until = match direction {
            Direction::Ingress => state.mute.ingress_until,
            Direction::Egress => state.mute.egress_until,
        };
        let Some(skip) = usize::try_from(until.saturating_sub(base)).ok().filter(|skip| *skip <= bytes.len())
        else {
            return;
        };
        let mut at = skip;
        // A call that ends where the muted bytes end is reported without any.
        while at < bytes.len() || at == skip {
            let piece = &bytes[at..bytes.len().min(at + self.manner.piece)];
            let is_start = at == 0;
            let fate = self.fate();
            let captured = if let Fate::Cut(length) = fate { piece.len().min(length) } else { piece.len() };
            let data = Data {
                ktime_ns: self.now,
                conn,
                target: TARGET,
                pid: 42,
                local_port: 80,
                direction,
                turn,
                offset: base + at as u64,
                original_len: piece.len() as u32,
                bytes: &piece[..captured],
                from_start: true,
                call_start: is_start,
                turn_start: is_start && begins_turn,
            };
            let state = self.conns.entry(conn).or_default();
            if fate == Fate::Lost {
                state.untold += u32::from(state.noted_turn != turn);
            } else {
                state.untold = 0;
            }
            state.noted_turn = turn;
            if fate != Fate::Lost {
                self.captured += captured;
                self.hand_over(Record::Data(data));
            }
            if piece.is_empty() {
                break;
            }
            at += piece.len();
        }
    }

    /// What becomes of the next record.
    fn fate(&mut self) -> Fate {
        let fates = &self.manner.fates;
        let fate = if fates.is_empty() { Fate::Arrives } else { fates[self.records % fates.len()] };
        self.records += 1;
        fate
    }

    fn hand_over(&mut self, record: Record<'_>) {
        self.pipeline.handle_event(record);
        for (conn, mute) in self.pipeline.take_mutes() {
            if let Some(state) = self.conns.get_mut(&conn).filter(|_| self.manner.mutes) {
                state.mute = mute;
            }
        }
        self.pipeline.take_closed().for_each(drop);
        self.pipeline.take_forgotten().for_each(drop);
    }
}
