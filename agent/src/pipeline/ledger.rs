//! The account of every exchange: reported, or lost to a named cause.

/// Why an exchange is in no row.
///
/// Of an exchange that is lost on the way back into step, the cause is the gap that put its direction out of
/// step: the first one, should several have followed each other. An exchange whose answer is missing goes by
/// the gap in egress; one of which nothing was parsed goes by the gap in ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its beginning or its answer was in a record that never came: the ring buffer was full, or, as the kernel
    /// side's drop counters tell, a call passed unseen. Only what is certain: the next record in that direction
    /// begins a system call, or says that no more will come, so a record of their own was due for the missing
    /// bytes.
    LostRingFull,
    /// Its beginning or its answer was in bytes of which a record came, but without them (beyond what is copied
    /// of a call, memory that could not be read), or it cannot be told from that; or it came while the connection
    /// was out of step for another reason, such as a broken body, or being met behind its beginning.
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
    /// Its connection was left out, since the agent came near the bounds of what it may cost.
    SampledOut,
    /// Counted by an agent that was killed before the message with it was on disk or delivered.
    AgentKilled,
}

/// Whether somebody who saw everything and had room for everything would have reported the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Yes: it is missing because we did not see it, did not understand it, or had no room for it.
    Sight,
    /// No: the hub does not take such exchanges, or there never was an answer to report.
    Rule,
}

impl Cause {
    pub const ALL: [Cause; 16] = [
        Self::LostRingFull,
        Self::LostGap,
        Self::UnreadableHead,
        Self::IncompleteHead,
        Self::Unmatched,
        Self::Excluded,
        Self::BadMethod,
        Self::PathTooLong,
        Self::OverRouteLimit,
        Self::OverCountLimit,
        Self::AbortedBeforeResponse,
        Self::Upgraded,
        Self::EvictedOpen,
        Self::OpenAtExit,
        Self::SampledOut,
        Self::AgentKilled,
    ];

    /// Name in logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::LostRingFull => "lost_ring_full",
            Self::LostGap => "lost_gap",
            Self::UnreadableHead => "unreadable_head",
            Self::IncompleteHead => "incomplete_head",
            Self::Unmatched => "unmatched",
            Self::Excluded => "excluded",
            Self::BadMethod => "bad_method",
            Self::PathTooLong => "path_too_long",
            Self::OverRouteLimit => "over_route_limit",
            Self::OverCountLimit => "over_count_limit",
            Self::AbortedBeforeResponse => "aborted_before_response",
            Self::Upgraded => "upgraded",
            Self::EvictedOpen => "evicted_open",
            Self::OpenAtExit => "open_at_exit",
            Self::SampledOut => "sampled_out",
            Self::AgentKilled => "agent_killed",
        }
    }

    /// What it says about our sight. A head that we could not read counts against us, though the server may have
    /// refused it too.
    pub fn class(self) -> Class {
        match self {
            Self::LostRingFull
            | Self::LostGap
            | Self::UnreadableHead
            | Self::OverRouteLimit
            | Self::OverCountLimit
            | Self::EvictedOpen
            | Self::SampledOut
            | Self::AgentKilled => Class::Sight,
            Self::IncompleteHead
            | Self::Unmatched
            | Self::Excluded
            | Self::BadMethod
            | Self::PathTooLong
            | Self::AbortedBeforeResponse
            | Self::Upgraded
            | Self::OpenAtExit => Class::Rule,
        }
    }
}

/// Share of the exchanges that were to be reported and were: reported / (reported + lost to [`Class::Sight`]).
///
/// What the kernel side missed without leaving a trace in any stream (its drop counters say how often) is in no
/// exchange and so not in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coverage {
    /// Rounded down, so that 100 % says that nothing was lost.
    thousandths_of_percent: u32,
}

impl Coverage {
    /// Below this, somebody should know: 99.9 %.
    pub const GOOD: Coverage = Coverage { thousandths_of_percent: 99_900 };

    fn new(reported: u64, missed: u64) -> Option<Self> {
        let (reported, missed) = (u128::from(reported), u128::from(missed));
        let share = (reported * 100_000).checked_div(reported + missed)?;
        Some(Self { thousandths_of_percent: u32::try_from(share).ok()? })
    }

    /// With three decimals, rounded down.
    pub fn percent(self) -> f64 {
        f64::from(self.thousandths_of_percent) / 1000.0
    }
}

/// Bytes that moved on the connections of a target, both directions together.
///
/// A direction counts from its first record on; egress of a connection that was seen from its start, from its
/// first byte on. It counts up to the last record, or to where the kernel side says that it ended. What records
/// repeat is counted once. `seen == captured + muted + gapped`, always; sums wrap around, so that a forged
/// recording cannot break that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// How far the positions of the connections have moved.
    pub seen: u64,
    /// Those that reached us.
    pub captured: u64,
    /// Those that we had asked the kernel side to leave out, and that it left out.
    pub muted: u64,
    /// Those that we wanted and did not get: the ring buffer was full, or they could not be copied (sendfile,
    /// splice, beyond the bound of a call). Inside of a body of known length that costs nothing.
    pub gapped: u64,
}

impl Bytes {
    pub(crate) fn add(&mut self, more: Self) {
        self.seen = self.seen.wrapping_add(more.seen);
        self.captured = self.captured.wrapping_add(more.captured);
        self.muted = self.muted.wrapping_add(more.muted);
        self.gapped = self.gapped.wrapping_add(more.gapped);
    }

    /// The promise of this type.
    pub fn adds_up(&self) -> bool {
        self.seen == self.captured.wrapping_add(self.muted).wrapping_add(self.gapped)
    }
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
    /// Exchanges in no row, in the order of [`Cause::ALL`].
    lost: [u64; Cause::ALL.len()],

    /// Not exchanges, from here on. Connections that brought records; one that comes back after it was
    /// evicted counts again.
    pub connections: u64,
    /// Connections that began with the HTTP/2 preface.
    pub connections_http2: u64,
    /// Connections that began with a record of TLS.
    pub connections_tls: u64,
    /// Connections whose first bytes were neither that nor HTTP.
    pub connections_refused: u64,
    /// Connections on local ports that are not watched.
    pub connections_other_port: u64,
    /// Connections we had no room for.
    pub connections_over_limit: u64,
    /// Connections let go because nothing came for too long.
    pub connections_evicted_idle: u64,
    /// Connections let go while they were idle, to make room.
    pub connections_evicted_full: u64,
    /// Connections let go because too many requests waited for their responses.
    pub connections_overflowed: u64,
    /// Heads that were not copied.
    pub heads_unread: u64,
    /// Heads beyond a bound: of one head, or of all that are incomplete together.
    pub heads_too_large: u64,
    /// Heads that broke the rules, or were not HTTP.
    pub heads_malformed: u64,
    /// Reported exchanges whose response was cut off.
    pub aborted_responses: u64,
    /// Responses nobody asked for, such as a 408 on an idle connection.
    pub responses_without_request: u64,
    /// Stretches of missing bytes, without those we muted ourselves; `bytes.gapped` is what was in them.
    pub gaps: u64,
    pub bytes: Bytes,
    /// Bytes that records repeated.
    pub stale_bytes: u64,
    /// Exchanges whose consumer found the table full, and is one of the others.
    pub consumers_over_limit: u64,
    /// Exchanges of which details were wanted and not kept: there was no room. They are counted all the same.
    pub details_dropped: u64,
    /// Bodies that may have said something of errors and were not read: too large, not whole, or not to be decoded.
    pub error_bodies_unread: u64,
    /// Errors beyond what is kept between two takes, or of one body.
    pub validation_errors_dropped: u64,
    pub server_errors_dropped: u64,
    /// Reported exchanges that are in no cumulative row: there was no room.
    pub cumulative_over_limit: u64,
}

impl Ledger {
    /// Adds `count` exchanges to a cause.
    pub(crate) fn add(&mut self, cause: Cause, count: u64) {
        if let Some(lost) = self.lost.get_mut(cause as usize) {
            *lost = lost.saturating_add(count);
        }
    }

    /// Exchanges lost to a cause.
    pub fn lost_to(&self, cause: Cause) -> u64 {
        self.lost.get(cause as usize).copied().unwrap_or(0)
    }

    /// Each cause and its exchanges, in a stable order.
    pub fn causes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Cause::ALL.into_iter().map(Cause::name).zip(self.lost)
    }

    /// Exchanges that are in no row, over all causes.
    pub fn lost(&self) -> u64 {
        self.lost.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Exchanges that we would have reported, had we seen them as a whole and had room for them.
    pub fn missed(&self) -> u64 {
        let sight = Cause::ALL.into_iter().filter(|cause| cause.class() == Class::Sight);
        sight.fold(0, |sum, cause| sum.saturating_add(self.lost_to(cause)))
    }

    /// None before there was anything to report.
    pub fn coverage(&self) -> Option<Coverage> {
        Coverage::new(self.reported, self.missed())
    }

    /// Connections that we let go, for whatever reason.
    pub fn connections_evicted(&self) -> u64 {
        self.connections_evicted_idle + self.connections_evicted_full + self.connections_overflowed
    }

    /// Heads of requests and responses that did not become a part of an exchange.
    pub fn heads_refused(&self) -> u64 {
        self.heads_unread + self.heads_too_large + self.heads_malformed
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
            ("connections_tls", self.connections_tls),
            ("connections_refused", self.connections_refused),
            ("connections_other_port", self.connections_other_port),
            ("connections_over_limit", self.connections_over_limit),
            ("connections_evicted_idle", self.connections_evicted_idle),
            ("connections_evicted_full", self.connections_evicted_full),
            ("connections_overflowed", self.connections_overflowed),
            ("heads_unread", self.heads_unread),
            ("heads_too_large", self.heads_too_large),
            ("heads_malformed", self.heads_malformed),
            ("aborted_responses", self.aborted_responses),
            ("responses_without_request", self.responses_without_request),
            ("gaps", self.gaps),
            ("bytes_seen", self.bytes.seen),
            ("bytes_captured", self.bytes.captured),
            ("bytes_muted", self.bytes.muted),
            ("bytes_gapped", self.bytes.gapped),
            ("stale_bytes", self.stale_bytes),
            ("consumers_over_limit", self.consumers_over_limit),
            ("details_dropped", self.details_dropped),
            ("error_bodies_unread", self.error_bodies_unread),
            ("validation_errors_dropped", self.validation_errors_dropped),
            ("server_errors_dropped", self.server_errors_dropped),
            ("cumulative_over_limit", self.cumulative_over_limit),
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_place_of_its_own() {
        let mut ledger = Ledger::default();
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            ledger.add(cause, 1 << index);
            assert_eq!(ledger.lost_to(cause), 1 << index);
        }
        assert_eq!(ledger.lost(), (1 << Cause::ALL.len()) - 1);
    }

    #[test]
    fn coverage_is_rounded_down_and_100_only_without_a_miss() {
        let percent = |reported, missed| Coverage::new(reported, missed).map(Coverage::percent);
        assert_eq!(percent(0, 0), None);
        assert_eq!(percent(1, 0), Some(100.0));
        assert_eq!(percent(0, 1), Some(0.0));
        assert_eq!(percent(99_998, 2), Some(99.998));
        assert_eq!(percent(999_999, 1), Some(99.999));
        assert_eq!(percent(u64::MAX, 1), Some(99.999));
        assert_eq!(percent(2, 1), Some(66.666));
        assert!(Coverage::new(999, 1) >= Some(Coverage::GOOD));
        assert!(Coverage::new(998, 1) < Some(Coverage::GOOD));
    }

    #[test]
    fn what_the_hub_does_not_take_is_not_missed() {
        let mut ledger = Ledger { reported: 3, ..Ledger::default() };
        ledger.add(Cause::Unmatched, 5);
        ledger.add(Cause::OpenAtExit, 5);
        assert_eq!(ledger.coverage().map(Coverage::percent), Some(100.0));
        ledger.add(Cause::LostRingFull, 1);
        assert_eq!((ledger.missed(), ledger.coverage().map(Coverage::percent)), (1, Some(75.0)));
    }
}
