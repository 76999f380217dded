//! The kernel's clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::pipeline::Ktime;

/// CLOCK_MONOTONIC now, the clock of the records.
pub fn ktime_now() -> Ktime {
    let now = clock_gettime(ClockId::Monotonic);
    Ktime(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// CPU time that this process has taken, all its threads together.
pub fn cpu_time() -> Duration {
    let taken = clock_gettime(ClockId::ProcessCPUTime);
    Duration::from_secs(taken.tv_sec.unsigned_abs()) + Duration::from_nanos(taken.tv_nsec.unsigned_abs())
}
