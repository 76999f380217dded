//! What happens at intervals: pure, the clock is handed in.

use std::time::{Duration, Instant};

/// When something is due that is due again and again. Intervals do not drift; those missed (a suspended machine) are
/// not made up for.
#[derive(Clone, Debug)]
pub struct Due {
    pub next: Instant,
}

impl Due {
    /// Is it due? If so, it is taken as done, and due again an `interval` later.
    pub fn take(&mut self, now: Instant, interval: impl FnOnce() -> Duration) -> bool {
        if now < self.next {
            return false;
        }
        let interval = interval();
        self.next += interval;
        if self.next <= now {
            self.next = now + interval;
        }
        true
    }
}
