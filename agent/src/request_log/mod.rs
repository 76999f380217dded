//! What of single exchanges may leave the host, where the user switched that on.
//!
//! `Logged`, as the pipeline kept it -> exclusion -> masking -> [`item::Item`] -> gzip file. Never here: anything
//! unmasked that is written, sent or logged.

pub mod exclude;
pub mod file;
#[cfg(test)]
mod fixtures;
pub mod item;
pub mod mask;
pub mod masked;
pub mod patterns;
pub mod policy;
pub mod trace;

use std::{collections::VecDeque, mem, sync::Arc, time::Instant};

use crate::pipeline::detail::{Keep, Logged};

pub use self::file::LogFile;
use self::{
    file::LogWriter,
    item::{Item, WallClock},
    mask::Style,
    masked::Masked,
    policy::LogPolicy,
};

/// Exchanges that wait to be written. With one more the oldest is dropped.
pub const MAX_WAITING: usize = 100;

/// The log of one target's requests. It is emptied about once a second, and so takes about a hundred requests a second;
/// of more, the latest. Those that wait are not masked yet, so that masking costs no more than that.
#[derive(Debug)]
pub struct RequestLog {
    policy: Arc<LogPolicy>,
    waiting: VecDeque<Logged>,
    writer: LogWriter,
    paused_until: Option<Instant>,
    counts: LogCounts,
}

/// What became of the exchanges that were handed in, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Are in a file, or went to whoever took them.
    pub logged: u64,
    /// Are in no log, by the rules of [`exclude`].
    pub excluded: u64,
    /// Were too many, or came while the hub took none.
    pub dropped: u64,
}

impl LogCounts {
    /// Under the names that the status has for them.
    pub fn fields(&self) -> [(&'static str, u64); 3] {
        [
            ("log_items", self.logged),
            ("log_items_excluded", self.excluded),
            ("log_items_dropped", self.dropped),
        ]
    }
}

impl RequestLog {
    pub fn new(policy: Arc<LogPolicy>) -> Self {
        let (writer, counts) = (LogWriter::default(), LogCounts::default());
        Self { policy, waiting: VecDeque::new(), writer, paused_until: None, counts }
    }

    /// The same log by another policy. What waits was kept by the one before: write it first.
    pub fn following(self, policy: Arc<LogPolicy>) -> Self {
        Self { policy, ..self }
    }

    /// What the pipeline is to keep for it.
    pub fn keep(&self) -> Keep {
        self.policy.keep()
    }

    pub fn add(&mut self, logged: Logged, now: Instant) {
        if self.paused_until.is_some_and(|until| now < until) {
            self.counts.dropped += 1;
            return;
        }
        if self.policy.exclusions.exclude(&logged) {
            self.counts.excluded += 1;
            return;
        }
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
            self.counts.dropped += 1;
        }
        self.waiting.push_back(logged);
    }

    /// Those that wait, masked; to be called about once a second.
    pub fn take(&mut self, style: Style) -> Vec<(Logged, Masked)> {
        let waiting = mem::take(&mut self.waiting);
        self.counts.logged += waiting.len() as u64;
        let masked = waiting.into_iter().map(|logged| {
            let masked = Masked::new(&logged, &self.policy, style);
            (logged, masked)
        });
        masked.collect()
    }

    /// Likewise, as the hub takes them.
    pub fn take_items(&mut self, clock: &WallClock) -> Vec<Item> {
        let taken = self.take(Style::Hub).into_iter();
        taken.map(|(logged, masked)| Item::new(&logged, masked, clock)).collect()
    }

    /// Adds those that wait to the file; gives the files that are full.
    pub fn write(&mut self, clock: &WallClock) -> Vec<LogFile> {
        let items = self.take_items(clock);
        items.iter().filter_map(|item| self.writer.write(item)).collect()
    }

    /// Ends the file; to be called at each sync, behind [`Self::write`].
    pub fn close_file(&mut self) -> Option<LogFile> {
        self.writer.close()
    }

    /// The hub takes no more until then: its quota is used up. What is not yet handed over is dropped.
    pub fn pause(&mut self, until: Instant) {
        let written = self.writer.discard();
        self.counts.logged -= written;
        self.counts.dropped += written + self.waiting.len() as u64;
        self.waiting.clear();
        self.paused_until = Some(until);
    }

    pub fn counts(&self) -> LogCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests;
