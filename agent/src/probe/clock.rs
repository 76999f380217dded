//! The kernel's clock.

use rustix::time::{ClockId, clock_gettime};

use crate::pipeline::Ktime;

/// CLOCK_MONOTONIC now, the clock of the records.
pub fn ktime_now() -> Ktime {
    let now = clock_gettime(ClockId::Monotonic);
    Ktime(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}
