//! How often the log speaks of somebody who does not answer, or not as we would like.

use std::time::{Duration, Instant};

/// Between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// From a message that could not be delivered to a round without such.
#[derive(Debug, Default)]
pub struct Outage {
    since: Option<Instant>,
    /// There was a line about it in the log.
    warned: bool,
    last_warned: Option<Instant>,
}

impl Outage {
    /// A message could not be delivered. Whether it is time to say so; if so, it is taken as said.
    pub fn goes_on(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now);
        let may_warn = self.may_warn();
        self.warned |= may_warn;
        may_warn
    }

    /// Nothing is to be said of it any more. How long it was, if it was said that there is one.
    pub fn end(&mut self) -> Option<Duration> {
        let since = self.since.take();
        std::mem::take(&mut self.warned).then_some(since?.elapsed())
    }

    /// Whether it is time for another warning, whatever about; if so, it is taken as given.
    pub fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let may_warn = self.last_warned.is_none_or(|last| now - last >= WARN_EVERY);
        if may_warn {
            self.last_warned = Some(now);
        }
        may_warn
    }
}
