//! When a target's next message is due, by the rules of whoever it goes to.

use std::time::Instant;

use super::sink::Sink;
use crate::{config::TargetConfig, hub::SyncTimer, otlp::ExportTimer};

#[derive(Clone, Debug)]
pub enum Timer {
    Sync(SyncTimer),
    Export(ExportTimer),
}

impl Timer {
    pub fn start(now: Instant, sink: &Sink, config: &TargetConfig) -> Self {
        match sink {
            Sink::Hub { .. } | Sink::Stdout | Sink::Nowhere => {
                Self::Sync(SyncTimer::start(now, config.sync_interval))
            }
            Sink::Otlp(_) => Self::Export(ExportTimer::start(now, config.sync_interval)),
        }
    }

    pub fn next_due(&self) -> Instant {
        match self {
            Self::Sync(timer) => timer.next_due(),
            Self::Export(timer) => timer.next_due(),
        }
    }

    /// Is a message due? If so, it is taken as sent.
    pub fn take_due(&mut self, now: Instant, sink: &Sink) -> bool {
        match (self, sink) {
            (Self::Sync(timer), _) => timer.take_due(now),
            (Self::Export(timer), Sink::Otlp(otlp)) => timer.take_due(now, otlp.interval(), fastrand::f64()),
            (Self::Export(timer), _) => timer.take_due(now, crate::otlp::INTERVAL, fastrand::f64()),
        }
    }
}
