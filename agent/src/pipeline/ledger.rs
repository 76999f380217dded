//! The account of every exchange: reported, or lost to a named cause.

/// Why an exchange is in no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its beginning or its answer lay in bytes that never reached us.
    LostGap,
    /// Its head was not copied (sendfile, splice), broke the rules or a bound, or was not HTTP.
    UnreadableHead,
    /// The connection ended, or the server answered, before the request's head was complete.
    IncompleteHead,
    /// 404 on a template that has answered nothing else so far.
    Unmatched,
    /// A kind of request the hub does not take: OPTIONS, refused CONNECT, a target that is no path.
    Excluded,
    /// The method is not `[A-Z-]{1,16}`.
    BadMethod,
    /// The template is longer than [`crate::pipeline::route::MAX_TEMPLATE`] bytes.
    PathTooLong,
    /// The route table is full and does not hold its template.
    OverRouteLimit,
    /// No room for another row or bin before the next take.
    OverCountLimit,
    /// The connection ended before a status was sent.
    AbortedBeforeResponse,
    /// The connection stopped speaking HTTP here: 101, or a CONNECT that was granted.
    Upgraded,
    /// Its connection was let go to stay within bounds: idle too long, or too many requests waiting.
    EvictedOpen,
    /// Still open when the target was finished.
    OpenAtExit,
}

/// Exchanges of one target since it was added, and what was noticed beside them.
///
/// `seen` is counted when an exchange becomes known, the others when it is settled, so at every moment
/// `seen == reported + lost() + exchanges still open`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub seen: u64,
    /// Exchanges in the rows.
    pub reported: u64,

    /// Always 0 here: a record that found the ring full is a gap like any other by the time we see it.
    /// How many there were, the kernel side's drop counters say.
    pub lost_ring_full: u64,
    pub lost_gap: u64,
    pub unreadable_head: u64,
    pub incomplete_head: u64,
    pub unmatched: u64,
    pub excluded: u64,
    pub bad_method: u64,
    pub path_too_long: u64,
    pub over_route_limit: u64,
    pub over_count_limit: u64,
    pub aborted_before_response: u64,
    pub upgraded: u64,
    pub evicted_open: u64,
    pub open_at_exit: u64,

    /// Not exchanges, from here on. Connections that brought records; one that comes back after it was
    /// evicted counts again.
    pub connections: u64,
    /// Connections that began with the HTTP/2 preface.
    pub connections_http2: u64,
    /// Connections whose first bytes were no HTTP.
    pub connections_refused: u64,
    /// Connections on local ports that are not watched.
    pub connections_other_port: u64,
    /// Connections we had no room for.
    pub connections_over_limit: u64,
    /// Reported exchanges whose response was cut off.
    pub aborted_responses: u64,
    /// Responses nobody asked for, such as a 408 on an idle connection.
    pub responses_without_request: u64,
    /// Stretches of missing bytes, without those we muted ourselves.
    pub gaps: u64,
    /// Bytes in them.
    pub gap_bytes: u64,
    /// Bytes that records repeated.
    pub stale_bytes: u64,
    /// Exchanges whose consumer found the table full and was left out.
    pub consumers_over_limit: u64,
}

impl Ledger {
    /// Adds `count` exchanges to a cause.
    pub(crate) fn add(&mut self, cause: Cause, count: u64) {
        let field = match cause {
            Cause::LostGap => &mut self.lost_gap,
            Cause::UnreadableHead => &mut self.unreadable_head,
            Cause::IncompleteHead => &mut self.incomplete_head,
            Cause::Unmatched => &mut self.unmatched,
            Cause::Excluded => &mut self.excluded,
            Cause::BadMethod => &mut self.bad_method,
            Cause::PathTooLong => &mut self.path_too_long,
            Cause::OverRouteLimit => &mut self.over_route_limit,
            Cause::OverCountLimit => &mut self.over_count_limit,
            Cause::AbortedBeforeResponse => &mut self.aborted_before_response,
            Cause::Upgraded => &mut self.upgraded,
            Cause::EvictedOpen => &mut self.evicted_open,
            Cause::OpenAtExit => &mut self.open_at_exit,
        };
        *field = field.saturating_add(count);
    }

    /// Each cause and its exchanges, in a stable order.
    pub fn causes(&self) -> [(&'static str, u64); 14] {
        [
            ("lost_ring_full", self.lost_ring_full),
            ("lost_gap", self.lost_gap),
            ("unreadable_head", self.unreadable_head),
            ("incomplete_head", self.incomplete_head),
            ("unmatched", self.unmatched),
            ("excluded", self.excluded),
            ("bad_method", self.bad_method),
            ("path_too_long", self.path_too_long),
            ("over_route_limit", self.over_route_limit),
            ("over_count_limit", self.over_count_limit),
            ("aborted_before_response", self.aborted_before_response),
            ("upgraded", self.upgraded),
            ("evicted_open", self.evicted_open),
            ("open_at_exit", self.open_at_exit),
        ]
    }

    /// Exchanges that are in no row, over all causes.
    pub fn lost(&self) -> u64 {
        self.causes().iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// What the log line and the JSON message show: `seen`, `reported`, `lost`, then each cause.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("seen", self.seen), ("reported", self.reported), ("lost", self.lost())]
            .into_iter()
            .chain(self.causes())
    }

    /// What was noticed beside the exchanges, in a stable order.
    pub fn notes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("connections", self.connections),
            ("connections_http2", self.connections_http2),
            ("connections_refused", self.connections_refused),
            ("connections_other_port", self.connections_other_port),
            ("connections_over_limit", self.connections_over_limit),
            ("aborted_responses", self.aborted_responses),
            ("responses_without_request", self.responses_without_request),
            ("gaps", self.gaps),
            ("gap_bytes", self.gap_bytes),
            ("stale_bytes", self.stale_bytes),
            ("consumers_over_limit", self.consumers_over_limit),
        ]
        .into_iter()
    }
}
