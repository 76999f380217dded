//! When to send: pure, clocks and chance are handed in.

use std::time::{Duration, Instant};

use crate::delivery::Due;

/// Interval while the watch is young, so that a new app shows up quickly.
const YOUNG_INTERVAL: Duration = Duration::from_secs(10);
/// A watch is young this long.
const YOUNG: Duration = Duration::from_secs(3600);
const INTERVAL: Duration = Duration::from_secs(60);

/// When the next sync of one target is due: at once, then every 10 s for an hour, then every 60 s.
#[derive(Clone, Debug)]
pub struct SyncTimer {
    started: Instant,
    fixed_interval: Option<Duration>,
    due: Due,
}

impl SyncTimer {
    /// `fixed_interval` replaces the protocol's own.
    pub fn start(now: Instant, fixed_interval: Option<Duration>) -> Self {
        Self { started: now, fixed_interval, due: Due { next: now } }
    }

    pub fn next_due(&self) -> Instant {
        self.due.next
    }

    /// Is a sync due? If so, it is taken as sent, and the next one is due an interval later.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.started);
        let protocols_own = if age < YOUNG { YOUNG_INTERVAL } else { INTERVAL };
        self.due.take(now, || self.fixed_interval.unwrap_or(protocols_own))
    }
}

/// How patiently messages are sent. The defaults are the protocol's.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Waits between the tries of one message grow from this: up to 1x, then up to 2x.
    pub retry_base: Duration,
    /// Pause between two messages.
    pub between: Duration,
    /// Likewise, at least and at most, after an outage, when the hub has others to catch up with too.
    pub catching_up: (Duration, Duration),
    /// A backlog that would take longer is sent with shorter pauses, but none shorter than `between`.
    pub catch_up_within: Duration,
    /// After a round that failed, the next one starts this long after it started.
    pub next_round: Duration,
    /// Up to this much is added to `next_round`, so that a hub that comes back is not met by everybody at once.
    pub next_round_jitter: Duration,
}

/// Tries per message and round.
const TRIES: u32 = 3;

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_base: Duration::from_secs(1),
            between: Duration::from_millis(20),
            catching_up: (Duration::from_millis(100), Duration::from_millis(500)),
            catch_up_within: Duration::from_secs(180),
            next_round: YOUNG_INTERVAL,
            next_round_jitter: Duration::from_secs(1),
        }
    }
}

impl Pace {
    /// The defaults, except that rounds come no more seldom than syncs do.
    pub fn for_interval(fixed_interval: Option<Duration>) -> Self {
        let pace = Self::default();
        let next_round = fixed_interval.map_or(pace.next_round, |interval| interval.min(pace.next_round));
        Self { next_round, next_round_jitter: pace.next_round_jitter.min(next_round), ..pace }
    }

    /// How long to wait after the `failed`th failed try of a message, the first being 1. None: enough tries.
    ///
    /// `chance` is in 0..1 and scales the whole wait ("full jitter").
    pub(super) fn retry_wait(&self, failed: u32, chance: f64) -> Option<Duration> {
        (failed < TRIES).then(|| (self.retry_base * 2_u32.pow(failed - 1)).mul_f64(chance))
    }

    /// How long to pause after a message, before the next, when `waiting` messages are to be caught up with; None when
    /// there is nothing to catch up with.
    pub(super) fn pause(&self, waiting: Option<usize>, chance: f64) -> Duration {
        let Some(waiting) = waiting else { return self.between };
        let (least, most) = self.catching_up;
        let pause = least + most.saturating_sub(least).mul_f64(chance);
        let share = self.catch_up_within / u32::try_from(waiting.max(1)).unwrap_or(u32::MAX);
        pause.min(share).max(self.between)
    }

    /// When the round after a failed one starts. Never straight away, however long the failed one took.
    pub(super) fn round_after(&self, started: Instant, ended: Instant, chance: f64) -> Instant {
        (started + self.next_round).max(ended + self.retry_base) + self.next_round_jitter.mul_f64(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds after the start at which syncs are due, when asked twice a second.
    fn due_times(fixed_interval: Option<Duration>, until: Duration) -> Vec<f64> {
        let start = Instant::now();
        let mut timer = SyncTimer::start(start, fixed_interval);
        let mut times = Vec::new();
        let mut now = start;
        while now <= start + until {
            if timer.take_due(now) {
                times.push((now - start).as_secs_f64());
            }
            now += SECOND / 2;
        }
        times
    }

    #[test]
    fn syncs_at_once_then_every_10_s_for_an_hour_then_every_minute() {
        let times = due_times(None, 3800 * SECOND);
        assert_eq!(times[..4], [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(times[359..], [3590.0, 3600.0, 3660.0, 3720.0, 3780.0]);
    }

    #[test]
    fn a_fixed_interval_holds_for_ever() {
        assert_eq!(due_times(Some(1500 * SECOND), 4600 * SECOND), [0.0, 1500.0, 3000.0, 4500.0]);
    }

    #[test]
    fn late_syncs_do_not_shift_the_schedule_and_missed_ones_are_not_made_up() {
        let start = Instant::now();
        let mut timer = SyncTimer::start(start, None);
        assert!(timer.take_due(start + SECOND));
        assert_eq!(timer.next_due(), start + 10 * SECOND);
        assert!(timer.take_due(start + 35 * SECOND));
        assert!(!timer.take_due(start + 35 * SECOND));
        assert_eq!(timer.next_due(), start + 45 * SECOND);
    }

    #[test]
    fn three_tries_with_growing_waits() {
        let pace = Pace::default();
        assert_eq!(pace.retry_wait(1, 1.0), Some(SECOND));
        assert_eq!(pace.retry_wait(2, 1.0), Some(2 * SECOND));
        assert_eq!(pace.retry_wait(3, 1.0), None);
        assert_eq!(pace.retry_wait(2, 0.25), Some(SECOND / 2));
        assert_eq!(pace.retry_wait(1, 0.0), Some(Duration::ZERO));
    }

    #[test]
    fn pauses_are_long_only_where_there_is_something_to_catch_up_with() {
        let pace = Pace::default();
        let check = |waiting, chance, ms| {
            assert_eq!(pace.pause(waiting, chance), Duration::from_millis(ms), "{waiting:?}");
        };
        check(None, 1.0, 20);
        check(Some(0), 0.0, 100);
        check(Some(360), 0.0, 100);
        check(Some(360), 1.0, 500);
        check(Some(3600), 0.0, 50);
        check(Some(1_000_000), 1.0, 20);
    }

    #[test]
    fn round_after_a_failed_one_waits_for_the_interval_and_never_hurries() {
        let (pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.round_after(start, start + SECOND, 0.0), start + 10 * SECOND);
        assert_eq!(pace.round_after(start, start + SECOND, 1.0), start + 11 * SECOND);
        assert_eq!(pace.round_after(start, start + 33 * SECOND, 0.0), start + 34 * SECOND);
    }

    #[test]
    fn rounds_follow_a_short_fixed_interval_but_not_a_long_one() {
        assert_eq!(Pace::for_interval(Some(2 * SECOND)).next_round, 2 * SECOND);
        assert_eq!(Pace::for_interval(Some(300 * SECOND)).next_round, 10 * SECOND);
        assert_eq!(Pace::for_interval(None).next_round, 10 * SECOND);
    }
}
