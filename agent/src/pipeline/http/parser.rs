//! One direction of a connection, cut into messages. What a head means is decided by whoever feeds it.
//!
//! After a gap that may hide a message boundary a parser is lost. It finds its way back by [`Parser::probe`]:
//! a complete head where a boundary is proven; who may claim that is decided in `exchange`.

use super::{
    body::{Body, Reached},
    head::{MAX_HEAD, NotAHead, RESPONSE_PREFIX},
};
use crate::pipeline::{Ktime, ledger::Cause};

/// When a record came and which turn it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    pub time: Ktime,
    pub turn: u32,
}

/// How a head is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every byte before it is accounted for.
    InStep,
    /// It stands where a boundary must be if it is a head.
    Probing,
}

/// What a head turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Partial,
    /// It takes `length` bytes; then what follows.
    Head { length: usize, then: Then },
    /// These bytes are no head, skip them and look again.
    Skip { length: usize },
    /// It is none.
    Refused(NotAHead),
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next message.
    Message,
    Body(Body),
    /// Bytes that are not to be read until [`Parser::release`].
    Hold,
    /// We cannot tell.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At a boundary: empty lines, then a head. `Parser::head` has what came of it.
    Head(Standing),
    Body(Body),
    Hold {
        skipped: bool,
    },
    Lost,
}

/// One step through the bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All bytes are used up.
    More,
    /// A head was taken, or something before it.
    Head,
    /// Body bytes were counted.
    Body { data: u64, reached: Reached },
    /// At a boundary in step, there is no head; the parser is lost now and the bytes are dropped.
    Refused(NotAHead),
}

/// What a gap did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapEffect {
    /// It lay in a body, or it was known that nothing is known.
    Inside { data: u64 },
    /// It went to the end of the body, and `beyond` bytes further.
    BodyEnd { data: u64, beyond: u64 },
    /// It hides the end of the body.
    BodyHidden,
    /// It hides where messages begin. `begun`: inside a head of which some was seen.
    Boundary { begun: bool },
}

/// For whom a direction is read.
pub trait Reader {
    /// Judges a head as far as it has come; `began` is where its first byte was.
    fn head(&mut self, bytes: &[u8], began: At, standing: Standing) -> Verdict;

    /// Takes some more data of the body, without its transfer coding.
    fn body(&mut self, data: &[u8]);
}

/// Cuts one direction into messages. Holds at most [`MAX_HEAD`] bytes, and none when heads come whole.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// The beginning of a head that is not complete.
    head: Vec<u8>,
    /// Where its first byte was.
    began: At,
    /// What put it out of step. While it is in step, `LostGap`: what it is unless a gap says otherwise.
    lost_to: Cause,
}

impl Parser {
    /// At the beginning of a message.
    pub fn in_step() -> Self {
        let (state, lost_to) = (State::Head(Standing::InStep), Cause::LostGap);
        Self { state, head: Vec::new(), began: At::default(), lost_to }
    }

    /// Anywhere, for a reason that exchanges are put down to until it is in step.
    pub fn lost(lost_to: Cause) -> Self {
        Self { state: State::Lost, lost_to, ..Self::in_step() }
    }

    /// What an exchange is put down to that this direction lost: what put it out of step. When it is in step, a
    /// record that nobody has missed yet.
    pub fn lost_to(&self) -> Cause {
        if self.is_lost() { self.lost_to } else { Cause::LostRingFull }
    }

    /// Nothing is known about the position, unless a probe turns out well.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost | State::Head(Standing::Probing))
    }

    /// Some bytes of a head have come, in step.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Head(Standing::InStep) && !self.head.is_empty()
    }

    /// Bytes from here on that are certain to be body data.
    pub fn certain(&self) -> u64 {
        if let State::Body(body) = &self.state { body.certain() } else { 0 }
    }

    /// Bytes held, in memory.
    pub fn buffered(&self) -> usize {
        self.head.capacity()
    }

    /// Takes the next byte for the beginning of a head, if a whole head follows.
    pub fn probe(&mut self) {
        self.head = Vec::new();
        self.state = State::Head(Standing::Probing);
    }

    /// Nothing is known from here on.
    pub fn lose(&mut self) {
        self.head = Vec::new();
        self.state = State::Lost;
    }

    /// What was on hold is a message after all; those bytes that were skipped meanwhile may have been one.
    pub fn release(&mut self) {
        if let State::Hold { skipped } = self.state {
            self.state = if skipped { State::Lost } else { State::Head(Standing::InStep) };
        }
    }

    /// Takes a step through `input`, for `reader`. At most `room` bytes of memory are kept: a head that needs more is
    /// refused.
    pub fn step(&mut self, input: &mut &[u8], at: At, room: usize, reader: &mut impl Reader) -> Step {
        if let State::Head(_) = self.state
            && self.head.is_empty()
        {
            // RFC 9112 section 2.2: empty lines before a request are ignored.
            let lines = input.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
            *input = input.get(lines..).unwrap_or_default();
        }
        if input.is_empty() {
            return Step::More;
        }
        match &mut self.state {
            State::Lost => {
                *input = &[];
                Step::More
            }
            State::Hold { skipped } => {
                *skipped = true;
                *input = &[];
                Step::More
            }
            State::Body(body) => {
                let progress = body.feed(input, |data| reader.body(data));
                let taken = usize::try_from(progress.taken).unwrap_or(usize::MAX);
                *input = input.get(taken..).unwrap_or_default();
                match progress.state {
                    Reached::Inside => {}
                    Reached::End => self.state = State::Head(Standing::InStep),
                    Reached::Hidden => self.state = State::Lost,
                }
                Step::Body { data: progress.data, reached: progress.state }
            }
            State::Head(standing) => {
                let standing = *standing;
                self.head_step(standing, input, at, room, reader)
            }
        }
    }

    fn head_step(
        &mut self,
        standing: Standing,
        input: &mut &[u8],
        at: At,
        room: usize,
        reader: &mut impl Reader,
    ) -> Step {
        let held = self.head.len();
        let verdict = if held == 0 {
            self.began = at;
            reader.head(input.get(..MAX_HEAD).unwrap_or(input), at, standing)
        } else {
            let usable = input.len().min(MAX_HEAD.saturating_sub(held));
            let fresh = input.get(..usable).unwrap_or_default();
            self.head.extend_from_slice(fresh);
            // Judged again only when a line has ended, so at most once per field, or while so little had come
            // that the next byte may tell.
            let telling = held < RESPONSE_PREFIX.len() || fresh.contains(&b'\n');
            if telling { reader.head(&self.head, self.began, standing) } else { Verdict::Partial }
        };
        match verdict {
            Verdict::Head { length, .. } | Verdict::Skip { length } => {
                *input = input.get(length.saturating_sub(held)..).unwrap_or_default();
                self.head = Vec::new();
            }
            Verdict::Partial => {
                if held == 0 {
                    self.head.extend_from_slice(input.get(..MAX_HEAD).unwrap_or(input));
                }
                if self.head.len() >= MAX_HEAD || self.head.capacity() > room {
                    return self.refuse(standing, input, NotAHead::TooLarge);
                }
                *input = &[];
            }
            Verdict::Refused(why) => return self.refuse(standing, input, why),
        }
        match verdict {
            Verdict::Head { then, .. } => {
                if then != Then::Lost {
                    self.lost_to = Cause::LostGap;
                }
                self.state = match then {
                    Then::Message => State::Head(Standing::InStep),
                    Then::Body(body) => State::Body(body),
                    Then::Hold => State::Hold { skipped: false },
                    Then::Lost => State::Lost,
                };
                Step::Head
            }
            Verdict::Skip { .. } => Step::Head,
            Verdict::Partial | Verdict::Refused(_) => Step::More,
        }
    }

    fn refuse(&mut self, standing: Standing, input: &mut &[u8], why: NotAHead) -> Step {
        self.lose();
        *input = &[];
        match standing {
            Standing::Probing if why != NotAHead::Http2 => Step::More,
            _ => Step::Refused(why),
        }
    }

    /// Moves over `missing` bytes, more than 0; `cause` is what is lost in them put down to.
    pub fn gap(&mut self, missing: u64, cause: Cause) -> GapEffect {
        let was_in_step = !self.is_lost();
        let effect = self.skip(missing);
        if was_in_step && self.is_lost() {
            self.lost_to = cause;
        }
        effect
    }

    fn skip(&mut self, missing: u64) -> GapEffect {
        match &mut self.state {
            State::Body(body) => {
                let progress = body.skip(missing);
                let beyond = missing.saturating_sub(progress.taken);
                match progress.state {
                    Reached::Inside => GapEffect::Inside { data: progress.data },
                    Reached::End => {
                        self.state = if beyond == 0 { State::Head(Standing::InStep) } else { State::Lost };
                        GapEffect::BodyEnd { data: progress.data, beyond }
                    }
                    Reached::Hidden => {
                        self.lose();
                        GapEffect::BodyHidden
                    }
                }
            }
            State::Head(Standing::InStep) => {
                let begun = !self.head.is_empty();
                self.lose();
                GapEffect::Boundary { begun }
            }
            State::Hold { skipped } => {
                *skipped = true;
                GapEffect::Inside { data: 0 }
            }
            State::Head(Standing::Probing) | State::Lost => {
                self.lose();
                GapEffect::Inside { data: 0 }
            }
        }
    }
}
