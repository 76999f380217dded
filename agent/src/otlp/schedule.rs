//! When to export: pure, clocks and chance are handed in (protocol page, section 14.2).

use std::time::{Duration, Instant};

use crate::delivery::Due;

/// From the start to the first export: by then the target may have said what it is.
const FIRST: Duration = Duration::from_secs(2);
/// Between two exports, unless the endpoint or the user says otherwise.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// What an endpoint may ask for. Apitally takes a target for gone after 180 s without metrics.
const ASKABLE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// An interval is up to this part shorter or longer than it is meant to be, so that agents do not come in step.
const SPREAD: f64 = 0.1;

/// The interval that an endpoint asks for in seconds, within bounds. None when it is no number.
pub fn asked_for(header: &str) -> Option<Duration> {
    let seconds: f64 = header.trim().parse().ok()?;
    let (least, most) = ASKABLE;
    seconds
        .is_finite()
        .then(|| Duration::from_secs_f64(seconds.clamp(least.as_secs_f64(), most.as_secs_f64())))
}

/// When the next export of one target is due: 2 s after the start, then every 15 s or so.
#[derive(Clone, Debug)]
pub struct ExportTimer {
    fixed_interval: Option<Duration>,
    due: Due,
}

impl ExportTimer {
    /// `fixed_interval` replaces the protocol's own.
    pub fn start(now: Instant, fixed_interval: Option<Duration>) -> Self {
        let first = fixed_interval.map_or(FIRST, |interval| interval.min(FIRST));
        Self { fixed_interval, due: Due { next: now + first } }
    }

    pub fn next_due(&self) -> Instant {
        self.due.next
    }

    /// Is an export due? If so, it is taken as sent, and the next one is due an interval later: the fixed one, or else
    /// `interval` with a spread. `chance` is in 0..1.
    pub fn take_due(&mut self, now: Instant, interval: Duration, chance: f64) -> bool {
        self.due.take(now, || self.fixed_interval.unwrap_or_else(|| spread(interval, chance)))
    }
}

/// How patiently payloads are sent.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Pause between two payloads, at least and at most.
    pub between: (Duration, Duration),
    /// Replaces the interval after which a round follows one that failed.
    pub fixed_interval: Option<Duration>,
}

/// The official client's.
impl Default for Pace {
    fn default() -> Self {
        Self { between: (Duration::from_millis(100), Duration::from_millis(500)), fixed_interval: None }
    }
}

impl Pace {
    /// The default, except that rounds come no more seldom than exports do, and no more seldom than usual.
    pub fn for_interval(fixed_interval: Option<Duration>) -> Self {
        let fixed_interval = fixed_interval.map(|interval| interval.min(INTERVAL));
        Self { fixed_interval, ..Self::default() }
    }

    /// How long to pause after a payload, before the next.
    pub(super) fn pause(&self, chance: f64) -> Duration {
        let (least, most) = self.between;
        least + most.saturating_sub(least).mul_f64(chance)
    }

    /// How long after its start a failed round is followed by the next.
    pub(super) fn next_round(&self, interval: Duration, chance: f64) -> Duration {
        self.fixed_interval.unwrap_or_else(|| spread(interval, chance))
    }
}

fn spread(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds after the start at which exports are due, when asked ten times a second.
    fn due_times(fixed_interval: Option<Duration>, interval: Duration, chance: f64) -> Vec<f64> {
        let start = Instant::now();
        let mut timer = ExportTimer::start(start, fixed_interval);
        let due = (0..700).map(|tenths| SECOND * tenths / 10);
        due.filter(|since| timer.take_due(start + *since, interval, chance))
            .map(|since| since.as_secs_f64())
            .collect()
    }

    #[test]
    fn exports_after_2_s_then_every_15_s_more_or_less() {
        assert_eq!(due_times(None, INTERVAL, 0.5), [2.0, 17.0, 32.0, 47.0, 62.0]);
        assert_eq!(due_times(None, INTERVAL, 0.0), [2.0, 15.5, 29.0, 42.5, 56.0, 69.5]);
        assert_eq!(due_times(None, INTERVAL, 1.0), [2.0, 18.5, 35.0, 51.5, 68.0]);
    }

    #[test]
    fn the_endpoint_and_the_user_can_ask_for_another_interval() {
        assert_eq!(due_times(None, 30 * SECOND, 0.5), [2.0, 32.0, 62.0]);
        assert_eq!(due_times(Some(20 * SECOND), 30 * SECOND, 1.0), [2.0, 22.0, 42.0, 62.0]);
        assert_eq!(due_times(Some(SECOND / 2), INTERVAL, 1.0)[..3], [0.5, 1.0, 1.5]);
    }

    #[test]
    fn missed_exports_are_not_made_up_for() {
        let start = Instant::now();
        let mut timer = ExportTimer::start(start, None);
        assert!(timer.take_due(start + 100 * SECOND, INTERVAL, 0.5));
        assert_eq!(timer.next_due(), start + 115 * SECOND);
    }

    #[test]
    fn what_is_asked_for_is_kept_within_bounds() {
        for (header, want) in [
            ("5", Some(5.0)),
            (" 12.5 ", Some(12.5)),
            ("1", Some(5.0)),
            ("-3", Some(5.0)),
            ("86400", Some(60.0)),
            ("inf", None),
            ("NaN", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(asked_for(header).map(|interval| interval.as_secs_f64()), want, "{header}");
        }
    }

    #[test]
    fn rounds_follow_a_short_fixed_interval_but_not_a_long_one() {
        for (fixed, next) in [(2, 2), (3600, 15)] {
            let pace = Pace::for_interval(Some(fixed * SECOND));
            assert_eq!(pace.next_round(INTERVAL, 1.0), next * SECOND);
        }
        assert_eq!(Pace::for_interval(None).next_round(20 * SECOND, 0.5), 20 * SECOND);
    }

    #[test]
    fn waits_stay_within_their_bounds() {
        let pace = Pace::default();
        assert_eq!((pace.pause(0.0), pace.pause(1.0)), (SECOND / 10, SECOND / 2));
        assert_eq!(pace.next_round(10 * SECOND, 0.0), 9 * SECOND);
        assert_eq!(Pace { fixed_interval: Some(SECOND), ..pace }.next_round(10 * SECOND, 0.0), SECOND);
    }
}
