//! Connections that are gone without a close that the kernel side saw: closed by `close_range` or by becoming
//! another program, while another thread was inside a call on them, or in a record that found no room.

use std::{collections::HashSet, time::Duration};

use agent_common::conn::{ConnId, TargetId};

use crate::{
    pipeline::{Ktime, Pipeline},
    probe::{discover, load::Probe},
};

/// Connections that may be strays are looked for this often.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Those that have waited for the end of an exchange for 10 s, 20 s, 40 s and so on, and that no process of their
/// target holds any more. Reads the descriptors of these targets' processes, if there is any such connection.
pub fn find(pipeline: &Pipeline, probe: &Probe, now: Ktime) -> Vec<(TargetId, ConnId)> {
    let mut quiet: Vec<_> = pipeline.quiet_connections(now, is_due).collect();
    if quiet.is_empty() {
        return quiet;
    }
    let targets: HashSet<TargetId> = quiet.iter().map(|(target, _)| *target).collect();
    let watched = probe.watched().into_iter().filter(|(_, target)| targets.contains(target));
    let held: HashSet<ConnId> = watched.flat_map(|(pid, _)| discover::sockets(pid)).collect();
    quiet.retain(|(_, conn)| !held.contains(conn));
    quiet
}

fn is_due(quiet: Duration) -> bool {
    (quiet.as_secs() / LOOK_EVERY.as_secs()).is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer() {
        let due: Vec<u64> =
            (0..100).map(|look| look * 10 + 3).filter(|s| is_due(Duration::from_secs(*s))).collect();
        assert_eq!(due, [13, 23, 43, 83, 163, 323, 643]);
    }
}
