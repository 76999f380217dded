//! The lines of the log that say what became of everything that was seen.

use std::time::{Duration, Instant};

use agent_common::drops::DropReason;
use tracing::{debug, info, warn};

use crate::{
    pipeline::{
        Pipeline,
        ledger::{Cause, Coverage, Ledger},
    },
    probe::{discover, load::Probe},
    spool::Unsettled,
    watch::Target,
};

/// Exchanges that are missed are worth a line in the log this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LedgerLine {
    Interim,
    Last,
}

/// Puts into a target's ledger what an agent that was killed could not report.
pub fn take_over(target: &Target, left: Unsettled, pipeline: &mut Pipeline) {
    let Unsettled { counted, open } = left;
    if left != Unsettled::default() {
        warn!(
            pid = target.pid,
            counted,
            open,
            "the last agent here was killed; what it had counted since its last message is lost"
        );
    }
    pipeline.lose_killed(target.id, counted, open);
}

/// The account of a target in one line. What is not in it, `apitally-agent status --json` shows.
pub fn log_ledger(pid: u32, ledger: &Ledger, which: LedgerLine) {
    let lost_to = |cause| ledger.lost_to(cause);
    let coverage = ledger.coverage();
    macro_rules! line {
        ($level:ident) => {
            $level!(
                pid,
                seen = ledger.seen,
                reported = ledger.reported,
                lost = ledger.lost(),
                coverage = coverage.map(Coverage::percent),
                lost_ring_full = lost_to(Cause::LostRingFull),
                lost_gap = lost_to(Cause::LostGap),
                unreadable_head = lost_to(Cause::UnreadableHead),
                incomplete_head = lost_to(Cause::IncompleteHead),
                unmatched = lost_to(Cause::Unmatched),
                excluded = lost_to(Cause::Excluded),
                bad_method = lost_to(Cause::BadMethod),
                path_too_long = lost_to(Cause::PathTooLong),
                over_route_limit = lost_to(Cause::OverRouteLimit),
                over_count_limit = lost_to(Cause::OverCountLimit),
                aborted_before_response = lost_to(Cause::AbortedBeforeResponse),
                upgraded = lost_to(Cause::Upgraded),
                evicted_open = lost_to(Cause::EvictedOpen),
                open_at_exit = lost_to(Cause::OpenAtExit),
                sampled_out = lost_to(Cause::SampledOut),
                agent_killed = lost_to(Cause::AgentKilled),
                connections = ledger.connections,
                connections_evicted = ledger.connections_evicted(),
                connections_over_limit = ledger.connections_over_limit,
                heads_refused = ledger.heads_refused(),
                gaps = ledger.gaps,
                bytes_seen = ledger.bytes.seen,
                bytes_captured = ledger.bytes.captured,
                bytes_muted = ledger.bytes.muted,
                bytes_gapped = ledger.bytes.gapped,
                "ledger"
            )
        };
    }
    match which {
        LedgerLine::Interim => line!(debug),
        LedgerLine::Last if coverage.is_some_and(|coverage| coverage < Coverage::GOOD) => line!(warn),
        LedgerLine::Last => line!(info),
    }
}

/// Says that a target's exchanges are being missed: as long as it gets worse, and not too often; and that it speaks what
/// we cannot read, once.
#[derive(Debug, Default)]
pub struct Alarm {
    /// Exchanges missed, as last logged.
    missed: u64,
    last: Option<Instant>,
    told_of_tls: bool,
    told_of_http2: bool,
}

impl Alarm {
    pub fn look_at(&mut self, pid: u32, ledger: &Ledger, now: Instant) {
        self.look_at_protocols(pid, ledger);
        let Some(coverage) = ledger.coverage().filter(|coverage| *coverage < Coverage::GOOD) else { return };
        let missed = ledger.missed();
        if missed <= self.missed || self.last.is_some_and(|last| now - last < WARN_EVERY) {
            return;
        }
        warn!(pid, coverage = coverage.percent(), missed, more = missed - self.missed, "coverage");
        self.missed = missed;
        self.last = Some(now);
    }

    fn look_at_protocols(&mut self, pid: u32, ledger: &Ledger) {
        let (tls, http2) = (ledger.connections_tls, ledger.connections_http2);
        if tls > 0 && !self.told_of_tls {
            warn!(
                pid,
                connections = tls,
                "TLS ends in the target, requests in it are not seen; end it in a proxy"
            );
            self.told_of_tls = true;
        }
        if http2 > 0 && !self.told_of_http2 {
            warn!(
                pid,
                connections = http2,
                "clients speak HTTP/2 to the target, these requests are not seen"
            );
            self.told_of_http2 = true;
        }
    }
}

/// Says what the kernel side could not see or deliver, when there is more of it than before.
#[derive(Debug, Default)]
pub struct TapAlarm {
    /// As last logged.
    lost_records: u64,
    missed_runs: u64,
    /// Whether anybody looked for rings that were set up before we watched, and whether we said that there are any.
    looked_for_rings: bool,
    told_of_rings: bool,
}

impl TapAlarm {
    pub fn look_at(&mut self, probe: &Probe) {
        let drops = probe.drops();
        let count =
            |wanted| drops.iter().find(|(reason, _)| *reason == wanted).map_or(0, |(_, count)| *count);
        let lost_records = count(DropReason::RingFull) + count(DropReason::RingFullControl);
        if lost_records > self.lost_records {
            warn!(
                records = lost_records - self.lost_records,
                "ring buffer full, exchanges will be counted as lost; see --ring-bytes"
            );
            self.lost_records = lost_records;
        }
        let missed_runs = probe.missed_runs();
        if missed_runs > self.missed_runs {
            warn!(
                runs = missed_runs - self.missed_runs,
                "the kernel left out runs of our programs, bytes will be missing"
            );
            self.missed_runs = missed_runs;
        }
        if self.told_of_rings {
            return;
        }
        let set_up_before_us =
            || probe.watched().into_iter().map(|(pid, _)| pid).find(|pid| discover::uses_io_uring(*pid));
        let pid = if self.looked_for_rings { None } else { set_up_before_us() };
        self.looked_for_rings = true;
        if pid.is_some() || count(DropReason::IoUring) > 0 {
            warn!(pid, "a target uses io_uring; requests and responses that it moves that way are not seen");
            self.told_of_rings = true;
        }
    }
}

/// What the kernel side moved and gave up since it was loaded.
pub fn log_tap(probe: &Probe) {
    let [seen, captured, muted, records] = probe.tallies().map(|(_, amount)| amount);
    let given_up: Vec<String> = probe
        .drops()
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{}={count}", reason.name()))
        .collect();
    info!(
        records,
        bytes_seen = seen,
        bytes_captured = captured,
        bytes_muted = muted,
        missed_runs = probe.missed_runs(),
        given_up = given_up.join(" "),
        "tap"
    );
}
