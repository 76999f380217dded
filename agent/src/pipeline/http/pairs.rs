//! Pairs the requests of a connection with their responses: pipelining, 1xx, HEAD, upgrades, gaps.
//!
//! Both directions are parsed on their own. Requests queue; a response takes the oldest that has none, and
//! is framed by its method. Three facts about *turns* (bursts of ingress, numbered by the kernel side) put
//! us back in step after a gap that may hide where messages begin:
//!
//! - A client that does not pipeline sends a request when it has the whole response before it. So ingress
//!   that begins a turn, and a system call, begins a request, if the turn before it brought a final response.
//!   (After an interim 100 it is the body of the same request; so when we did not see what the turn before
//!   brought, we wait for one more turn, unless its request is known and expects no 100.)
//! - Egress that begins a turn, and a system call, begins a response to the first request of that turn.
//! - Turns of which nothing was parsed are exchanges that were lost, one each, unless their first bytes are known and
//!   cannot begin a request.
//!
//! Neither of the first two is believed without a complete head, and none of them on a connection that was
//! seen to overlap turns (a request sent before the response to an earlier turn's was complete).

use std::collections::VecDeque;

use agent_common::limits::ROLE_PREFIX;

use super::{
    body::{Body, Reached},
    exchange::{Context, Over},
    framing::Framing,
    head::{self, Method, NotAHead},
    parser::{At, GapEffect, Parser, Standing, Then, Verdict},
};
use crate::pipeline::{
    Ktime, ResponseTime,
    counters::Measured,
    detail::collect::{Details, NoRoom},
    ledger::Cause,
    stream::Advance,
    target::{Answer, Outcome, Request},
};

/// Which response belongs to which request.
#[derive(Debug)]
pub struct Pairs {
    /// Open exchanges, oldest first. At most the last has an incomplete request, at most the first has an
    /// incomplete response.
    pub queue: VecDeque<Exchange>,
    /// Every exchange that began in this turn or before is opened, or counted as lost.
    pub accounted: u32,
    /// Latest turn in which ingress was in step.
    pub followed: u32,
    /// Latest turn of any record.
    pub newest_turn: u32,
    /// Latest turn in which a final response began.
    pub final_turn: Option<u32>,
    /// What the client began this turn with, as long as it is out of step and that may yet tell something.
    pub opening: Option<Opening>,
    /// What the target sent last.
    pub sent_last: Latest,
    /// Requests may have been lost in turns that are accounted for otherwise.
    pub hidden_requests: bool,
    /// A request was seen to be sent before the response to an earlier turn's was complete.
    pub overlaps: bool,
    /// No request head was complete so far.
    pub virgin: bool,
    /// Met in the middle, and virgin: whether the target is the server is not known, so nothing is counted.
    pub unproven: bool,
    /// Met in the middle, and what was read has the form of a request: no answer has shown yet that it is one. A
    /// client may read the same in the body of a response.
    pub doubted: bool,
    /// The client ended its direction.
    pub client_ended: bool,
    /// A CONNECT was refused: its connection goes on with HTTP.
    pub release_requests: bool,
    /// A request was answered before its head was complete, and counted: the rest of it is none of ours.
    pub drop_head: bool,
    /// What lost exchanges are put down to: those of which no request was seen, those without an answer.
    pub requests_lost_to: Cause,
    pub responses_lost_to: Cause,
    pub over: Option<Over>,
}

/// Requests that a connection keeps room for. It may keep up to four times that, and up to four times what waits.
pub const QUEUE_ROOM: usize = 2;

#[derive(Debug)]
pub struct Exchange {
    pub request: Request,
    /// When the request's head was complete.
    pub head_received: At,
    /// Latest turn that brought bytes of the request.
    pub request_turn: u32,
    pub request_body: RequestBody,
    /// Its client waits for a 100 before it sends the body, in a turn of its own.
    pub expects_continue: bool,
    pub response: Option<Response>,
    /// Where the policy keeps any.
    pub details: Option<Box<Details>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// None, and no Content-Length either.
    Absent,
    /// More is to come.
    Coming {
        declared: Option<u64>,
        seen: u64,
    },
    Complete {
        size: u64,
    },
    /// It ended somewhere, after a number of bytes nobody knows.
    Hidden,
}

#[derive(Clone, Copy, Debug)]
pub struct Response {
    pub status: u16,
    pub first_byte: Ktime,
    pub last_byte: Ktime,
    /// Turn of its latest bytes.
    pub turn: u32,
    /// Body bytes so far.
    pub size: u64,
    pub state: ResponseState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// More is to come, up to a length or a last chunk.
    Coming,
    /// More may come until the connection closes.
    UntilClose,
    Complete,
    /// Where it ends lay in a gap. `closed`: the latest bytes look like the end of a chunked body.
    Hidden {
        closed: bool,
    },
}

/// The first bytes of a turn, empty lines left out, as many as it takes to see that no request begins there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    bytes: [u8; ROLE_PREFIX + 1],
    length: usize,
}

impl Opening {
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = if self.length == 0 { bytes.trim_ascii_start() } else { bytes };
        for (slot, byte) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *slot = *byte;
            self.length += 1;
        }
    }

    pub fn seen(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The latest bytes of a direction, as many as it takes to see a chunked body's end, whatever records they
/// came in. Zeros where there are none, or a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latest([u8; 5]);

impl Latest {
    pub fn push(&mut self, advance: Advance<'_>) {
        if advance.gap > 0 {
            *self = Self::default();
        }
        if let Some(last) = advance.bytes.last_chunk() {
            self.0 = *last;
        } else {
            for byte in advance.bytes {
                let [_, a, b, c, d] = self.0;
                self.0 = [a, b, c, d, *byte];
            }
        }
        if advance.gap_after > 0 {
            *self = Self::default();
        }
    }

    /// They look like the last chunk, without trailer fields.
    pub fn ends_chunked(self) -> bool {
        self.0 == *b"0\r\n\r\n"
    }
}

/// What the client is doing while a response comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Its requests are in step: all whose heads are complete wait in the queue.
    InStep,
    /// Likewise, and it has begun a head that is not complete.
    InHead,
    /// Nobody knows: its requests are out of step.
    Lost,
}

impl Asking {
    pub fn of(requests: &Parser) -> Self {
        if requests.is_lost() {
            Self::Lost
        } else if requests.is_in_head() {
            Self::InHead
        } else {
            Self::InStep
        }
    }
}

/// Which part of a record is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Bytes before the record's first.
    Before,
    /// Bytes before the record, which holds none and says when its position was reached.
    Announced,
    /// Bytes after those that were captured.
    After,
    /// All bytes of the record.
    Unread,
}

impl Missing {
    pub fn before(advance: Advance<'_>) -> Self {
        if advance.bytes.is_empty() && advance.gap_after == 0 { Self::Announced } else { Self::Before }
    }

    pub fn after(advance: Advance<'_>) -> Self {
        if advance.bytes.is_empty() { Self::Unread } else { Self::After }
    }
}

impl Pairs {
    /// Of a connection whose first record has `turn`, and whose turns are accounted for up to `accounted`.
    pub fn new(accounted: u32, turn: u32, unproven: bool, requests: &Parser, responses: &Parser) -> Self {
        Self {
            queue: VecDeque::new(),
            accounted,
            followed: accounted,
            newest_turn: turn,
            final_turn: None,
            opening: None,
            sent_last: Latest::default(),
            hidden_requests: false,
            overlaps: false,
            virgin: true,
            unproven,
            doubted: false,
            client_ended: false,
            release_requests: false,
            drop_head: false,
            requests_lost_to: requests.lost_to(),
            responses_lost_to: responses.lost_to(),
            over: None,
        }
    }

    /// Keeps what the parsers say of their losses, while they are being stepped.
    pub fn note_losses(&mut self, requests: &Parser, responses: &Parser) {
        self.requests_lost_to = requests.lost_to();
        self.responses_lost_to = responses.lost_to();
    }

    /// Whether ingress that begins `turn` can only begin a request, see the head of this file.
    pub fn proves_request(&self, turn: u32) -> bool {
        let before = turn.saturating_sub(1);
        let answered = self.final_turn.is_some_and(|last| last >= before);
        !self.overlaps && (answered || self.is_whole_turn(before))
    }

    /// Whether the latest request came in `turn` and no part of it can come in another one.
    pub fn is_whole_turn(&self, turn: u32) -> bool {
        self.queue.back().is_some_and(|last| last.request_turn == turn && !last.expects_continue)
    }

    /// Whether ingress of `turn` that we cannot follow is still the body of the last request.
    pub fn is_still_receiving(&self, turn: u32) -> bool {
        let last = self.queue.back().filter(|last| last.expects_continue || last.request_turn == turn);
        last.is_some_and(|last| last.request_body == RequestBody::Hidden && last.response.is_none())
    }

    /// Counts one lost exchange for each turn up to `turn` that is not accounted for.
    pub fn account_through(&mut self, turn: u32, cx: &mut Context<'_>) {
        let missed = turn.saturating_sub(self.accounted);
        if missed > 0 {
            cx.target.lose(self.requests_lost_to, missed.into());
            self.accounted = turn;
            self.hidden_requests = false;
        }
    }

    /// Counts one lost exchange where at least one is known to be.
    pub fn account_hidden(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.hidden_requests) {
            cx.target.lose(self.requests_lost_to, 1);
        }
    }

    /// Looks at more of a turn's first bytes, whatever records they come in. What no request begins with is more of
    /// an earlier one: of a body whose framing is lost, or that was answered before its end.
    pub fn note_opening(&mut self, bytes: &[u8], at: At, cx: &mut Context<'_>) {
        let Some(opening) = &mut self.opening else { return };
        opening.push(bytes);
        if !head::may_begin_request(opening.seen()) {
            self.opening = None;
            self.account_through(at.turn.saturating_sub(1), cx);
            self.accounted = self.accounted.max(at.turn);
        } else if opening.length == opening.bytes.len() {
            self.opening = None;
        }
    }

    pub fn judge_request(
        &mut self,
        bytes: &[u8],
        began: At,
        at: At,
        standing: Standing,
        responses_lost: bool,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if self.virgin {
            match head::proxy_line(bytes) {
                Ok(length) => return Verdict::Skip { length },
                Err(NotAHead::Partial) => return Verdict::Partial,
                Err(_) => {}
            }
        }
        let mut fields = head::field_room();
        let head = match head::parse_request(bytes, &mut fields) {
            Ok(head) => head,
            Err(NotAHead::Partial) => return Verdict::Partial,
            Err(why) => return Verdict::Refused(why),
        };
        let length = head.length;
        let framing = head.body.of_request();
        let (request_body, then) = match framing {
            _ if head.method == Some(Method::CONNECT) => (RequestBody::Absent, Then::Hold),
            Ok(Framing::None) => (RequestBody::Absent, Then::Message),
            Ok(Framing::Length(0)) => (RequestBody::Complete { size: 0 }, Then::Message),
            Ok(Framing::Length(length)) => {
                (RequestBody::Coming { declared: Some(length), seen: 0 }, Then::Body(Body::Length(length)))
            }
            Ok(Framing::Chunked) => {
                (RequestBody::Coming { declared: None, seen: 0 }, Then::Body(Body::CHUNKED))
            }
            Ok(Framing::UntilClose | Framing::Tunnel) | Err(_) => {
                return Verdict::Refused(NotAHead::Malformed);
            }
        };
        if standing == Standing::Probing {
            self.account_through(began.turn.saturating_sub(1), cx);
            self.account_hidden(cx);
        }
        self.accounted = self.accounted.max(at.turn);
        self.virgin = false;
        self.doubted |= std::mem::take(&mut self.unproven);
        if responses_lost {
            // Their responses are over: the client went on.
            let earlier = self.queue.iter().take_while(|it| it.request_turn < began.turn).count();
            self.flush(earlier, cx);
        }
        if self.queue.len() >= cx.limits.max_pipelined || cx.target.open_exchanges() >= cx.limits.max_open {
            cx.target.lose(Cause::EvictedOpen, 1);
            self.over = Some(Over::Overflow);
            return Verdict::Head { length, then: Then::Lost };
        }
        self.queue.push_back(Exchange {
            request: cx.target.open(&head, cx.client),
            head_received: at,
            request_turn: at.turn,
            request_body,
            expects_continue: head.fields.iter().any(|field| field.name.eq_ignore_ascii_case("expect")),
            response: None,
            details: framing.ok().and_then(|framing| cx.target.keep_request(&head, framing, cx.client)),
        });
        Verdict::Head { length, then }
    }

    /// Takes data of the request's body that is coming in.
    pub fn request_data(&mut self, data: &[u8], cx: &mut Context<'_>) {
        if let Some(last) = self.queue.back_mut().filter(|last| last.is_receiving()) {
            last.keep(cx, |details| details.add_request_data(data));
        }
    }

    /// Takes data of the response's body that is coming in.
    pub fn response_data(&mut self, data: &[u8], cx: &mut Context<'_>) {
        if cx.target.policy.keep.anything()
            && let Some(exchange) = self.queue.iter_mut().find(|it| it.is_responding())
        {
            exchange.keep(cx, |details| details.add_response_data(data));
        }
    }

    /// Whether data of the request's body that is coming in is kept.
    pub fn wants_request_data(&self) -> bool {
        let last = self.queue.back().filter(|last| last.is_receiving());
        last.and_then(|last| last.details.as_ref()).is_some_and(|details| details.wants_request_data())
    }

    /// Whether data of the response's body that is coming in is kept.
    pub fn wants_response_data(&self) -> bool {
        let responding = self.queue.iter().find(|it| it.is_responding());
        responding.and_then(|it| it.details.as_ref()).is_some_and(|details| details.wants_response_data())
    }

    /// Memory held by details, counted anew, bytes.
    pub fn details(&self) -> usize {
        self.queue.iter().filter_map(|it| it.details.as_ref()).map(|details| details.size()).sum()
    }

    pub fn request_refused(&mut self, why: NotAHead, at: At, cx: &mut Context<'_>) {
        match why {
            _ if self.unproven && why != NotAHead::Http2 => self.over = Some(Over::NotYet),
            _ if self.doubted => self.forget(cx),
            NotAHead::Http2 if self.virgin => {
                cx.target.ledger.connections_http2 += 1;
                self.over = Some(Over::Http2);
            }
            NotAHead::Tls if self.virgin => {
                cx.target.ledger.connections_tls += 1;
                self.over = Some(Over::Refused);
            }
            NotAHead::Foreign if self.virgin => {
                cx.target.ledger.connections_refused += 1;
                self.over = Some(Over::Refused);
            }
            _ => {
                note_refusal(why, cx);
                cx.target.lose(Cause::UnreadableHead, 1);
                self.accounted = self.accounted.max(at.turn);
                self.virgin = false;
            }
        }
    }

    pub fn request_body(&mut self, data: u64, reached: Reached, at: At, cx: &mut Context<'_>) {
        let Some(last) = self.queue.back_mut() else { return };
        last.request_turn = at.turn;
        if let RequestBody::Coming { seen, .. } = &mut last.request_body {
            *seen = seen.saturating_add(data);
            let size = *seen;
            match reached {
                Reached::Inside => return,
                Reached::End => last.request_body = RequestBody::Complete { size },
                Reached::Hidden => last.request_body = RequestBody::Hidden,
            }
        }
        self.settle(cx);
    }

    pub fn request_gap(
        &mut self,
        effect: GapEffect,
        missing: Missing,
        cause: Cause,
        at: At,
        cx: &mut Context<'_>,
    ) {
        // In which turn bytes before the record moved is not known: the request was last seen when it was.
        let seen = self.queue.back().map_or(at.turn, |last| last.request_turn);
        let at = if missing == Missing::Before { At { turn: seen, ..at } } else { at };
        // What was lost has been counted by its responses already.
        let counted = self.accounted > self.followed;
        match effect {
            GapEffect::Inside { data: 0 } => {}
            GapEffect::Inside { data } => {
                self.miss_request_data();
                self.request_body(data, Reached::Inside, at, cx);
            }
            GapEffect::BodyEnd { data, beyond } => {
                self.miss_request_data();
                self.request_body(data, Reached::End, at, cx);
                self.hidden_requests |= beyond > 0 && !counted;
            }
            GapEffect::BodyHidden => {
                self.miss_request_data();
                self.request_body(0, Reached::Hidden, at, cx);
            }
            GapEffect::Boundary { begun: true } => {
                cx.target.lose(cause, 1);
                if missing == Missing::After {
                    self.accounted = self.accounted.max(at.turn);
                }
            }
            GapEffect::Boundary { begun: false } if missing == Missing::Unread => {
                cx.target.ledger.heads_unread += 1;
                cx.target.lose(Cause::UnreadableHead, 1);
                self.accounted = self.accounted.max(at.turn);
            }
            GapEffect::Boundary { begun: false } => self.hidden_requests |= !counted,
        }
    }

    /// Bytes of the request's body that is coming in are missing.
    fn miss_request_data(&mut self) {
        let last = self.queue.back_mut().filter(|last| last.is_receiving());
        if let Some(details) = last.and_then(|last| last.details.as_mut()) {
            details.miss_request_data();
        }
    }

    pub fn judge_response(
        &mut self,
        bytes: &[u8],
        began: At,
        at: At,
        standing: Standing,
        asking: Asking,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let mut fields = head::field_room();
        let head = match head::parse_response(bytes, &mut fields) {
            Ok(head) => head,
            Err(NotAHead::Partial) => return Verdict::Partial,
            Err(why) => {
                if self.doubted {
                    self.forget(cx);
                }
                return Verdict::Refused(why);
            }
        };
        self.doubted = false;
        let (length, status) = (head.length, head.status);
        let aligned = standing == Standing::InStep || self.realign(began.turn, cx);
        if (100..200).contains(&status) && status != 101 {
            if began.turn > self.accounted && status == 100 {
                // Of an exchange that goes on in the next turn, where it is counted.
                self.account_through(began.turn.saturating_sub(1), cx);
                self.accounted = began.turn;
                self.hidden_requests = true;
            } else {
                self.account_through(began.turn, cx);
            }
            // The final response follows, and nobody's but that of a request we do not have.
            let follows = aligned || self.queue.is_empty();
            return Verdict::Head { length, then: if follows { Then::Message } else { Then::Lost } };
        }
        self.final_turn = Some(began.turn);
        if !aligned {
            // While a request is coming in, this turn may be a part of it; ingress will tell.
            if !self.queue.back().is_some_and(|last| last.may_be_receiving(began.turn)) {
                self.account_through(began.turn, cx);
            }
            return Verdict::Head { length, then: Then::Lost };
        }
        let answered = self.queue.iter().take_while(|it| it.response.is_some()).count();
        let asked = self.queue.get(answered).is_some_and(|it| it.head_received.turn <= began.turn);
        if !asked {
            return Verdict::Head { length, then: self.unasked(&head, began.turn, asking, cx) };
        }
        // A later response begins: whatever the earlier ones waited for does not matter any more.
        self.flush(answered, cx);
        self.note_overlap();
        Verdict::Head { length, then: self.answer(&head, began, at, cx) }
    }

    /// A response whose request we do not know. Unless it can be framed without, its direction is lost.
    pub fn unasked(
        &mut self,
        head: &head::ResponseHead<'_>,
        turn: u32,
        asking: Asking,
        cx: &mut Context<'_>,
    ) -> Then {
        if asking == Asking::InHead {
            // A server may answer before it has the whole head: 400, 408, 431.
            self.account_through(turn.saturating_sub(1), cx);
            self.accounted = self.accounted.max(turn);
            cx.target.lose(Cause::IncompleteHead, 1);
            self.drop_head = true;
            return Then::Lost;
        }
        if turn > self.accounted {
            self.account_through(turn, cx);
            return Then::Lost;
        }
        if asking == Asking::Lost {
            self.account_hidden(cx);
            return Then::Lost;
        }
        cx.target.ledger.responses_without_request += 1;
        match head.body.of_response(None, head.status) {
            Ok(Framing::None | Framing::Length(0)) => Then::Message,
            // Whether a body follows depends on a method that we do not know: a request whose loss nothing has
            // shown yet may have been HEAD.
            Ok(_) | Err(_) => Then::Lost,
        }
    }

    /// Gives the oldest request its response.
    pub fn answer(&mut self, head: &head::ResponseHead<'_>, began: At, at: At, cx: &mut Context<'_>) -> Then {
        let Some(first) = self.queue.front_mut() else { return Then::Lost };
        let method = first.request.method;
        let framing = head.body.of_response(method, head.status);
        let (state, then) = match framing {
            Ok(Framing::Tunnel) => {
                self.over = Some(Over::LeftHttp);
                self.give_up(Cause::Upgraded, cx);
                return Then::Lost;
            }
            Err(_) => {
                cx.target.ledger.heads_malformed += 1;
                if let Some(first) = self.queue.pop_front() {
                    cx.target.close(first.request, Outcome::Lost(Cause::UnreadableHead));
                }
                return Then::Lost;
            }
            Ok(Framing::None | Framing::Length(0)) => (ResponseState::Complete, Then::Message),
            Ok(Framing::Length(length)) => (ResponseState::Coming, Then::Body(Body::Length(length))),
            Ok(Framing::Chunked) => (ResponseState::Coming, Then::Body(Body::CHUNKED)),
            Ok(Framing::UntilClose) => (ResponseState::UntilClose, Then::Body(Body::UntilClose)),
        };
        self.release_requests = method == Some(Method::CONNECT);
        if let Ok(framing) = framing {
            cx.target.keep_response(&mut first.details, head, framing);
        }
        first.response = Some(Response {
            status: head.status,
            first_byte: began.time,
            last_byte: at.time,
            turn: at.turn,
            size: 0,
            state,
        });
        then
    }

    pub fn response_refused(&mut self, why: NotAHead, cx: &mut Context<'_>) {
        note_refusal(why, cx);
        if why == NotAHead::Foreign && self.final_turn.is_none() && !self.queue.is_empty() {
            self.over = Some(Over::LeftHttp);
            self.give_up(Cause::UnreadableHead, cx);
        } else {
            self.lose_oldest(Cause::UnreadableHead, cx);
        }
    }

    pub fn response_body(&mut self, data: u64, reached: Reached, at: At, cx: &mut Context<'_>) {
        let Some(response) = self.responding() else { return };
        response.size = response.size.saturating_add(data);
        response.last_byte = at.time;
        response.turn = at.turn;
        match reached {
            Reached::Inside => {}
            Reached::End => response.state = ResponseState::Complete,
            Reached::Hidden => response.state = ResponseState::Hidden { closed: false },
        }
        self.note_overlap();
        self.settle(cx);
    }

    pub fn response_gap(&mut self, effect: GapEffect, missing: Missing, at: At, cx: &mut Context<'_>) {
        if effect == (GapEffect::Boundary { begun: false }) && missing == Missing::Unread {
            cx.target.ledger.heads_unread += 1;
            self.lose_oldest(Cause::UnreadableHead, cx);
        }
        let Some(exchange) = self.queue.iter_mut().find(|it| it.is_responding()) else { return };
        let misses_data = !matches!(effect, GapEffect::Boundary { .. } | GapEffect::Inside { data: 0 });
        if let Some(details) = exchange.details.as_mut().filter(|_| misses_data) {
            details.miss_response_data();
        }
        let Some(response) = &mut exchange.response else { return };
        match effect {
            GapEffect::Boundary { .. } => {}
            GapEffect::BodyHidden => response.state = ResponseState::Hidden { closed: false },
            GapEffect::Inside { data } => {
                response.size = response.size.saturating_add(data);
                if missing != Missing::Before {
                    response.last_byte = at.time;
                    response.turn = at.turn;
                }
            }
            GapEffect::BodyEnd { data, .. } => {
                response.size = response.size.saturating_add(data);
                // When a record of a later turn shows that the body is over, it ended some time before that:
                // the latest byte that was seen is the honest answer, not the client's pause.
                if missing != Missing::Before || response.turn == at.turn {
                    response.last_byte = at.time;
                }
                response.state = ResponseState::Complete;
            }
        }
        self.settle(cx);
    }

    /// Keeps the time of the latest byte of a response whose end is hidden.
    pub fn touch_hidden(&mut self, at: At) {
        let alone = self.queue.len() == 1;
        let ends_chunked = self.sent_last.ends_chunked();
        let Some(first) = self.queue.front_mut().filter(|_| alone) else { return };
        let receiving = first.is_receiving();
        if let Some(response) = &mut first.response
            && let ResponseState::Hidden { closed } = &mut response.state
            && (response.turn == at.turn || receiving)
        {
            *closed = ends_chunked;
            response.last_byte = at.time;
            response.turn = at.turn;
        }
    }

    /// The response that is coming in.
    pub fn responding(&mut self) -> Option<&mut Response> {
        self.queue.iter_mut().find(|it| it.is_responding()).and_then(|it| it.response.as_mut())
    }

    /// Called with bytes of the oldest response, in step: did the client send more before it was complete?
    pub fn note_overlap(&mut self) {
        if let (Some(first), Some(last)) = (self.queue.front(), self.queue.back())
            && self.queue.len() > 1
            && last.head_received.turn > first.request_turn
        {
            self.overlaps = true;
        }
    }

    /// Finds the request that a response in `turn` answers, when the response begins that turn's egress. Those
    /// before it have had their responses, in a gap.
    pub fn realign(&mut self, turn: u32, cx: &mut Context<'_>) -> bool {
        let spans = |it: &Exchange| it.head_received.turn <= turn && it.request_turn >= turn;
        match self.queue.iter().position(spans) {
            Some(index) if self.queue.get(index).is_some_and(|it| it.response.is_none()) => {
                self.flush(index, cx);
                true
            }
            Some(_) => false,
            None => {
                let over = |it: &&Exchange| it.request_turn < turn && !it.may_be_receiving(turn);
                let earlier = self.queue.iter().take_while(over).count();
                self.flush(earlier, cx);
                false
            }
        }
    }

    /// Closes the oldest `count` exchanges, as nothing more will be seen of them.
    pub fn flush(&mut self, count: usize, cx: &mut Context<'_>) {
        let cause = self.responses_lost_to;
        for exchange in self.queue.drain(..count.min(self.queue.len())) {
            if exchange.response.is_some() {
                exchange.report(self.client_ended, cx);
            } else {
                cx.target.close(exchange.request, Outcome::Lost(cause));
            }
        }
    }

    /// Closes the oldest exchange that has no response.
    pub fn lose_oldest(&mut self, cause: Cause, cx: &mut Context<'_>) {
        let oldest = self.queue.iter().position(|it| it.response.is_none());
        if let Some(exchange) = oldest.and_then(|oldest| self.queue.remove(oldest)) {
            cx.target.close(exchange.request, Outcome::Lost(cause));
        }
    }

    /// What looked like requests were none: the target is not the server.
    pub fn forget(&mut self, cx: &mut Context<'_>) {
        for exchange in self.queue.drain(..) {
            cx.target.forget(exchange.request);
        }
        self.over = Some(Over::NotYet);
    }

    /// Closes all exchanges.
    pub fn give_up(&mut self, cause: Cause, cx: &mut Context<'_>) {
        for exchange in self.queue.drain(..) {
            cx.target.close(exchange.request, Outcome::Lost(cause));
        }
    }

    /// Gives back the memory that a burst of requests needed: many connections may have had one.
    pub fn give_back_room(&mut self) {
        let enough = self.queue.len().max(QUEUE_ROOM);
        if self.queue.capacity() > 4 * enough {
            self.queue.shrink_to(enough);
        }
    }

    /// Reports the oldest exchanges, as far as they are complete.
    pub fn settle(&mut self, cx: &mut Context<'_>) {
        while let Some(first) = self.queue.front()
            && first.response.is_some_and(|it| it.state == ResponseState::Complete)
            && !first.is_receiving()
            && let Some(first) = self.queue.pop_front()
        {
            first.report(self.client_ended, cx);
        }
    }
}

/// Counts a head that was refused, by why.
fn note_refusal(why: NotAHead, cx: &mut Context<'_>) {
    let ledger = &mut cx.target.ledger;
    match why {
        NotAHead::TooLarge => ledger.heads_too_large += 1,
        NotAHead::Malformed | NotAHead::Foreign | NotAHead::Http2 | NotAHead::Tls => {
            ledger.heads_malformed += 1;
        }
        NotAHead::Partial => {}
    }
}

impl Exchange {
    /// The request is not complete, and we follow it.
    pub fn is_receiving(&self) -> bool {
        matches!(self.request_body, RequestBody::Coming { .. })
    }

    /// Its response is not complete, and we follow it.
    pub fn is_responding(&self) -> bool {
        let state = self.response.as_ref().map(|response| response.state);
        matches!(state, Some(ResponseState::Coming | ResponseState::UntilClose))
    }

    /// The request is not complete, and we follow it; `turn` may bring more of it: without a 100 in between, a request is in one turn.
    pub fn may_be_receiving(&self, turn: u32) -> bool {
        self.is_receiving() && (self.expects_continue || self.request_turn >= turn)
    }

    /// Counts an exchange that has a status. What was not read of a request's body counts as declared: it is
    /// what the client said it sends, and the target chose not to read it. Unless the client went away, or did
    /// not say: how much of a chunked body it meant to send is unknown.
    pub fn report(self, client_ended: bool, cx: &mut Context<'_>) {
        let Some(response) = self.response else { return };
        let request_size = match self.request_body {
            RequestBody::Absent | RequestBody::Hidden => None,
            RequestBody::Complete { size } => Some(size),
            RequestBody::Coming { declared, .. } if !client_ended => declared,
            RequestBody::Coming { seen, .. } => Some(seen),
        };
        let response_size = match response.state {
            ResponseState::Hidden { .. } => None,
            _ => Some(response.size),
        };
        let end = match cx.target.policy.response_time {
            ResponseTime::LastByte => response.last_byte,
            ResponseTime::FirstByte => response.first_byte,
        };
        let response_time = end.since(self.head_received.time);
        let request_is_whole =
            matches!(self.request_body, RequestBody::Absent | RequestBody::Complete { .. });
        let response_is_whole = response.state == ResponseState::Complete;
        let answer = Answer {
            status: response.status,
            measured: Measured { response_time, request_size, response_size },
            head_received: self.head_received.time,
            first_byte: response.first_byte,
            last_byte: response.last_byte,
            kept: self.details.map(|details| Box::new(details.finish(request_is_whole, response_is_whole))),
        };
        cx.target.close(self.request, Outcome::Answered(answer));
    }

    /// Keeps more of it, or, when there is no room, nothing at all any more.
    fn keep(&mut self, cx: &mut Context<'_>, add: impl FnOnce(&mut Details) -> Result<(), NoRoom>) {
        if let Some(details) = &mut self.details
            && add(details) == Err(NoRoom)
        {
            self.details = None;
            cx.target.ledger.details_dropped += 1;
        }
    }
}
