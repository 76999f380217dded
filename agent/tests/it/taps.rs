//! Recorded taps as traffic that never ends: connections that stay open, and go on from their first exchange after the
//! last.

use std::collections::BTreeMap;

use agent::{
    pipeline::{Limits, Pipeline, Policy, ledger::Cause},
    recording::{Frame, Reader},
};
use agent_common::{
    conn::{ConnId, Direction, TargetId},
    decode::{Data, Record, decode},
};
use tests::recordings::tap;

pub const TARGET: TargetId = 1;

/// Between two times that a dialog is played.
const PAUSE_NS: u64 = 1_000_000;

/// What was recorded of one connection, without its end: whole exchanges, of which nothing is missing. So it may be
/// played again and again on a connection that stays open.
pub struct Dialog {
    /// As they stood in the ring buffer; data alone.
    records: Vec<Box<[u8]>>,
    pub requests: u64,
    /// Those that lead to no route.
    pub unmatched: u64,
    length: Length,
}

/// How far a connection has moved on once its dialog was played.
#[derive(Default)]
struct Length {
    ingress: u64,
    egress: u64,
    turns: u32,
    ns: u64,
}

/// A pipeline with [`TARGET`] and nothing behind it.
pub fn pipeline() -> Pipeline {
    let mut pipeline = Pipeline::new(Limits::default());
    pipeline.add_target(TARGET, Policy::default());
    pipeline
}

/// What of a recording can be played again and again.
///
/// # Panics
/// When that is nothing.
pub fn dialogs(name: &str) -> Vec<Dialog> {
    let mut conns: BTreeMap<ConnId, Vec<Box<[u8]>>> = BTreeMap::new();
    let mut reader = Reader::open(&tap(name)).expect("it is in the tree");
    while let Some(frame) = reader.next_frame().expect("it is whole") {
        if let Frame::Record(bytes) = frame
            && let Ok(Record::Data(data)) = decode(bytes)
        {
            conns.entry(data.conn).or_default().push(bytes.into());
        }
    }
    let dialogs: Vec<_> = conns.into_values().filter_map(Dialog::new).collect();
    assert!(!dialogs.is_empty(), "no connection of {name} can be played again");
    dialogs
}

impl Dialog {
    /// None when it could not be played again on the same connection.
    fn new(records: Vec<Box<[u8]>>) -> Option<Self> {
        let mut length = Length::default();
        let mut times = records.iter().map(|record| data(record).ktime_ns);
        let first = times.next()?;
        length.ns = times.max().unwrap_or(first).saturating_sub(first) + PAUSE_NS;
        for data in records.iter().map(|record| data(record)) {
            let end = data.offset + u64::from(data.original_len);
            let reached = match data.direction {
                Direction::Ingress => &mut length.ingress,
                Direction::Egress => &mut length.egress,
            };
            *reached = end.max(*reached);
            length.turns = length.turns.max(data.turn);
        }
        let mut dialog = Self { records, requests: 0, unmatched: 0, length };
        let mut pipeline = pipeline();
        dialog.play(1, 0, &mut pipeline);
        let once = pipeline.ledger(TARGET);
        (dialog.requests, dialog.unmatched) = (once.seen, once.lost_to(Cause::Unmatched));
        (1..4).for_each(|round| dialog.play(1, round, &mut pipeline));
        let ledger = pipeline.ledger(TARGET);
        let is_regular = ledger.seen == 4 * once.seen && ledger.reported == 4 * once.reported;
        let is_whole = is_regular && ledger.missed() == 0 && ledger.aborted_responses == 0;
        (once.reported > 0 && is_whole).then_some(dialog)
    }

    /// Heads of which the record that begins a turn has not all.
    pub fn split_heads(&self) -> u64 {
        let begins = self.records.iter().map(|record| data(record)).filter(|data| data.turn_start);
        begins.filter(|data| !data.bytes.windows(4).any(|end| end == b"\r\n\r\n")).count() as u64
    }

    /// Plays it on connection `conn`, which has played it `round` times.
    pub fn play(&self, conn: ConnId, round: u64, pipeline: &mut Pipeline) {
        for record in &self.records {
            let recorded = data(record);
            let (length, turns) = (&self.length, self.length.turns.wrapping_mul(round as u32));
            let passed = match recorded.direction {
                Direction::Ingress => length.ingress,
                Direction::Egress => length.egress,
            };
            pipeline.handle_event(Record::Data(Data {
                conn,
                target: TARGET,
                ktime_ns: recorded.ktime_ns + length.ns * round,
                offset: recorded.offset + passed * round,
                turn: recorded.turn.wrapping_add(turns),
                ..recorded
            }));
            pipeline.take_mutes().for_each(drop);
            pipeline.take_forgotten().for_each(drop);
        }
    }
}

fn data(record: &[u8]) -> Data<'_> {
    match decode(record) {
        Ok(Record::Data(data)) => data,
        other => panic!("only data is kept, not {other:?}"),
    }
}
