//! Connections written down as text, and what must come of them.
//!
//! One line per system call of the target, or event:
//!
//! ```text
//! > bytes      received; \r and \n are escapes       >x  the client sends no more
//! < bytes      sent                                  <x  the target sends no more
//! >* 900       900 bytes of body                     x   the connection is closed
//! >! 900       900 bytes moved and no record came    x!  likewise, and no record came
//! >0 900       a record without any of its bytes     p   the process exits
//! <.           a record that says where egress is    x%  nothing more is told of it
//!                                                    ~ 40ms   time passes
//! ```
//!
//! What comes of it: one line for each exchange that is reported (method, template, status, time, request
//! and response size), then one for each non-zero field of the ledger that is not `seen` or `reported`, nor a
//! detail of another one.
//!
//! The tests of the pipeline are written in it, and the fuzzer reads it: what it finds becomes a case by
//! pasting it.

use agent_common::{
    conn::Direction,
    decode::{Closed, Data, End, Process, Record},
};

#[cfg(test)]
use super::target::Target;
use super::{Ktime, Limits, Pipeline, Policy, ledger::Cause};

#[cfg(test)]
mod cases;
#[cfg(test)]
mod details;
#[cfg(test)]
mod properties;

pub const TARGET: u32 = 1;

/// One line of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Bytes(Direction, Vec<u8>),
    Gap(Direction, u32),
    Unread(Direction, u32),
    Position(Direction),
    End(Direction),
    Close,
    LostClose,
    SampledOut,
    Exit,
    Wait(u64),
}

/// How the bytes of a line become records.
#[derive(Clone, Copy, Debug)]
pub enum Split {
    Whole,
    /// A record, and a system call, per byte.
    Bytes,
    /// In two at this byte of the transcript.
    At(usize),
}

/// Longest body that one line stands for, bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Reads a transcript. Total: what is no line is skipped.
pub fn read(script: &str) -> Vec<Line> {
    script.lines().filter_map(|line| read_line(line.trim_start())).collect()
}

fn read_line(line: &str) -> Option<Line> {
    let number = |text: &str| text.trim().parse().ok();
    match line.trim_end() {
        "x" => return Some(Line::Close),
        "x!" => return Some(Line::LostClose),
        "x%" => return Some(Line::SampledOut),
        "p" => return Some(Line::Exit),
        "" => return None,
        _ => {}
    }
    if let Some(wait) = line.strip_prefix('~') {
        return number(wait.trim().trim_end_matches("ms")).map(|ms: u32| Line::Wait(ms.into()));
    }
    let (direction, rest) = match line.split_at_checked(1)? {
        (">", rest) => (Direction::Ingress, rest),
        ("<", rest) => (Direction::Egress, rest),
        _ => return None,
    };
    match rest.split_at_checked(1)? {
        (" ", text) => Some(Line::Bytes(direction, unescape(text))),
        ("*", count) => {
            let body = |count: usize| Line::Bytes(direction, vec![b'x'; count.min(MAX_BODY)]);
            number(count).map(|count: u32| body(count as usize))
        }
        ("!", count) => number(count).map(|count| Line::Gap(direction, count)),
        ("0", count) => number(count).map(|count| Line::Unread(direction, count)),
        (".", _) => Some(Line::Position(direction)),
        ("x", _) => Some(Line::End(direction)),
        _ => None,
    }
}

fn unescape(text: &str) -> Vec<u8> {
    text.replace("\\r", "\r").replace("\\n", "\n").into_bytes()
}

/// Plays lines as the kernel side would report them: positions, turns and flags are made here.
#[derive(Debug)]
pub struct Player {
    pub pipeline: Pipeline,
    pub conn: u64,
    /// Position and turn begin here; not 0 when the connection is met in the middle.
    pub positions: [u64; 2],
    pub turn: u32,
    pub from_start: bool,
    now: u64,
    last: Option<Direction>,
    turn_started: bool,
    /// The latest turn that had something to tell, and how many such there were since the last record.
    noted_turn: u32,
    untold: u32,
}

impl Player {
    pub fn new(policy: Policy) -> Self {
        Self::within(policy, Limits::default())
    }

    pub fn within(policy: Policy, limits: Limits) -> Self {
        let mut pipeline = Pipeline::new(limits);
        pipeline.add_target(TARGET, policy);
        Self {
            pipeline,
            conn: 7,
            positions: [0, 0],
            turn: 0,
            from_start: true,
            now: 1_000_000_000,
            last: None,
            turn_started: false,
            noted_turn: 0,
            untold: 0,
        }
    }

    pub fn play(&mut self, lines: &[Line], split: Split) {
        self.play_each(lines, split, |_| ());
    }

    /// Likewise, and looks at what came of it after each line.
    pub fn play_each(&mut self, lines: &[Line], split: Split, look: impl Fn(&Self)) {
        let mut passed = 0;
        for line in lines {
            look(self);
            let Line::Bytes(direction, bytes) = line else {
                self.event(line);
                continue;
            };
            let cut = match split {
                Split::At(at) if at > passed && at < passed + bytes.len() => at - passed,
                _ => bytes.len(),
            };
            passed += bytes.len();
            match split {
                Split::Bytes => bytes.iter().for_each(|byte| self.data(*direction, &[*byte], 1)),
                _ => {
                    let (first, second) = bytes.split_at(cut);
                    for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
                        self.data(*direction, part, part.len() as u32);
                    }
                }
            }
        }
    }

    fn event(&mut self, line: &Line) {
        let (ktime_ns, conn, target, pid) = (self.now, self.conn, TARGET, 42);
        match *line {
            Line::Bytes(direction, ref bytes) => self.data(direction, bytes, bytes.len() as u32),
            Line::Gap(direction, count) => self.skip(direction, count),
            Line::Unread(direction, count) => self.data(direction, &[], count),
            Line::Position(direction) => self.data(direction, &[], 0),
            Line::Wait(ms) => self.now += ms * 1_000_000,
            Line::Exit => {
                self.pipeline.handle_event(Record::ProcessExited(Process { ktime_ns, target, pid }));
            }
            Line::End(direction) => {
                let offset = self.positions[direction as usize];
                let end = End { ktime_ns, conn, target, pid, direction, offset, untold: self.untold };
                self.pipeline.handle_event(Record::End(end));
            }
            Line::LostClose => self.pipeline.lose(target, Cause::LostRingFull, self.untold.into()),
            Line::Close | Line::SampledOut => {
                let egress_end = self.positions[Direction::Egress as usize];
                let closed = Closed {
                    ktime_ns,
                    conn,
                    target,
                    pid,
                    local_port: 80,
                    from_start: self.from_start,
                    untold: self.untold,
                    egress_end,
                    sampled_out: *line == Line::SampledOut,
                };
                self.pipeline.handle_event(Record::Closed(closed));
            }
        }
    }

    /// Bytes move and no record comes of it.
    pub fn skip(&mut self, direction: Direction, count: u32) {
        self.turn(direction);
        self.turn_started = true;
        self.positions[direction as usize] += u64::from(count);
        self.untold += u32::from(self.noted_turn != self.turn);
        self.noted_turn = self.turn;
    }

    pub fn data(&mut self, direction: Direction, bytes: &[u8], original_len: u32) {
        self.record(direction, bytes, original_len, true);
    }

    /// A record that goes on with the system call of the one before.
    pub fn goes_on(&mut self, direction: Direction, bytes: &[u8]) {
        self.record(direction, bytes, bytes.len() as u32, false);
    }

    fn record(&mut self, direction: Direction, bytes: &[u8], original_len: u32, call_start: bool) {
        self.turn(direction);
        let record = Data {
            ktime_ns: self.now,
            conn: self.conn,
            target: TARGET,
            pid: 42,
            local_port: 80,
            direction,
            turn: self.turn,
            offset: self.positions[direction as usize],
            original_len,
            bytes,
            from_start: self.from_start,
            call_start,
            turn_start: !self.turn_started,
        };
        self.positions[direction as usize] += u64::from(original_len);
        self.turn_started |= original_len > 0;
        (self.noted_turn, self.untold) = (self.turn, 0);
        self.pipeline.handle_event(Record::Data(record));
    }

    fn turn(&mut self, direction: Direction) {
        if self.last != Some(direction) {
            self.turn += u32::from(direction == Direction::Ingress);
            self.turn_started = false;
            self.last = Some(direction);
        }
    }

    pub fn wait(&mut self, ms: u64) {
        self.now += ms * 1_000_000;
    }

    pub fn tick(&mut self) {
        self.pipeline.handle_tick(Ktime(self.now));
    }

    #[cfg(test)]
    pub fn target(&self) -> &Target {
        self.pipeline.targets.get(&TARGET).unwrap()
    }

    /// What came of it, in the notation of this file.
    #[cfg(test)]
    pub fn outcome(&self) -> String {
        let ledger = self.pipeline.ledger(TARGET);
        let mut lines = self.target().reported.clone();
        let details = ["bytes_", "heads_", "connections_evicted"];
        let is_detail = |name: &str| {
            matches!(name, "connections" | "connections_overflowed" | "gaps")
                || details.iter().any(|detail| name.starts_with(detail))
        };
        let notes = ledger.notes().filter(|(name, _)| !is_detail(name));
        let fields = ledger.causes().chain(notes);
        let open = ("open", self.pipeline.open_exchanges(TARGET));
        for (name, count) in fields.chain([open]).filter(|(_, count)| *count > 0) {
            lines.push(format!("{name} {count}"));
        }
        lines.join("\n")
    }
}

/// Plays a transcript whole, by bytes, and cut in two at every byte; the outcome must be the same.
#[cfg(test)]
#[track_caller]
pub fn check_transcript(script: &str, want: &str) {
    check_with(|| Player::new(Policy::default()), script, want);
}

#[cfg(test)]
#[track_caller]
pub fn check_with(player: impl Fn() -> Player, script: &str, want: &str) {
    let lines = read(script);
    let want: Vec<&str> = want.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let want = want.join("\n");
    let count: usize = lines.iter().map(|line| if let Line::Bytes(_, b) = line { b.len() } else { 0 }).sum();
    let cuts = (1..count).step_by(1 + count / 2000).map(Split::At);
    for split in [Split::Whole, Split::Bytes].into_iter().chain(cuts) {
        let mut player = player();
        player.play(&lines, split);
        assert_eq!(player.outcome(), want, "{split:?}");
    }
}
