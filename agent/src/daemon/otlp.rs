//! What a target reports by OTLP, and the deliveries that take it.

use std::{
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use procfs::process::Process;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;
use tracing::{debug, error};
use uuid::Uuid;

use super::LAST_WORDS;
use crate::{
    config::{AppConfig, OtlpTarget},
    delivery::StartError,
    dry_run,
    hub::{App, Resources, Startup},
    otlp::{Capture, Export, Exporter, Otlp, OtlpConfig, OtlpState, Pace, ProcessUse, Service},
    pipeline::counters::Counts,
    request_log::{RequestLog, item::WallClock, mask::Style, policy::LogPolicy},
    watch::Target,
};

/// What one target reports, and to whom.
pub struct OtlpSink {
    exporter: Exporter,
    /// None: it is printed.
    delivery: Option<Rc<Otlp>>,
    opened: Instant,
}

impl OtlpSink {
    pub fn new(config: &OtlpConfig, app: &AppConfig, target: &Target, delivery: Option<Rc<Otlp>>) -> Self {
        let name = target.process_name();
        let service = Service {
            name: if name.is_empty() { "unknown_service".to_owned() } else { name.to_owned() },
            version: app.version.clone(),
            environment: config.environment(),
        };
        Self { exporter: Exporter::new(&service, SystemTime::now()), delivery, opened: Instant::now() }
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
        self.delivery.as_ref().map_or_else(OtlpState::default, |delivery| delivery.state()).interval
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
            Some(delivery) => delivery.send(exports.iter().map(Export::encode).collect()),
            None => exports.iter().for_each(|export| dry_run::print_export(pid, export)),
        }
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
    running: Vec<(OtlpTarget, Rc<Otlp>)>,
}

impl Otlps {
    /// The delivery to this endpoint, started if it does not run yet. The target that comes first decides how patient
    /// it is.
    pub fn start(
        &mut self,
        target: &OtlpTarget,
        sync_interval: Option<Duration>,
    ) -> Result<Rc<Otlp>, StartError> {
        if let Some((_, otlp)) = self.running.iter().find(|(known, _)| known == target) {
            return Ok(Rc::clone(otlp));
        }
        let pace = Pace { fixed_interval: sync_interval, ..Pace::default() };
        let otlp = Rc::new(Otlp::start(OtlpConfig { pace, ..config(target) })?);
        self.running.push((target.clone(), Rc::clone(&otlp)));
        Ok(otlp)
    }

    /// Where each one delivers, and how that stands.
    pub fn states(&self) -> impl Iterator<Item = (&OtlpTarget, OtlpState)> {
        self.running.iter().map(|(target, otlp)| (target, otlp.state()))
    }

    /// Sends what waits, to all at once, and ends. To be called when the last sink is gone.
    pub async fn close(self) {
        let running =
            self.running.into_iter().filter_map(|(target, otlp)| Some((target.env, Rc::into_inner(otlp)?)));
        let mut closing: JoinSet<_> =
            running.map(|(env, otlp)| async move { (env, otlp.finish(LAST_WORDS).await) }).collect();
        while let Some(closed) = closing.join_next().await {
            let Ok((env, delivery)) = closed else { continue };
            let env = env.as_str();
            if delivery.undelivered > 0 {
                error!(
                    env,
                    payloads = delivery.undelivered,
                    "the OTLP endpoint did not take the last payloads, their counts are lost"
                );
            } else {
                debug!(env, payloads = delivery.delivered, "last payloads delivered");
            }
        }
    }
}

pub fn config(target: &OtlpTarget) -> OtlpConfig {
    let OtlpTarget { endpoint, destination, env } = target.clone();
    OtlpConfig::new(endpoint, destination, env)
}
