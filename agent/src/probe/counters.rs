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
}

impl Counters {
    /// For each of [`cpus`] CPUs, `by_cpu` holds a set of counters, `untold` a word for each target.
    pub fn new(by_cpu: Shared, untold: Shared) -> Self {
        Self { by_cpu, untold }
    }

    /// How often something was given up for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        sum(&self.by_cpu, COUNTERS, reason as usize)
    }

    pub fn tally(&self, tally: Tally) -> u64 {
        sum(&self.by_cpu, COUNTERS, TALLIES_AT + tally as usize)
    }

    /// Turns of a target of which neither a record nor a close could be told.
    pub fn untold(&self, target: TargetId) -> u64 {
        sum(&self.untold, TARGETS as usize, target as usize)
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
