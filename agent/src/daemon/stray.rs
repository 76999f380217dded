//! Connections that are gone without a close that the kernel side saw: closed by `close_range` or by becoming
//! another program, while another thread was inside a call on them, or in a record that found no room.

use std::{collections::HashSet, io, time::Duration};

use agent_common::conn::{ConnId, TargetId};

use crate::{
    pipeline::{Ktime, Pipeline},
    probe::{
        descriptors::{self, Descriptor},
        load::Probe,
    },
};

/// Connections that may be strays are looked for this often.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Those that have waited for the end of an exchange for 10 s, 20 s, 40 s and so on, and that no process of their
/// target holds any more. Reads the descriptors of these targets' processes, if there is any such connection. Where a
/// process does not let us look, it may hold all of them.
pub fn find(pipeline: &Pipeline, probe: &Probe, now: Ktime) -> Vec<(TargetId, ConnId)> {
    let mut quiet: Vec<_> = pipeline.quiet_connections(now, is_due).collect();
    if quiet.is_empty() {
        return quiet;
    }
    let targets: HashSet<TargetId> = quiet.iter().map(|(target, _)| *target).collect();
    let (mut held, mut hidden) = (HashSet::<ConnId>::new(), HashSet::new());
    for (pid, target) in probe.watched().into_iter().filter(|(_, target)| targets.contains(target)) {
        match descriptors::of(pid) {
            Ok(open) => held.extend(open.filter_map(Descriptor::socket)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => drop(hidden.insert(target)),
            Err(_) => {} // gone
        }
    }
    quiet.retain(|(target, conn)| !held.contains(conn) && !hidden.contains(target));
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
