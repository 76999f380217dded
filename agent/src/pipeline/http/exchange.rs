//! The exchanges of a connection: both directions, parsed on their own, and what becomes of them.

use core::net::SocketAddr;

use super::{
    pairs::{Asking, Missing, Opening, Pairs, ResponseState},
    parser::{At, Parser, Reader, Standing, Step, Verdict},
};
use crate::pipeline::{
    Ktime, Limits,
    ledger::Cause,
    stream::Advance,
    target::{Outcome, Target},
};

/// What a connection needs from around it while it takes a record.
pub struct Context<'a> {
    pub target: &'a mut Target,
    pub limits: &'a Limits,
    /// Memory for incomplete heads that this connection may hold, both directions together, bytes.
    pub room: usize,
    /// The other end of the connection; None on a Unix socket, or where it was not seen.
    pub client: Option<SocketAddr>,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub at: At,
    /// The record begins a system call.
    pub begins_call: bool,
    /// The record begins a system call, and its direction's part of the turn.
    pub begins_turn: bool,
}

impl Place {
    /// What is put down to bytes that are missing before the record. Behind the beginning of a call they may be
    /// some that are not copied of a long one.
    fn cause_before(self) -> Cause {
        if self.begins_call { Cause::LostRingFull } else { Cause::LostGap }
    }
}

/// What is known when the first record of a connection is ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Both directions are at their beginning.
    Beginning,
    /// The first record of ingress is to be tried as the beginning of a request.
    MaybeRequest,
    /// Anywhere. Turns up to this one have been accounted for; later ones were lost to this cause.
    Middle { accounted: u32, lost_to: Cause },
}

/// Why no more records are wanted from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It began with something that is no HTTP.
    Refused,
    Http2,
    /// It was HTTP and is not any more: upgraded, tunnelled, or answered in something else.
    LeftHttp,
    /// Too many requests wait for their responses.
    Overflow,
    /// It was met in the middle, and what looked like a request was none. One may begin there yet.
    NotYet,
}

/// Why a connection is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is closed, or the last process that used it is gone.
    Closed,
    /// It is left out from the turn on that its client has begun.
    SampledOut,
    /// It was idle too long.
    Evicted,
    /// The target is finished.
    Exit,
}

/// The exchanges of one connection.
#[derive(Debug)]
pub struct Exchanges {
    requests: Parser,
    responses: Parser,
    pairs: Pairs,
}

impl Exchanges {
    pub fn new(start: Start, turn: u32) -> Self {
        let (requests, responses) = match start {
            Start::Beginning => (Parser::in_step(), Parser::in_step()),
            Start::MaybeRequest => {
                let mut requests = Parser::lost(Cause::LostGap);
                requests.probe();
                (requests, Parser::lost(Cause::LostGap))
            }
            Start::Middle { lost_to, .. } => (Parser::lost(lost_to), Parser::lost(lost_to)),
        };
        let accounted = match start {
            Start::Beginning => 0,
            // Of what was before the first record nothing is known.
            Start::MaybeRequest => turn.saturating_sub(1),
            Start::Middle { accounted, .. } => accounted,
        };
        let pairs = Pairs::new(accounted, turn, start == Start::MaybeRequest, &requests, &responses);
        Self { requests, responses, pairs }
    }

    /// Set when no more records are wanted.
    pub fn over(&self) -> Option<Over> {
        self.pairs.over
    }

    /// Memory held by incomplete heads, bytes.
    pub fn buffered(&self) -> usize {
        self.requests.buffered().saturating_add(self.responses.buffered())
    }

    /// Whether the target is the server is not known yet, so nothing is counted.
    pub fn is_unproven(&self) -> bool {
        self.pairs.unproven || self.pairs.doubted
    }

    pub fn has_open(&self) -> bool {
        !self.pairs.queue.is_empty()
    }

    /// Bytes from the current positions on that are certain to be data of a body that nobody wants: ingress, egress.
    pub fn certain(&self) -> (u64, u64) {
        let unless = |wanted: bool, certain: u64| if wanted { 0 } else { certain };
        (
            unless(self.pairs.wants_request_data(), self.requests.certain()),
            unless(self.pairs.wants_response_data(), self.responses.certain()),
        )
    }

    /// Memory held by details of open exchanges, counted anew, bytes.
    pub fn details(&self) -> usize {
        self.pairs.details()
    }

    /// Takes what a record adds to ingress.
    pub fn ingress(&mut self, advance: Advance<'_>, place: Place, cx: &mut Context<'_>) {
        let Self { requests, responses, pairs } = self;
        let at = place.at;
        pairs.newest_turn = pairs.newest_turn.max(at.turn);
        if pairs.unproven && advance.gap > 0 {
            pairs.over = Some(Over::NotYet);
            return;
        }
        if advance.gap > 0 {
            let cause = place.cause_before();
            pairs.request_gap(requests.gap(advance.gap, cause), Missing::before(advance), cause, at, cx);
        }
        pairs.note_losses(requests, responses);
        let begins = place.begins_turn && !advance.bytes.is_empty() && advance.stale == 0;
        if begins && requests.is_lost() && !pairs.unproven {
            // What an earlier probe kept was no head: heads do not go on in another turn.
            if pairs.proves_request(at.turn) {
                requests.probe();
            } else {
                requests.lose();
            }
            pairs.opening = Some(Opening::default());
        } else if advance.gap > 0 || advance.stale > 0 {
            pairs.opening = None;
        }
        pairs.note_opening(advance.bytes, at, cx);
        let was_in_step = !requests.is_lost();
        let (room, responses_lost) = (cx.room.saturating_sub(responses.buffered()), responses.is_lost());
        let mut input = advance.bytes;
        while pairs.over.is_none() {
            let mut reader = RequestReader { pairs, at, responses_lost, cx };
            match requests.step(&mut input, at, room, &mut reader) {
                Step::More => break,
                Step::Head => {}
                Step::Body { data, reached } => pairs.request_body(data, reached, at, cx),
                Step::Refused(why) => pairs.request_refused(why, at, cx),
            }
        }
        if advance.gap_after > 0 && pairs.over.is_none() {
            let (cause, missing) = (Cause::LostGap, Missing::after(advance));
            pairs.request_gap(requests.gap(advance.gap_after, cause), missing, cause, at, cx);
            pairs.opening = None;
        }
        if was_in_step || !requests.is_lost() || pairs.is_still_receiving(at.turn) {
            pairs.accounted = pairs.accounted.max(at.turn);
            pairs.followed = at.turn;
        }
    }

    /// Takes what a record adds to egress.
    pub fn egress(&mut self, advance: Advance<'_>, place: Place, cx: &mut Context<'_>) {
        let Self { requests, responses, pairs } = self;
        let at = place.at;
        pairs.newest_turn = pairs.newest_turn.max(at.turn);
        if pairs.unproven {
            // A server does not speak before it has the whole head.
            pairs.over = Some(Over::NotYet);
            return;
        }
        if advance.gap > 0 {
            let effect = responses.gap(advance.gap, place.cause_before());
            pairs.response_gap(effect, Missing::before(advance), at, cx);
        }
        pairs.note_losses(requests, responses);
        let begins = place.begins_turn && !advance.bytes.is_empty() && advance.stale == 0;
        if begins && responses.is_lost() && !pairs.overlaps {
            responses.probe();
        }
        let (room, asking) = (cx.room.saturating_sub(requests.buffered()), Asking::of(requests));
        let mut input = advance.bytes;
        while pairs.over.is_none() {
            let mut reader = ResponseReader { pairs, at, asking, cx };
            match responses.step(&mut input, at, room, &mut reader) {
                Step::More => break,
                Step::Head => {
                    if std::mem::take(&mut pairs.drop_head) {
                        requests.lose();
                    }
                    if std::mem::take(&mut pairs.release_requests) {
                        requests.release();
                    }
                    pairs.settle(cx);
                }
                Step::Body { data, reached } => pairs.response_body(data, reached, at, cx),
                Step::Refused(why) => pairs.response_refused(why, cx),
            }
        }
        if advance.gap_after > 0 && pairs.over.is_none() {
            let effect = responses.gap(advance.gap_after, Cause::LostGap);
            pairs.response_gap(effect, Missing::after(advance), at, cx);
        }
        pairs.sent_last.push(advance);
        pairs.touch_hidden(at);
        pairs.give_back_room();
    }

    /// The client sends no more, having sent `missing` bytes that we did not see. `untold`: turns after the last
    /// record, which the close will tell of.
    pub fn end_ingress(&mut self, missing: u64, untold: u32, cx: &mut Context<'_>) {
        let Self { requests, pairs, .. } = self;
        pairs.client_ended = true;
        if missing > 0 {
            let (cause, at) = (Cause::LostRingFull, At { turn: pairs.newest_turn, time: Ktime::default() });
            let hidden = pairs.hidden_requests;
            pairs.request_gap(requests.gap(missing, cause), Missing::Before, cause, at, cx);
            if untold > 0 {
                // Requests that the missing bytes hide are of those turns.
                pairs.hidden_requests = hidden;
            }
        }
    }

    /// The target sends no more, having sent `missing` bytes that we did not see.
    pub fn end_egress(&mut self, missing: u64, cx: &mut Context<'_>) {
        let Self { responses, pairs, .. } = self;
        if missing > 0 {
            let effect = responses.gap(missing, Cause::LostRingFull);
            let at = At { turn: u32::MAX, time: Ktime::default() };
            pairs.response_gap(effect, Missing::Before, at, cx);
        }
        if let Some(response) = pairs.responding()
            && response.state == ResponseState::UntilClose
        {
            response.state = ResponseState::Complete;
        }
        pairs.settle(cx);
    }

    /// Ends every exchange that is still open. `untold`: turns after the last record.
    pub fn finish(&mut self, ending: Ending, untold: u32, cx: &mut Context<'_>) {
        let Self { requests, responses, pairs } = self;
        pairs.note_losses(requests, responses);
        let client_ended = pairs.client_ended;
        // Unless the newest turn may be a part of the last request, it was a request of its own.
        let newest_is_last = pairs.queue.back().is_some_and(|last| last.may_be_receiving(pairs.newest_turn));
        let goes_on = pairs.queue.back().is_some_and(|last| {
            untold == 0 && last.is_receiving() && (last.expects_continue || !requests.is_lost())
        });
        while let Some(exchange) = pairs.queue.pop_front() {
            let cut_off = match (ending, exchange.response.map(|response| response.state)) {
                (_, Some(ResponseState::Complete | ResponseState::Hidden { closed: true })) => None,
                (
                    Ending::Closed | Ending::SampledOut,
                    Some(ResponseState::Hidden { .. } | ResponseState::UntilClose),
                ) => None,
                (Ending::Closed, Some(ResponseState::Coming)) => {
                    cx.target.ledger.aborted_responses += 1;
                    None
                }
                (Ending::Closed | Ending::SampledOut, None) if responses.is_lost() => {
                    Some(responses.lost_to())
                }
                (Ending::Closed, None) => Some(Cause::AbortedBeforeResponse),
                (Ending::SampledOut, _) => Some(Cause::SampledOut),
                (Ending::Evicted, _) => Some(Cause::EvictedOpen),
                (Ending::Exit, _) => Some(Cause::OpenAtExit),
            };
            match cut_off {
                None => exchange.report(client_ended, cx),
                Some(cause) => cx.target.close(exchange.request, Outcome::Lost(cause)),
            }
        }
        if pairs.over.is_some() || pairs.unproven {
            return;
        }
        if ending == Ending::SampledOut {
            // The turn that has begun: the rest of what has begun before, or a request of its own.
            cx.target.lose(Cause::SampledOut, u64::from(!goes_on));
        } else if requests.is_in_head() {
            cx.target.lose(Cause::IncompleteHead, 1);
        }
        if requests.is_lost() || !newest_is_last {
            pairs.account_through(pairs.newest_turn, cx);
        }
        if untold > 0 {
            cx.target.lose(Cause::LostRingFull, untold.into());
            pairs.hidden_requests = false;
        }
        pairs.account_hidden(cx);
    }
}

/// Reads ingress.
struct RequestReader<'a, 'b> {
    pairs: &'a mut Pairs,
    at: At,
    responses_lost: bool,
    cx: &'a mut Context<'b>,
}

impl Reader for RequestReader<'_, '_> {
    fn head(&mut self, bytes: &[u8], began: At, standing: Standing) -> Verdict {
        self.pairs.judge_request(bytes, began, self.at, standing, self.responses_lost, self.cx)
    }

    fn body(&mut self, data: &[u8]) {
        self.pairs.request_data(data, self.cx);
    }
}

/// Reads egress.
struct ResponseReader<'a, 'b> {
    pairs: &'a mut Pairs,
    at: At,
    asking: Asking,
    cx: &'a mut Context<'b>,
}

impl Reader for ResponseReader<'_, '_> {
    fn head(&mut self, bytes: &[u8], began: At, standing: Standing) -> Verdict {
        self.pairs.judge_response(bytes, began, self.at, standing, self.asking, self.cx)
    }

    fn body(&mut self, data: &[u8]) {
        self.pairs.response_data(data, self.cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::http::pairs::{Exchange, QUEUE_ROOM};
    use crate::pipeline::{Policy, detail::budget::Budget};

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let limits = Limits::default();
        let mut target = Target::new(Policy::default(), &limits, Budget::new(0), None);
        let mut cx = Context { target: &mut target, limits: &limits, room: 0, client: None };
        let mut exchanges = Exchanges::new(Start::Beginning, 1);
        let at = At { time: Ktime(1), turn: 1 };
        let place = Place { at, begins_call: true, begins_turn: true };
        let requests = b"GET /a HTTP/1.1\r\n\r\n".repeat(1000);
        exchanges.ingress(Advance { bytes: &requests, ..Advance::default() }, place, &mut cx);
        assert!(exchanges.pairs.queue.capacity() >= 1000);
        let response = b"HTTP/1.1 204 N\r\n\r\n";
        for left in (0..1000).rev() {
            exchanges.egress(Advance { bytes: response, ..Advance::default() }, place, &mut cx);
            let queue = &exchanges.pairs.queue;
            assert_eq!(queue.len(), left);
            assert!(queue.capacity() <= 4 * left.max(QUEUE_ROOM), "{} for {left}", queue.capacity());
        }
        assert!(size_of::<Exchange>() <= 200, "{} bytes each", size_of::<Exchange>());
    }
}
