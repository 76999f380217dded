//! Whether the agent's loop goes round.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// When the loop went round last, for other threads to look at.
#[derive(Clone, Debug)]
pub struct Beat {
    began: Instant,
    /// Milliseconds after `began`.
    last: Arc<AtomicU64>,
}

impl Beat {
    pub fn begin(now: Instant) -> Self {
        Self { began: now, last: Arc::default() }
    }

    /// The loop goes round.
    pub fn beat(&self, now: Instant) {
        let since = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// How long it has not.
    pub fn age(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_ages() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let beat = Beat::begin(began);
        assert_eq!(beat.age(at(3)), Duration::from_secs(3));
        beat.clone().beat(at(5));
        assert_eq!((beat.age(at(5)), beat.age(at(7))), (Duration::ZERO, Duration::from_secs(2)));
        assert_eq!(beat.age(at(4)), Duration::ZERO);
    }
}
