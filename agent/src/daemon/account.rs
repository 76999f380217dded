//! The lines of the log that say what became of everything that was seen.

use tracing::{debug, info};

use crate::{pipeline::ledger::Ledger, probe::load::Probe};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LedgerLine {
    Interim,
    Last,
}

/// Every field that is not an exchange's fate is left to `--dry-run` and the pipeline's docs.
pub fn log_ledger(pid: u32, ledger: &Ledger, which: LedgerLine) {
    macro_rules! line {
        ($level:ident) => {
            $level!(
                pid,
                seen = ledger.seen,
                reported = ledger.reported,
                lost = ledger.lost(),
                lost_ring_full = ledger.lost_ring_full,
                lost_gap = ledger.lost_gap,
                unreadable_head = ledger.unreadable_head,
                incomplete_head = ledger.incomplete_head,
                unmatched = ledger.unmatched,
                excluded = ledger.excluded,
                bad_method = ledger.bad_method,
                path_too_long = ledger.path_too_long,
                over_route_limit = ledger.over_route_limit,
                over_count_limit = ledger.over_count_limit,
                aborted_before_response = ledger.aborted_before_response,
                upgraded = ledger.upgraded,
                evicted_open = ledger.evicted_open,
                open_at_exit = ledger.open_at_exit,
                connections = ledger.connections,
                gaps = ledger.gaps,
                gap_bytes = ledger.gap_bytes,
                "ledger"
            )
        };
    }
    match which {
        LedgerLine::Interim => line!(debug),
        LedgerLine::Last => line!(info),
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
        given_up = given_up.join(" "),
        "tap"
    );
}
