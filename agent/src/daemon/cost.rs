//! What the agent itself costs, and that it keeps within bounds.

use std::time::Instant;

use procfs::process::Process;
use tracing::{debug, info, warn};

use super::Daemon;
use crate::{memory, probe::clock, status::report::CaptureStatus, thermostat::Usage};

impl Daemon {
    /// Looks at less where the agent comes near its bounds, and at more again later.
    pub fn mind_the_cost(&mut self) {
        let Some(mut used) = usage() else { return };
        if self.thermostat.is_short_of_memory(used) {
            debug!(resident_bytes = used.memory, "short of memory, idle connections are let go");
            self.pipeline.make_room(clock::ktime_now());
            self.settle();
            memory::give_back();
            // Only if that was not enough is less looked at.
            used = usage().unwrap_or(used);
        }
        let before = self.thermostat.level();
        let Some(level) = self.thermostat.look(Instant::now(), used) else { return };
        self.probe.set_capture(level.capture());
        let (cpu_percent, bounds) = (self.thermostat.cpu_percent().round(), self.thermostat.bounds());
        macro_rules! line {
            ($level:ident, $message:literal) => {
                $level!(
                    cpu_percent,
                    max_cpu = bounds.cpu_percent,
                    resident_bytes = used.memory,
                    max_memory = bounds.memory,
                    level = level.number(),
                    bytes_per_call = level.capture().per_call,
                    connections_percent = level.connections_percent(),
                    $message
                )
            };
        }
        if level > before {
            line!(warn, "the agent is near its bounds, it looks at less from here on");
        } else if level.is_all() {
            line!(info, "everything is looked at again");
        } else {
            line!(info, "more is looked at again");
        }
    }

    pub fn capture_status(&self, now: Instant) -> CaptureStatus {
        let (level, bounds) = (self.thermostat.level(), self.thermostat.bounds());
        CaptureStatus {
            level: level.number() as u64,
            since_s: now.saturating_duration_since(self.thermostat.since()).as_secs_f64(),
            bytes_per_call: level.capture().per_call,
            connections_percent: level.connections_percent(),
            cpu_percent: self.thermostat.cpu_percent(),
            max_cpu_percent: bounds.cpu_percent,
            max_memory_bytes: bounds.memory,
        }
    }
}

/// None where /proc does not say.
pub fn usage() -> Option<Usage> {
    let pages = Process::myself().and_then(|me| me.statm()).ok()?.resident;
    Some(Usage { cpu: clock::cpu_time(), memory: pages * procfs::page_size() })
}
