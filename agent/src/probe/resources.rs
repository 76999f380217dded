//! CPU and memory of a target: what all its processes use together, from /proc.
//!
//! *CPU* is that of the processes that are there, and of those that came and went meanwhile, as far as a process of the
//! target waited for them: only then does the kernel tell anyone what they used. Where in doubt the figure is too low.
//!
//! *Memory* is the sum of the resident sets of the processes. A page that several of them share, such as what a server
//! loaded before it forked its workers, is in it once for each, as in the sum of what an official client in each
//! worker reports. What a share of the shared pages would be (PSS) the kernel works out by walking the processes' page
//! tables under a lock that they need themselves, which is no price for a figure.
//!
//! Costs one short file of /proc a process, each time a message is due.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use procfs::process::{Process, Stat};

use super::counters;

/// Looks at a target's processes from time to time. Bounded by the table of watched processes, twice: those of the last
/// look are kept.
#[derive(Debug, Default)]
pub struct Meter {
    last: Option<(Instant, Vec<Sample>)>,
}

/// What a target used between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// By all processes together; at most what all CPUs could give.
    pub cpu_time: Duration,
    pub elapsed: Duration,
    /// At the second look, bytes.
    pub memory: u64,
}

/// One process at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    id: ProcessId,
    parent: u32,
    /// CPU time of its own, clock ticks.
    own: u64,
    /// CPU time of the children that it has waited for, and of theirs, clock ticks.
    waited: u64,
    /// Resident set, bytes.
    memory: u64,
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ProcessId {
    pid: u32,
    /// Clock ticks after boot.
    started: u64,
}

impl Meter {
    /// What the processes used since the last look; None at the first one, and when none of them is left.
    pub fn look(&mut self, pids: impl IntoIterator<Item = u32>) -> Option<Used> {
        let now = Instant::now();
        let mut pids: BTreeSet<u32> = pids.into_iter().collect();
        // One that exited is watched no longer, but keeps its account until its parent asks for it.
        pids.extend(self.last.iter().flat_map(|(_, samples)| samples).map(|sample| sample.id.pid));
        let samples: Vec<Sample> = pids.into_iter().filter_map(Sample::of).collect();
        if samples.is_empty() {
            self.last = None;
            return None;
        }
        let used = self.last.as_ref().map(|(then, before)| {
            let elapsed = now.duration_since(*then);
            let ticks = used_between(before, &samples);
            let cpu_time = Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64);
            let memory = samples.iter().map(|sample| sample.memory).sum();
            Used { cpu_time: cpu_time.min(all_cpus(elapsed)), elapsed, memory }
        });
        self.last = Some((now, samples));
        used
    }
}

impl Sample {
    /// None when it is gone.
    fn of(pid: u32) -> Option<Self> {
        let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat());
        stat.ok().map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for Sample {
    fn from(stat: &Stat) -> Self {
        Self {
            id: ProcessId { pid: stat.pid.unsigned_abs(), started: stat.starttime },
            parent: stat.ppid.unsigned_abs(),
            own: stat.utime + stat.stime,
            waited: stat.cutime.unsigned_abs() + stat.cstime.unsigned_abs(),
            memory: stat.rss * procfs::page_size(),
        }
    }
}

/// CPU time used between two looks, clock ticks.
///
/// Adds up what each process used itself, and what came to it from children that it waited for. Such a child brings all
/// that it ever used; what was counted at earlier looks, when it was there itself, is taken off again.
fn used_between(before: &[Sample], now: &[Sample]) -> u64 {
    let earlier: HashMap<ProcessId, &Sample> = before.iter().map(|sample| (sample.id, sample)).collect();
    let counted = counted_for_heirs(before, now);
    now.iter()
        .map(|sample| {
            let (own, waited) =
                earlier.get(&sample.id).map_or((0, 0), |earlier| (earlier.own, earlier.waited));
            let counted = counted.get(&sample.id.pid).copied().unwrap_or(0);
            sample.own.saturating_sub(own) + sample.waited.saturating_sub(waited).saturating_sub(counted)
        })
        .sum()
}

/// By pid: what was counted of processes that are gone and of which this one is the next ancestor that is left. That is
/// who their CPU time came to, unless nobody waited for them.
fn counted_for_heirs(before: &[Sample], now: &[Sample]) -> HashMap<u32, u64> {
    let left: HashMap<ProcessId, u32> = now.iter().map(|sample| (sample.id, sample.parent)).collect();
    let earlier: HashMap<u32, &Sample> = before.iter().map(|sample| (sample.id.pid, sample)).collect();
    let mut counted = HashMap::new();
    for gone in before.iter().filter(|sample| !left.contains_key(&sample.id)) {
        let ancestors =
            std::iter::successors(earlier.get(&gone.parent), |sample| earlier.get(&sample.parent));
        // As many steps as there are processes: a pid that was taken again may make a circle.
        let mut ancestors = ancestors.take(before.len());
        if let Some(heir) = ancestors.find(|sample| left.contains_key(&sample.id)) {
            *counted.entry(heir.id.pid).or_default() += gone.own + gone.waited;
        }
    }
    counted
}

/// What all CPUs together can give.
fn all_cpus(elapsed: Duration) -> Duration {
    counters::cpus().map_or(Duration::MAX, |cpus| elapsed.saturating_mul(cpus))
}

#[cfg(test)]
mod tests;
