//! The wiring: one loop over records, ticks and signals, and an orderly end.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use agent_common::{
    decode::{DecodeError, Record, decode},
    drops::DropReason,
    event::HEADER_LEN,
};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};

use crate::{
    config::{Config, HubTarget, SinkConfig},
    dry_run,
    exit::{Exit, Failure},
    hub::{App, Hub, HubConfig, Instance, Pace, PathItem, Startup, Sync, SyncTimer},
    pipeline::{Pipeline, counters::Counts, ledger::Ledger},
    probe::{
        clock,
        host::Host,
        load::{LoadOptions, Probe},
        source::Records,
    },
    pulse::Pulse,
    recording::Recorder,
    watch::{self, Target},
};

/// Records are looked at this often even when the kernel side asks for nothing.
const POLL: Duration = Duration::from_millis(100);
/// Likewise, when there were none for [`IDLE_AFTER`]. The first ones may then be looked at a little later; their
/// times are the kernel's, and before a report there is a look in any case.
const IDLE_POLL: Duration = Duration::from_millis(500);
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Housekeeping: idle connections, targets that are back, lost records.
const TICK: Duration = Duration::from_secs(1);
/// The table of processes is checked against /proc every so many ticks.
const LOOK_AROUND: u32 = 10;
/// Records handled before anything else gets a turn.
const BATCH: usize = 4096;
/// SIGTERM to exit takes 5 s at most; this much of it is for draining, and this much for the hub.
const DRAIN: Duration = Duration::from_millis(500);
const LAST_WORDS: Duration = Duration::from_millis(4000);
/// Lost records are worth a line in the log this often.
const WARN_EVERY: u32 = 10;

/// Watches until it is told to stop or nothing is left to watch.
///
/// # Errors
/// When it cannot begin. Once it runs, nothing that a target or the hub does ends it.
pub async fn run(config: Config) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let host = Host::inspect();
    let obstacles = host.obstacles();
    let Some(kernel) = host.kernel.filter(|_| obstacles.is_empty()) else {
        return Err(Failure::Host(obstacles));
    };
    let specs = config.targets.iter().cloned();
    let targets: Vec<Target> =
        (1..).zip(specs).map(|(id, spec)| Target::find(id, spec)).collect::<Result<_, _>>()?;

    let options =
        LoadOptions { ring_bytes: config.ring_bytes, verbose: tracing::enabled!(tracing::Level::TRACE) };
    let (mut probe, records) = Probe::load(kernel, options)?;
    let mut pipeline = Pipeline::new(config.pipeline);
    let mut reports = Vec::new();
    let mut sink = Sink::open(config.sink, config.sync_interval)?;
    let mut tape = Tape::create(config.record.as_deref())?;
    for mut target in targets {
        pipeline.add_target(target.id, target.ports());
        tape.target(&target);
        target.attach(&mut probe)?;
        reports.push(Report::new(target, &sink, config.app_version.clone(), config.sync_interval));
    }
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        debug!(%error, "cannot tell systemd that we are ready");
    }
    let mut daemon = Daemon { probe, records, pipeline, tape, reports, ticks: 0, lost_records: 0 };
    daemon.watch(&mut signals, &mut sink).await?;
    daemon.stop(sink).await;
    Ok(Exit::Ok)
}

struct Daemon {
    probe: Probe,
    records: Records,
    pipeline: Pipeline,
    tape: Tape,
    reports: Vec<Report>,
    ticks: u32,
    /// Records the kernel side could not deliver, as last logged.
    lost_records: u64,
}

impl Daemon {
    /// The loop. Returns when it is time to go.
    async fn watch(&mut self, signals: &mut Signals, sink: &mut Sink) -> Result<(), Failure> {
        let readable =
            self.records.readiness().map_err(|error| Failure::Io { doing: "wait for records", error })?;
        let timer = |error| Failure::Io { doing: "set a timer", error };
        let pulse = Pulse::every(POLL).map_err(timer)?;
        // Reports that come that often would be late.
        let often = |report: &Report| report.sync_interval.is_some_and(|interval| interval < 2 * IDLE_POLL);
        let idle_poll = if self.reports.iter().any(often) { POLL } else { IDLE_POLL };
        let (mut ticked, mut active, mut idle) = (Instant::now(), Instant::now(), false);
        let mut more = false;
        loop {
            tokio::select! {
                // Whatever the reason to look, records are handled below.
                ready = readable.readable() => {
                    if let Ok(mut guard) = ready {
                        guard.clear_ready();
                    }
                }
                () = pulse.beat() => {}
                // The delivery and the signals get their turn before the next batch.
                () = tokio::task::yield_now(), if more => {}
                name = signals.next() => {
                    info!(signal = name, "stopping");
                    return Ok(());
                }
            }
            let handled = self.handle_records();
            if handled.exited && self.see_who_is_left() == Outlook::NothingLeft {
                return Ok(());
            }
            let now = Instant::now();
            if handled.count > 0 {
                active = now;
            }
            if idle != (now - active >= IDLE_AFTER) {
                idle = !idle;
                let interval = if idle { idle_poll } else { POLL };
                pulse.set(interval).map_err(timer)?;
            }
            if now - ticked >= TICK {
                ticked = now;
                if self.tick() == Outlook::NothingLeft {
                    return Ok(());
                }
            }
            more = handled.count == BATCH;
            self.report_due(sink);
        }
    }

    /// Handles what waits in the ring buffer, up to a batch.
    fn handle_records(&mut self) -> Handled {
        let Self { records, pipeline, probe, tape, reports, .. } = self;
        let mut exited = false;
        let count = records.drain(BATCH, |bytes| match decode(bytes) {
            Ok(record) => {
                tape.record(bytes, &record);
                match record {
                    Record::ProcessForked(process) => {
                        let parent = reports.iter().find(|report| report.target.id == process.target);
                        debug!(
                            pid = process.pid,
                            target_pid = parent.map(|report| report.target.pid),
                            "watching child"
                        );
                    }
                    Record::ProcessExited(process) => {
                        exited = true;
                        debug!(pid = process.pid, "process exited");
                    }
                    Record::Data(_) | Record::End(_) | Record::Closed(_) => {}
                }
                pipeline.handle_event(record);
            }
            Err(error) => log_undecodable(error),
        });
        for (conn, mute) in pipeline.take_mutes() {
            probe.mute(conn, mute);
        }
        for conn in pipeline.take_closed() {
            probe.forget(conn);
        }
        Handled { count, exited }
    }

    /// Finishes the targets of which no process is left.
    fn see_who_is_left(&mut self) -> Outlook {
        let ended: Vec<bool> =
            self.reports.iter_mut().map(|report| report.target.has_ended(&self.probe)).collect();
        if ended.contains(&true) {
            // The last process is out of the kernel side's table, so all that it did is in the ring buffer;
            // not before, since what one process did last may stand behind another one's exit.
            while self.handle_records().count == BATCH {}
        }
        for (report, _) in self.reports.iter_mut().zip(ended).filter(|(_, ended)| *ended) {
            info!(pid = report.target.pid, "target is gone");
            self.pipeline.finish_target(report.target.id);
            report.last_words_due = true;
        }
        let left = |report: &Report| report.target.alive || report.target.may_return();
        if self.reports.iter().any(left) { Outlook::KeepWatching } else { Outlook::NothingLeft }
    }

    fn tick(&mut self) -> Outlook {
        self.ticks = self.ticks.wrapping_add(1);
        self.pipeline.handle_tick(clock::ktime_now());
        if self.ticks.is_multiple_of(WARN_EVERY) {
            self.warn_of_losses();
        }
        for report in &mut self.reports {
            if !report.target.alive && report.target.may_return() && report.target.has_returned() {
                self.pipeline.resume_target(report.target.id);
                if let Err(error) = report.target.attach(&mut self.probe) {
                    warn!(%error, "target came back and cannot be watched");
                }
                report.restart();
            }
        }
        if !self.ticks.is_multiple_of(LOOK_AROUND) {
            return Outlook::KeepWatching;
        }
        watch::drop_dead(&mut self.probe);
        self.see_who_is_left()
    }

    fn warn_of_losses(&mut self) {
        let lost: u64 = self
            .probe
            .drops()
            .iter()
            .filter(|(reason, _)| matches!(reason, DropReason::RingFull | DropReason::RingFullControl))
            .map(|(_, count)| count)
            .sum();
        if lost > self.lost_records {
            warn!(
                records = lost - self.lost_records,
                "ring buffer full, exchanges will be counted as lost; see --ring-bytes"
            );
            self.lost_records = lost;
        }
    }

    /// Sends what is due. A target that is gone sends its last words, then no heartbeat.
    fn report_due(&mut self, sink: &mut Sink) {
        let now = Instant::now();
        for report in &mut self.reports {
            let heartbeat = report.target.alive && report.timer.take_due(now);
            if heartbeat || std::mem::take(&mut report.last_words_due) {
                report.send(&mut self.pipeline, sink);
                let ledger = self.pipeline.ledger(report.target.id);
                if tracing::enabled!(tracing::Level::DEBUG) {
                    log_ledger(report.target.pid, &ledger, LedgerLine::Interim);
                }
            }
        }
    }

    /// Drains, sends the last messages, says what was seen.
    async fn stop(mut self, mut sink: Sink) {
        let deadline = Instant::now() + DRAIN;
        for (pid, _) in self.probe.watched() {
            self.probe.unwatch(pid);
        }
        while self.handle_records().count > 0 && Instant::now() < deadline {}
        for report in &mut self.reports {
            self.pipeline.finish_target(report.target.id);
            report.send(&mut self.pipeline, &mut sink);
            let ledger = self.pipeline.ledger(report.target.id);
            sink.ledger(report.target.pid, &ledger);
            log_ledger(report.target.pid, &ledger, LedgerLine::Last);
        }
        self.warn_of_losses();
        log_tap(&self.probe);
        self.tape.finish();
        sink.close().await;
    }
}

/// What a look into the ring buffer brought.
struct Handled {
    /// Records; as many as a batch holds when more may wait.
    count: usize,
    /// Whether a process of a target was seen to end.
    exited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outlook {
    KeepWatching,
    NothingLeft,
}

/// What one target's messages are made of.
struct Report {
    target: Target,
    instance: Option<Instance>,
    timer: SyncTimer,
    sync_interval: Option<Duration>,
    app_version: Option<String>,
    /// The routes the hub has been told of; None before the first start-up message.
    announced: Option<u64>,
    /// The target ended; what was counted since the last message is still to be sent.
    last_words_due: bool,
}

impl Report {
    fn new(
        target: Target,
        sink: &Sink,
        app_version: Option<String>,
        sync_interval: Option<Duration>,
    ) -> Self {
        let instance = sink.claim_instance(&target);
        let timer = SyncTimer::start(Instant::now(), sync_interval);
        Self { target, instance, timer, sync_interval, app_version, announced: None, last_words_due: false }
    }

    /// The target is there again: its watch is young again.
    fn restart(&mut self) {
        self.timer = SyncTimer::start(Instant::now(), self.sync_interval);
        self.announced = None;
    }

    /// Sends the start-up message when there are new routes, and a sync.
    fn send(&mut self, pipeline: &mut Pipeline, sink: &mut Sink) {
        let instance = self.instance.as_ref().map(|instance| instance.uuid).unwrap_or_default();
        let generation = pipeline.route_generation(self.target.id);
        if self.announced != Some(generation) {
            let routes = pipeline.routes(self.target.id).into_iter();
            let app = App {
                version: self.app_version.clone(),
                routes: routes.map(|(method, path)| PathItem { method, path }).collect(),
                ..App::default()
            };
            sink.startup(self.target.pid, &Startup::new(instance, app));
            self.announced = Some(generation);
        }
        let counts: Counts = pipeline.take_counts(self.target.id);
        debug!(pid = self.target.pid, rows = counts.rows.len(), "sync");
        sink.sync(self.target.pid, &Sync::new(SystemTime::now(), instance, counts, None));
    }
}

/// What `--record` asks for. A recording that cannot be written on ends; the watching does not.
struct Tape {
    recorder: Option<Recorder<BufWriter<File>>>,
}

impl Tape {
    fn create(path: Option<&Path>) -> Result<Self, Failure> {
        let recorder = path.map(Recorder::create).transpose();
        Ok(Self {
            recorder: recorder.map_err(|error| Failure::Io { doing: "create the --record file", error })?,
        })
    }

    fn target(&mut self, target: &Target) {
        self.write(|recorder| recorder.target(target.id, target.pid, &target.ports()));
    }

    fn record(&mut self, bytes: &[u8], record: &Record<'_>) {
        let captured = if let Record::Data(data) = record { data.bytes.len() } else { 0 };
        self.write(|recorder| recorder.record(bytes, HEADER_LEN + captured));
    }

    fn finish(&mut self) {
        self.write(Recorder::flush);
    }

    fn write(&mut self, write: impl FnOnce(&mut Recorder<BufWriter<File>>) -> io::Result<()>) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            error!(%error, "the recording cannot be written on and ends here; look at the space on its disk");
            self.recorder = None;
        }
    }
}

/// Where messages go.
enum Sink {
    Hub { hub: Hub, target: HubTarget },
    Stdout,
}

impl Sink {
    fn open(config: SinkConfig, sync_interval: Option<Duration>) -> Result<Self, Failure> {
        Ok(match config {
            SinkConfig::Stdout => Self::Stdout,
            SinkConfig::Hub(target) => {
                let config =
                    HubConfig::new(target.base_url.clone(), target.client_id.clone(), target.env.clone());
                let hub = Hub::start(HubConfig { pace: Pace::for_interval(sync_interval), ..config })?;
                Self::Hub { hub, target }
            }
        })
    }

    fn claim_instance(&self, target: &Target) -> Option<Instance> {
        match self {
            Self::Hub { target: hub, .. } => {
                Some(Instance::claim(&hub.state_dir, &hub.client_id, &hub.env, &target.stable_name()))
            }
            Self::Stdout => None,
        }
    }

    fn startup(&mut self, pid: u32, message: &Startup) {
        match self {
            Self::Hub { hub, .. } => hub.send_startup(message),
            Self::Stdout => dry_run::print_startup(pid, message),
        }
    }

    fn sync(&mut self, pid: u32, message: &Sync) {
        match self {
            Self::Hub { hub, .. } => hub.send_sync(message),
            Self::Stdout => dry_run::print_sync(pid, message),
        }
    }

    fn ledger(&self, pid: u32, ledger: &Ledger) {
        if matches!(self, Self::Stdout) {
            dry_run::print_ledger(pid, ledger);
        }
    }

    async fn close(self) {
        if let Self::Hub { hub, .. } = self {
            let delivery = hub.finish(LAST_WORDS).await;
            if delivery.undelivered > 0 {
                error!(
                    messages = delivery.undelivered,
                    "the hub did not take the last messages, their counts are lost"
                );
            } else {
                debug!(messages = delivery.delivered, "last messages delivered");
            }
        }
    }
}

fn log_undecodable(error: DecodeError) {
    error!(%error, "the kernel side sent a record we cannot read; please report this");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LedgerLine {
    Interim,
    Last,
}

/// Every field that is not an exchange's fate is left to `--dry-run` and the pipeline's docs.
fn log_ledger(pid: u32, ledger: &Ledger, which: LedgerLine) {
    macro_rules! line {
        ($level:ident) => {
            $level!(
                pid,
                seen = ledger.seen,
                reported = ledger.reported,
                lost = ledger.lost(),
                lost_ring_full = ledger.lost_ring_full,
                lost_gap = ledger.lost_gap,
                unreadable_head = ledger.unreadable_head,
                incomplete_head = ledger.incomplete_head,
                unmatched = ledger.unmatched,
                excluded = ledger.excluded,
                bad_method = ledger.bad_method,
                path_too_long = ledger.path_too_long,
                over_route_limit = ledger.over_route_limit,
                over_count_limit = ledger.over_count_limit,
                aborted_before_response = ledger.aborted_before_response,
                upgraded = ledger.upgraded,
                evicted_open = ledger.evicted_open,
                open_at_exit = ledger.open_at_exit,
                connections = ledger.connections,
                gaps = ledger.gaps,
                gap_bytes = ledger.gap_bytes,
                "ledger"
            )
        };
    }
    match which {
        LedgerLine::Interim => line!(debug),
        LedgerLine::Last => line!(info),
    }
}

/// What the kernel side moved and gave up since it was loaded.
fn log_tap(probe: &Probe) {
    let [seen, captured, muted, records] = probe.tallies().map(|(_, amount)| amount);
    let given_up: Vec<String> = probe
        .drops()
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{}={count}", reason.name()))
        .collect();
    info!(
        records,
        bytes_seen = seen,
        bytes_captured = captured,
        bytes_muted = muted,
        given_up = given_up.join(" "),
        "tap"
    );
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Io { doing: "listen for signals", error });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
