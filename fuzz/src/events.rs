//! Events in any order, with any values, for several targets and connections: nothing grows beyond its bound, and
//! everything adds up.

use std::time::Duration;

use agent::pipeline::{
    Ktime, Limits, Pipeline, Policy,
    consumer::{ConsumerRule, ConsumerRules, Key, Source},
    detail::Keep,
    ledger::Cause,
};
use agent_common::{
    conn::{Direction, TargetId},
    decode::{Closed, Data, End, Peer, Process, Record},
};
use arbitrary::{Result, Unstructured};

use crate::account::{Account, assert_adds_up};

/// Small enough for each to be reached.
const LIMITS: Limits = Limits {
    max_connections: 5,
    idle_timeout: Duration::from_secs(60),
    idle_open_timeout: Duration::from_secs(300),
    max_pipelined: 3,
    max_open: 6,
    max_buffered: 400,
    max_routes: 4,
    max_consumers: 3,
    max_rows: 6,
    max_details: 3000,
    max_cumulative: 50_000,
};

const TARGETS: [TargetId; 3] = [1, 2, 3];

/// Pieces of messages, to be put together.
const WORDS: [&[u8]; 23] = [
    b"GET /a HTTP/1.1\r\n\r\n",
    b"GET /b/7 HTTP/1.1\r\nwho: me\r\n\r\n",
    b"GET /",
    b"POST /c HTTP/1.1\r\nwho: you\r\ncontent-length: 9000\r\n\r\n",
    b"POST /d HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 201 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
    b"HTTP/1.1 404 OK\r\ncontent-length: 0\r\n\r\n",
    b"POST /e HTTP/1.1\r\ncontent-type: a/b\r\ncontent-length: 30\r\n\r\n",
    b"HTTP/1.1 422 No\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"message\":[\"\"]}",
    b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
    b"\r\n",
    b"\xff\x00",
];

/// Plays events until the choices are used up.
pub fn check(input: &[u8]) {
    let mut tap = Tap::new();
    let mut choices = Unstructured::new(input);
    while !choices.is_empty() {
        if tap.event(&mut choices).is_err() {
            break;
        }
        tap.assert_bounded();
    }
    for target in TARGETS {
        tap.pipeline.finish_target(target);
        assert_eq!(tap.pipeline.open_exchanges(target), 0);
        assert_eq!(tap.pipeline.connections(target), 0);
        assert_adds_up(&tap.pipeline, target);
        tap.pipeline.take_logged(target);
    }
    assert_eq!((tap.pipeline.buffered(), tap.pipeline.details()), (0, 0));
}

struct Tap {
    pipeline: Pipeline,
    accounts: [Account; TARGETS.len()],
    /// A clock that mostly goes on.
    now: u64,
    turn: u32,
    policy: Policy,
    /// Of each connection, per direction.
    positions: [[u64; 2]; 8],
    /// Events since mutes and closed connections were taken.
    untaken: usize,
}

impl Tap {
    fn new() -> Self {
        let who = ConsumerRule::new(Source::header("who").expect("it is a name"));
        let rules = ConsumerRules::new(Key::from_client_id(""), vec![who]).expect("one rule is not too many");
        let keep = Keep {
            exchanges: true,
            request_bodies: true,
            response_bodies: true,
            content_types: vec!["a/".to_owned()],
            errors: true,
        };
        let policy = Policy { consumers: rules.into(), keep, ..Policy::default() };
        let mut pipeline = Pipeline::new(LIMITS);
        // The first keeps nothing, the others share what there is for details.
        pipeline.add_target(TARGETS[0], Policy { keep: Keep::default(), ..policy.clone() });
        pipeline.add_target(TARGETS[1], Policy { ports: vec![80], ..policy.clone() });
        Self {
            pipeline,
            policy,
            accounts: Default::default(),
            now: 1_000_000_000,
            turn: 0,
            positions: [[0; 2]; 8],
            untaken: 0,
        }
    }

    fn event(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let index = choices.int_in_range(0..=2)?;
        let target = TARGETS[index];
        match choices.int_in_range(0..=31)? {
            0 => self.pipeline.add_target(target, Policy { ports: vec![80, 8080], ..self.policy.clone() }),
            1 => {
                self.untaken += 1;
                self.pipeline.finish_target(target);
            }
            2 => self.pipeline.resume_target(target),
            3 => {
                self.untaken += 1;
                self.pipeline.remove_target(target);
                self.accounts[index] = Account::default();
                self.pipeline.add_target(target, self.policy.clone());
            }
            4 => {
                self.untaken += 1;
                let ahead = choices.int_in_range(0..=400_000_000_000)?;
                self.now = self.now.saturating_add(ahead);
                self.pipeline.handle_tick(Ktime(self.now));
                if choices.arbitrary()? {
                    self.pipeline.make_room(Ktime(self.now));
                }
            }
            5 => {
                self.accounts[index].take(&mut self.pipeline, target);
                self.pipeline.take_logged(target);
            }
            6 => {
                let mutes = self.pipeline.take_mutes().count();
                let closed = self.pipeline.take_closed().count();
                let forgotten = self.pipeline.take_forgotten().count();
                assert!(mutes <= self.untaken, "more than one mute for an event");
                assert!(closed <= self.untaken, "more than one close for an event");
                // The end of a process, or of a target, ends as many connections as there are.
                assert!(forgotten <= self.untaken * LIMITS.max_connections);
                self.untaken = 0;
            }
            kind @ 7..=11 => {
                let record = self.control(kind, target, choices)?;
                self.untaken += 1;
                self.pipeline.handle_event(record);
            }
            12 => {
                let cause = *choices.choose(&[Cause::LostRingFull, Cause::SampledOut])?;
                self.pipeline.lose(target, cause, choices.int_in_range(0..=3)?);
            }
            _ => self.data(target, choices)?,
        }
        Ok(())
    }

    /// An event without bytes.
    fn control(
        &mut self,
        kind: u32,
        target: TargetId,
        choices: &mut Unstructured<'_>,
    ) -> Result<Record<'static>> {
        let ktime_ns = self.time(choices)?;
        let (conn, pid) = (choices.int_in_range(0..=7)?, choices.int_in_range(1..=3)?);
        let direction = *choices.choose(&Direction::ALL)?;
        let offset = self.offset(conn, direction, choices)?;
        Ok(match kind {
            7 => {
                let untold = hostile(choices, 0)? as u32;
                Record::End(End { ktime_ns, conn, target, pid, direction, offset, untold })
            }
            8 => Record::Closed(Closed {
                ktime_ns,
                conn,
                target,
                pid,
                local_port: *choices.choose(&[80, 0])?,
                from_start: choices.arbitrary()?,
                untold: hostile(choices, 0)? as u32,
                egress_end: offset,
                sampled_out: choices.arbitrary()?,
            }),
            9 => Record::ProcessForked(Process { ktime_ns, target, pid }),
            10 => Record::ProcessExited(Process { ktime_ns, target, pid }),
            _ => Record::Peer(Peer { ktime_ns, conn, target, address: ([10, 0, 0, pid as u8], 80).into() }),
        })
    }

    /// Bytes that moved, mostly where the direction had got to.
    fn data(&mut self, target: TargetId, choices: &mut Unstructured<'_>) -> Result<()> {
        let conn = choices.int_in_range(0..=7)?;
        let direction = *choices.choose(&Direction::ALL)?;
        let mut bytes = Vec::new();
        for _ in 0..choices.int_in_range(0..=4)? {
            bytes.extend(*choices.choose(&WORDS)?);
        }
        let usual = bytes.len() as u32;
        let flags: u8 = choices.arbitrary()?;
        let odd = |bit: u8| flags & 1 << bit != 0;
        self.turn = match direction {
            _ if odd(6) && odd(7) => hostile(choices, self.turn.into())? as u32,
            Direction::Ingress if odd(2) => self.turn.saturating_add(1),
            _ => self.turn,
        };
        let offset = self.offset(conn, direction, choices)?;
        let mut original_len = if odd(5) && odd(4) { hostile(choices, usual.into())? as u32 } else { usual };
        // What `decode` lets through.
        original_len = original_len.min(u32::try_from(u64::MAX - offset).unwrap_or(u32::MAX));
        bytes.truncate(original_len as usize);
        if odd(3) && odd(4) {
            bytes.truncate(choices.int_in_range(0..=bytes.len())?);
        }
        self.positions[conn as usize][direction as usize] = offset + u64::from(original_len);
        let record = Data {
            ktime_ns: self.time(choices)?,
            conn,
            target,
            pid: choices.int_in_range(1..=3)?,
            local_port: *choices.choose(&[80, 80, 0, 8080])?,
            direction,
            turn: self.turn,
            offset,
            original_len,
            bytes: &bytes,
            from_start: !odd(0),
            call_start: !(odd(1) && odd(3)),
            turn_start: odd(2),
        };
        self.untaken += 1;
        self.pipeline.handle_event(Record::Data(record));
        Ok(())
    }

    fn time(&mut self, choices: &mut Unstructured<'_>) -> Result<u64> {
        if choices.ratio(1, 16)? {
            return hostile(choices, self.now);
        }
        self.now = self.now.saturating_add(choices.int_in_range(0..=1_000_000)?);
        Ok(self.now)
    }

    fn offset(&mut self, conn: u64, direction: Direction, choices: &mut Unstructured<'_>) -> Result<u64> {
        let position = self.positions[conn as usize][direction as usize];
        if choices.ratio(1, 8)? { hostile(choices, position) } else { Ok(position) }
    }

    fn assert_bounded(&self) {
        let pipeline = &self.pipeline;
        let connections: usize = TARGETS.map(|target| pipeline.connections(target)).iter().sum();
        assert!(connections <= LIMITS.max_connections, "{connections} connections");
        let buffered = pipeline.buffered();
        assert!(buffered <= LIMITS.max_buffered, "{buffered} bytes of heads");
        assert!(pipeline.details() <= LIMITS.max_details);
        assert!(pipeline.details_add_up());
        for target in TARGETS {
            assert_adds_up(pipeline, target);
            assert!(pipeline.open_exchanges(target) <= LIMITS.max_open);
            assert!(pipeline.templates(target).count() <= LIMITS.max_routes);
            assert!(pipeline.consumers(target) <= LIMITS.max_consumers);
        }
    }
}

/// Something near `usual`, or at the end of what a number holds.
fn hostile(choices: &mut Unstructured<'_>, usual: u64) -> Result<u64> {
    let near = choices.int_in_range(0..=300)?;
    Ok(match choices.int_in_range(0..=5)? {
        0 => usual.saturating_add(near),
        1 => usual.saturating_sub(near),
        2 => near,
        3 => u64::MAX - near,
        4 => u64::from(u32::MAX).saturating_add(near),
        _ => choices.arbitrary()?,
    })
}
