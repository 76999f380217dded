//! Times of which the age is right after the clock was set, the machine slept, or the agent was started anew.

use std::{
    fmt, fs,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970; jumps when somebody sets the clock.
    pub wall: Duration,
    /// Which run of the kernel it was; nil where that is not known.
    pub boot: Uuid,
    /// Since that began, suspended or not (CLOCK_BOOTTIME). Never jumps.
    pub since_boot: Duration,
}

impl Moment {
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::Boottime);
        Self {
            wall: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            boot: *BOOT,
            since_boot: Duration::try_from(since_boot).unwrap_or_default(),
        }
    }

    /// How long before `now` it was: by the clock that never jumps where that counts from the same start, by the
    /// wall clock otherwise. Zero for what seems to lie in the future.
    pub fn age(&self, now: &Self) -> Duration {
        if self.boot == now.boot && self.since_boot <= now.since_boot {
            return now.since_boot - self.since_boot;
        }
        now.wall.saturating_sub(self.wall)
    }
}

static BOOT: LazyLock<Uuid> = LazyLock::new(|| {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Uuid::try_parse(text.trim()).unwrap_or_default()
});

/// Where the time comes from. Tests have their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> Moment {
        self.0()
    }
}

/// The machine's.
impl Default for Clock {
    fn default() -> Self {
        Self::new(Moment::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_that_of_the_clock_that_never_jumps_within_a_run_of_the_kernel() {
        let moment = |wall, boot, since_boot| Moment {
            wall: Duration::from_secs(wall),
            boot: Uuid::from_u128(boot),
            since_boot: Duration::from_secs(since_boot),
        };
        let check = |made: Moment, now: Moment, age| {
            assert_eq!(made.age(&now), Duration::from_secs(age), "{made:?} seen from {now:?}");
        };
        let made = moment(1_000_000, 1, 500);
        check(made, moment(1_000_060, 1, 560), 60);
        check(made, moment(9_000_000, 1, 560), 60); // set forward
        check(made, moment(0, 1, 560), 60); // set back
        check(made, moment(1_000_300, 2, 10), 300); // started anew
        check(made, moment(10, 2, 10), 0); // started anew, without a battery for the clock
        check(made, moment(1_000_060, 1, 400), 60); // another start than it says
    }

    #[test]
    fn now_goes_on() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(first.since_boot <= second.since_boot && !first.since_boot.is_zero());
        assert!(!first.boot.is_nil());
    }
}
