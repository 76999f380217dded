//! What the kernel side counts: one set of counters per CPU, which are added up here.

use std::{io, sync::atomic::Ordering};

use agent_common::{
    conn::TargetId,
    drops::{COUNTERS, DropReason, TALLIES_AT, Tally},
    limits::TARGETS,
};

use super::shared::Shared;

pub struct Counters {
    by_cpu: Shared,
    untold: Shared,
    sampled_out: Shared,
}

/// Turns of a target that are in no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// There was room neither for a record nor for the close.
    pub untold: u64,
    /// Their connections are left out.
    pub sampled_out: u64,
}

impl Counters {
    /// For each of [`cpus`] CPUs, `by_cpu` holds a set of counters, the others hold a word for each target.
    pub fn new(by_cpu: Shared, untold: Shared, sampled_out: Shared) -> Self {
        Self { by_cpu, untold, sampled_out }
    }

    /// How often something was given up for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        sum(&self.by_cpu, COUNTERS, reason as usize)
    }

    pub fn tally(&self, tally: Tally) -> u64 {
        sum(&self.by_cpu, COUNTERS, TALLIES_AT + tally as usize)
    }

    /// Since loading.
    pub fn turns(&self, target: TargetId) -> Turns {
        let of = |turns| sum(turns, TARGETS as usize, target as usize);
        Turns { untold: of(&self.untold), sampled_out: of(&self.sampled_out) }
    }
}

/// Adds up what stands at `index` of every CPU's `each` words.
fn sum(counters: &Shared, each: usize, index: usize) -> u64 {
    let sets = counters.words().chunks_exact(each);
    sets.filter_map(|set| set.get(index)).map(|counter| counter.load(Ordering::Relaxed)).sum()
}

/// CPUs that there may be, those that are off included.
///
/// # Errors
/// When the kernel does not say.
pub fn cpus() -> io::Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    u32::try_from(cpus).map_err(|_| io::ErrorKind::InvalidData.into())
}
