//! What a target reports by OTLP, and the deliveries that take it.

use std::{
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use procfs::process::Process;
use rustix::time::{ClockId, clock_gettime};
use tracing::debug;
use uuid::Uuid;

use crate::{
    config::{AppConfig, OtlpTarget},
    delivery::StartError,
    dry_run,
    hub::{App, Resources, Startup},
    otlp::{self, Capture, Export, Exporter, Otlp, OtlpConfig, Pace, Payload, ProcessUse, Service},
    pipeline::counters::Counts,
    request_log::{RequestLog, item::WallClock, mask::Style, policy::LogPolicy},
    spool::Account,
    watch::Target,
};

/// What one target reports, and to whom.
pub struct OtlpSink {
    exporter: Exporter,
    /// None: it is printed.
    delivery: Option<Rc<Otlp>>,
    /// What the end of the agent would cost. None where there is no directory for it.
    pub account: Option<Arc<Account>>,
    opened: Instant,
}

impl OtlpSink {
    pub fn new(
        config: &OtlpConfig,
        app: &AppConfig,
        target: &Target,
        delivery: Option<Rc<Otlp>>,
        account: Option<Arc<Account>>,
    ) -> Self {
        let name = target.process_name();
        let service = Service {
            name: if name.is_empty() { "unknown_service".to_owned() } else { name.to_owned() },
            version: app.version.clone(),
            environment: config.environment(),
        };
        let exporter = Exporter::new(&service, SystemTime::now());
        Self { exporter, delivery, account, opened: Instant::now() }
    }

    pub fn startup(&mut self, pid: u32, app: App, log: Option<&LogPolicy>) {
        let message = Startup::new(Uuid::nil(), app);
        let exports = self.exporter.startup(&message, &Capture::of(log), SystemTime::now());
        self.hand_over(pid, exports);
    }

    /// Payloads that were given up so far.
    pub fn dropped(&self) -> u64 {
        self.delivery.as_ref().map_or(0, |delivery| delivery.state().dropped.total())
    }

    /// Takes the requests that wait in a log.
    pub fn requests(&mut self, pid: u32, log: &mut RequestLog, clock: &WallClock) {
        let exports = self.exporter.exchanges(&log.take(Style::Otlp), clock);
        self.hand_over(pid, exports);
    }

    pub fn counts(&mut self, pid: u32, counts: &Counts, resources: Option<Resources>) {
        let usage = self.usage(pid, resources);
        let omitted = self.exporter.omitted;
        let exports = self.exporter.counts(counts, &usage, SystemTime::now());
        if self.exporter.omitted != omitted {
            debug!(pid, omitted = ?self.exporter.omitted, "not all of it has room in an export");
        }
        self.hand_over(pid, exports);
    }

    /// How often an export is to be made, as whoever takes it wants it.
    pub fn interval(&self) -> Duration {
        self.delivery.as_ref().map_or(otlp::INTERVAL, |delivery| delivery.state().interval)
    }

    /// What it has to say is printed.
    pub fn is_dry_run(&self) -> bool {
        self.delivery.is_none()
    }

    fn hand_over(&self, pid: u32, exports: Vec<Export>) {
        if exports.is_empty() {
            return;
        }
        match &self.delivery {
            Some(delivery) => delivery.send(exports.iter().map(|export| self.payload(export)).collect()),
            None => exports.iter().for_each(|export| dry_run::print_export(pid, export)),
        }
    }

    fn payload(&self, export: &Export) -> Payload {
        let (account, exchanges) = (self.account.as_ref(), export.exchanges());
        let receipt = account.filter(|_| exchanges > 0).map(|account| account.receipt(exchanges));
        Payload { receipt, ..export.encode() }
    }

    /// A target that is gone was there as long as it was watched, as far as we know.
    fn usage(&self, pid: u32, resources: Option<Resources>) -> ProcessUse {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        ProcessUse {
            uptime: uptime(pid).unwrap_or_else(|| self.opened.elapsed()),
            cpu_utilization: resources
                .map(|used| (used.cpu_percent / 100.0 / processors as f64).clamp(0.0, 1.0)),
            memory: resources.map(|used| used.memory_rss),
        }
    }
}

/// Since the process began; None when it is gone.
fn uptime(pid: u32) -> Option<Duration> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    let started = Duration::from_secs_f64(stat.starttime as f64 / procfs::ticks_per_second() as f64);
    Some(now.saturating_sub(started))
}

/// The deliveries that run: one for each endpoint, credential and environment, whatever number of targets reports there.
#[derive(Default)]
pub struct Otlps {
    pub running: Vec<(OtlpTarget, Rc<Otlp>)>,
}

impl Otlps {
    /// The delivery to this endpoint, started if it does not run yet. The target that comes first decides how patient
    /// it is.
    pub fn start(
        &mut self,
        target: &OtlpTarget,
        sync_interval: Option<Duration>,
        state_dir: &Path,
    ) -> Result<Rc<Otlp>, StartError> {
        if let Some((_, otlp)) = self.running.iter().find(|(known, _)| known == target) {
            return Ok(Rc::clone(otlp));
        }
        let (pace, state_dir) = (Pace::for_interval(sync_interval), Some(state_dir.to_owned()));
        let otlp = Rc::new(Otlp::start(OtlpConfig { pace, state_dir, ..config(target) })?);
        self.running.push((target.clone(), Rc::clone(&otlp)));
        Ok(otlp)
    }

    /// Where each one delivers.
    pub fn deliveries(&self) -> impl Iterator<Item = (&OtlpTarget, &Otlp)> {
        self.running.iter().map(|(target, otlp)| (target, &**otlp))
    }
}

pub fn config(target: &OtlpTarget) -> OtlpConfig {
    let OtlpTarget { endpoint, destination, env } = target.clone();
    OtlpConfig::new(endpoint, destination, env)
}
