//! The kernel's clock and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::pipeline::Ktime;

/// CLOCK_MONOTONIC now, the clock of the records.
pub fn ktime_now() -> Ktime {
    let now = clock_gettime(ClockId::Monotonic);
    Ktime(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// Wall time now since the Unix epoch; zero on a host whose clock is set before it.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
