//! What systemd is told: that we are ready, that we read the configuration again, and that the loop goes round.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::debug;

pub fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "cannot tell systemd how we are");
    }
}

/// systemd restarts an agent whose loop does not go round for as long as the unit says (`WatchdogSec=`).
#[derive(Debug)]
pub struct Watchdog {
    /// Twice in what the unit says, as sd_watchdog_enabled(3) advises. None: nobody waits to hear.
    interval: Option<Duration>,
    told: Option<Instant>,
}

impl Watchdog {
    pub fn of_environment() -> Self {
        Self { interval: sd_notify::watchdog_enabled().map(|limit| limit / 2), told: None }
    }

    /// The loop goes round.
    pub fn beat(&mut self, now: Instant) {
        let is_due = |interval| self.told.is_none_or(|told| now - told >= interval);
        if self.interval.is_some_and(is_due) {
            tell(&[NotifyState::Watchdog]);
            self.told = Some(now);
        }
    }
}
