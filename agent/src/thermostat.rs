//! Keeps the agent within its share of the host: near a bound it looks at less, step by step, and later at more again.
//!
//! Fewer bytes of each call come first, since most of what is counted is in the first ones. Then whole connections are
//! left out: what is seen is seen whole, and the exchanges of the others are counted
//! ([`crate::pipeline::ledger::Cause::SampledOut`]), so that it is known what is missing.

use std::time::{Duration, Instant};

use agent_common::{conn::Capture, limits::CAPTURE_LEAST};

/// What the agent may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Percent of one core.
    pub cpu_percent: u32,
    /// Bytes resident.
    pub memory: u64,
}

impl Bounds {
    /// Why these, says docs/status.md.
    pub const DEFAULT: Bounds = Bounds { cpu_percent: 50, memory: 256_000_000 };
}

/// What it has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time since it began.
    pub cpu: Duration,
    /// Bytes resident now.
    pub memory: u64,
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(usize);

/// From everything to next to nothing. Once connections are left out, each step about halves what the agent does.
const LEVELS: [Capture; 9] = [
    Capture::ALL,
    Capture { per_call: 16 * 1024, sampled_out: 0 },
    Capture { per_call: CAPTURE_LEAST as u64, sampled_out: 0 },
    one_in(2),
    one_in(4),
    one_in(8),
    one_in(16),
    one_in(32),
    one_in(64),
];

/// One of so many connections is looked at.
const fn one_in(connections: u64) -> Capture {
    let looked_at = Capture::CONNECTIONS / connections;
    Capture { per_call: CAPTURE_LEAST as u64, sampled_out: Capture::CONNECTIONS - looked_at }
}

impl Level {
    /// Its number; 0 is everything.
    pub fn number(self) -> usize {
        self.0
    }

    pub fn capture(self) -> Capture {
        LEVELS.get(self.0).copied().unwrap_or(Capture::ALL)
    }

    /// Share of the connections that are looked at, percent.
    pub fn connections_percent(self) -> f64 {
        (Capture::CONNECTIONS - self.capture().sampled_out) as f64 * 100.0 / Capture::CONNECTIONS as f64
    }

    /// Everything is looked at.
    pub fn is_all(self) -> bool {
        self == Self::default()
    }
}

/// Above this share of a bound the agent is near it, percent.
const NEAR: u64 = 90;
/// Below these shares of both it is well within them. A step back about doubles the CPU time that is needed, and must not
/// lead to the next step forth.
const COOL_CPU: u64 = 40;
const COOL_MEMORY: u64 = 80;
/// Looks in succession that must find it near before the next step: one may be a document that is read again.
const HOT_LOOKS: u32 = 2;
/// It must have been cool for so long before a step back: a load that comes in waves of some seconds is one load.
const COOL_FOR: Duration = Duration::from_secs(5);
/// Looks that follow each other sooner tell nothing.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);

/// Decides how much is looked at.
#[derive(Debug)]
pub struct Thermostat {
    bounds: Bounds,
    level: Level,
    /// When the level became what it is.
    since: Instant,
    last: Option<(Instant, Usage)>,
    /// Of one core, between the last two looks.
    cpu_percent: f64,
    hot_looks: u32,
    cool_since: Option<Instant>,
}

impl Thermostat {
    pub fn new(bounds: Bounds, now: Instant) -> Self {
        Self {
            bounds,
            level: Level::default(),
            since: now,
            last: None,
            cpu_percent: 0.0,
            hot_looks: 0,
            cool_since: None,
        }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// What the agent took of one core between the last two looks.
    pub fn cpu_percent(&self) -> f64 {
        self.cpu_percent
    }

    /// Whether there should be more memory: it is near its bound, or keeps everything from being looked at again.
    pub fn is_short_of_memory(&self, usage: Usage) -> bool {
        self.exceeds(usage, if self.level.is_all() { NEAR } else { COOL_MEMORY })
    }

    /// Whether so many percent of what memory it may have are not enough.
    fn exceeds(&self, usage: Usage, percent: u64) -> bool {
        usage.memory > self.bounds.memory / 100 * percent
    }

    /// Takes note of what the agent has cost so far, about once a second. The new level, when it is another one now.
    pub fn look(&mut self, now: Instant, usage: Usage) -> Option<Level> {
        let (before, earlier) = *self.last.get_or_insert((now, usage));
        let passed = now.saturating_duration_since(before);
        if passed < SHORTEST_LOOK {
            return None;
        }
        self.last = Some((now, usage));
        self.cpu_percent = usage.cpu.saturating_sub(earlier.cpu).as_secs_f64() * 100.0 / passed.as_secs_f64();
        let of_allowed = self.cpu_percent * 100.0 / f64::from(self.bounds.cpu_percent);
        if of_allowed > NEAR as f64 || self.exceeds(usage, NEAR) {
            self.cool_since = None;
            self.hot_looks += 1;
            if self.hot_looks < HOT_LOOKS || self.level.0 + 1 == LEVELS.len() {
                return None;
            }
            return Some(self.set(Level(self.level.0 + 1), now));
        }
        self.hot_looks = 0;
        let is_cool = of_allowed < COOL_CPU as f64 && !self.exceeds(usage, COOL_MEMORY);
        if !is_cool || self.level.is_all() {
            self.cool_since = None;
            return None;
        }
        if now.saturating_duration_since(*self.cool_since.get_or_insert(now)) < COOL_FOR {
            return None;
        }
        Some(self.set(Level(self.level.0 - 1), now))
    }

    fn set(&mut self, level: Level, now: Instant) -> Level {
        (self.level, self.since) = (level, now);
        (self.hot_looks, self.cool_since) = (0, None);
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// An agent that costs what a host's load and the level make it cost.
    struct Host {
        thermostat: Thermostat,
        now: Instant,
        usage: Usage,
        levels: Vec<usize>,
    }

    impl Host {
        fn new(cpu_percent: u32, memory: u64) -> Self {
            let now = Instant::now();
            let thermostat = Thermostat::new(Bounds { cpu_percent, memory }, now);
            Self { thermostat, now, usage: Usage::default(), levels: Vec::new() }
        }

        /// Lets seconds pass in which everything would take `percent` of a core, and `memory`.
        fn pass(&mut self, seconds: u32, percent: f64, memory: u64) -> &mut Self {
            for _ in 0..seconds {
                let share = self.thermostat.level().connections_percent() / 100.0;
                self.usage.cpu += Duration::from_secs_f64(percent / 100.0 * share);
                self.usage.memory = memory;
                self.now += Duration::from_secs(1);
                if let Some(level) = self.thermostat.look(self.now, self.usage) {
                    assert_eq!((level, self.now), (self.thermostat.level(), self.thermostat.since()));
                    self.levels.push(level.number());
                }
            }
            self
        }
    }

    #[test]
    fn what_is_not_near_the_bounds_is_left_alone() {
        let mut host = Host::new(50, 100 * MB);
        host.pass(1000, 44.0, 89 * MB);
        assert!(host.levels.is_empty() && host.thermostat.level().is_all());
    }

    #[test]
    fn a_moment_of_too_much_changes_nothing() {
        let mut host = Host::new(50, 100 * MB);
        for _ in 0..100 {
            host.pass(1, 100.0, MB).pass(1, 10.0, MB);
        }
        assert!(host.levels.is_empty());
    }

    #[test]
    fn too_much_takes_steps_until_it_is_not_and_then_stays() {
        let mut host = Host::new(50, 100 * MB);
        // A quarter of it is as much as may be.
        host.pass(600, 175.0, MB);
        assert_eq!(host.levels, [1, 2, 3, 4], "and no step back");
        assert!((host.thermostat.cpu_percent() - 43.75).abs() < 0.1);
    }

    #[test]
    fn everything_is_seen_again_when_the_load_is_gone() {
        let mut host = Host::new(50, 100 * MB);
        host.pass(20, 175.0, MB).pass(100, 5.0, MB);
        assert_eq!(host.levels, [1, 2, 3, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn memory_counts_as_well() {
        let mut host = Host::new(50, 100 * MB);
        host.pass(5, 1.0, 91 * MB).pass(60, 1.0, 85 * MB);
        assert_eq!(host.levels, [1, 2], "neither near the bound nor well within");
        assert!(host.thermostat.is_short_of_memory(host.usage));
        host.pass(60, 1.0, 79 * MB);
        assert_eq!(host.levels, [1, 2, 1, 0]);
        host.pass(60, 1.0, 85 * MB);
        assert!(!host.thermostat.is_short_of_memory(host.usage));
    }

    #[test]
    fn there_is_a_last_step() {
        let mut host = Host::new(1, 100 * MB);
        host.pass(1000, 10_000.0, MB);
        assert_eq!(host.levels, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(host.thermostat.level().connections_percent(), 100.0 / 64.0);
    }

    #[test]
    fn load_in_waves_is_one_load() {
        let mut host = Host::new(50, 100 * MB);
        for _ in 0..100 {
            host.pass(3, 80.0, MB).pass(4, 5.0, MB);
        }
        assert_eq!(host.levels, [1, 2, 3]);
    }

    /// Whatever step a target takes in the numbers of sockets from one connection to the next.
    #[test]
    fn connections_are_left_out_by_the_share_that_is_said() {
        for step in [1, 2, 3, 8, 610, 1024, 65_536] {
            for (level, capture) in LEVELS.iter().enumerate() {
                let conns = (0..100_000).map(|index| 1_000_000 + index * step);
                let seen = conns.filter(|conn| !capture.leaves_out(*conn)).count() as f64;
                let share = Level(level).connections_percent() / 100.0;
                let deviation = (100_000.0 * share * (1.0 - share)).sqrt();
                let off = (seen - 100_000.0 * share).abs();
                assert!(off <= 4.0 * deviation, "step {step}, level {level}: {seen} of 100,000");
            }
        }
    }

    #[test]
    fn more_are_left_out_beside_those_that_were() {
        for conn in 1_000_000..1_010_000 {
            let outs: Vec<bool> = LEVELS.iter().map(|capture| capture.leaves_out(conn)).collect();
            assert!(outs.is_sorted(), "{conn}: {outs:?}");
        }
    }
}
