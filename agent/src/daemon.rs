//! The wiring: one loop over records, ticks and signals, and an orderly end.

mod account;
mod arrivals;
mod cost;
mod documents;
mod names;
mod otlp;
mod pods;
mod reload;
mod report;
mod signals;
mod sink;
mod snapshot;
mod stray;
mod systemd;
mod tape;
mod timer;

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use agent_common::{
    conn::{ConnId, ConnState, LocalPorts, TargetId},
    decode::{DecodeError, Record, decode},
    event::RecordHeader,
};
use sd_notify::NotifyState;
use tracing::{debug, error, info, warn};
use zerocopy::IntoBytes as _;

use self::{
    account::{LedgerLine, TapAlarm, log_ledger, log_tap, take_over},
    arrivals::Arrivals,
    documents::Documents,
    pods::News,
    report::{Occasion, Report},
    signals::{Asked, Signals},
    sink::{Hubs, Sink},
    systemd::Watchdog,
    tape::Tape,
};
use crate::{
    cli::RunArgs,
    config::{AgentConfig, Config, Delivery, KubernetesConfig, TargetConfig},
    exit::{Exit, Failure},
    kubernetes::watch::Pods,
    metrics::{self, beat::Beat, serve::Listener},
    pipeline::{Ktime, Limits, Pipeline, ledger::Cause},
    privileges,
    probe::{
        clock,
        host::Host,
        load::{LoadOptions, Probe},
        source::Records,
    },
    pulse::Pulse,
    slots,
    status::serve::{Question, Questions},
    thermostat::Thermostat,
    watch::{self, RootsOf, Target},
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
/// SIGTERM to exit takes 5 s at most; this much of it is for answers that are under way, this much for draining, and
/// this much for the hub.
const LINGER: Duration = Duration::from_millis(100);
const LINGER_LOOK: Duration = Duration::from_millis(5);
const DRAIN: Duration = Duration::from_millis(500);
const LAST_WORDS: Duration = Duration::from_millis(4000);
/// Lost records are worth a line in the log this often.
const WARN_EVERY: u32 = 10;

/// Watches until it is told to stop or nothing is left to watch.
///
/// # Errors
/// When it cannot begin. Once it runs, nothing that a target or the hub does ends it.
pub async fn run(config: Config, args: RunArgs) -> Result<Exit, Failure> {
    let Config { targets, kubernetes, agent: config, .. } = config;
    let mut signals = Signals::listen()?;
    let host = Host::inspect();
    let obstacles = host.obstacles();
    let Some(kernel) = host.kernel.filter(|_| obstacles.is_empty()) else {
        return Err(Failure::Host(obstacles));
    };
    let find = |(id, config): (_, TargetConfig)| {
        let spec = config.spec.clone();
        let is_awaited = spec.is_of_processes();
        let target = if is_awaited { Target::awaited(id, spec) } else { Target::find(id, spec)? };
        Ok((target, config))
    };
    let mut targets: Vec<(Target, TargetConfig)> =
        (1..).zip(targets).map(find).collect::<Result<_, Failure>>()?;

    // A port that is taken is said before anything is attached.
    let listener = config.metrics_listen.map(Listener::bind).transpose()?;

    let options =
        LoadOptions { ring_bytes: config.ring_bytes, verbose: tracing::enabled!(tracing::Level::TRACE) };
    let (probe, records) = Probe::load(kernel, options)?;
    probe.tell_peers(targets.iter().any(|(_, target)| target.policy.needs_clients()));
    let tape = Tape::create(config.record.as_deref())?;
    // Before anyone is told that we watch; what may be wrong with it is said after what is wrong with the targets.
    let questions = Questions::listen(&config.runtime_dir).await;
    // What is wrong with it is said by whoever needs it.
    let _ = slots::make_dir(&config.state_dir);
    // Before other threads are started, which have the rights that we have then.
    privileges::lay_down(kernel);
    let mut news = match &kubernetes {
        Some(kubernetes) => News::follow(kubernetes).await?,
        None => News::none(),
    };
    let mut documents = Vec::new();
    for (_, config) in &targets {
        documents.push(Documents::open(&config.routes).await?);
    }
    let max_cumulative = if listener.is_some() { metrics::MAX_ROWS_TEXT } else { 0 };
    let (started, metrics) = (Instant::now(), listener.as_ref().map(|listener| listener.address));
    let thermostat = Thermostat::new(config.bounds, started);
    let mut daemon = Daemon {
        args,
        config,
        probe,
        records,
        pipeline: Pipeline::new(Limits { max_cumulative, ..Limits::default() }),
        tape,
        reports: Vec::new(),
        kubernetes,
        pods: Pods::default(),
        hubs: Hubs::default(),
        last_id: 0,
        started,
        beat: Beat::begin(started),
        metrics,
        kernel: host.release,
        arrivals: Arrivals::default(),
        ticks: 0,
        alarm: TapAlarm::default(),
        thermostat,
    };
    // Who comes from now on is noticed, so that nobody is missed between the two.
    daemon.notice_for(targets.iter().map(|(target, _)| &target.spec))?;
    watch::fill(targets.iter_mut().map(|(target, _)| target).collect());
    let roots_of = watch::roots_of(targets.iter().map(|(target, _)| target));
    for ((target, config), documents) in targets.into_iter().zip(documents) {
        if !target.is_there() {
            warn!(target = %target.spec, "nothing of it is there yet, it will be watched when it is");
        }
        daemon.add(target, config, documents, &roots_of)?;
    }
    let mut questions = questions.unwrap_or_else(|error| {
        warn!(%error, "no status socket: `apitally-agent status` will not show this agent; see --runtime-dir");
        Questions::none()
    });
    let mut scrapes = daemon.serve(listener)?;
    systemd::tell(&[NotifyState::Ready]);
    daemon.watch(&mut signals, &mut questions, &mut scrapes, &mut news).await?;
    drop((questions, scrapes));
    daemon.stop().await;
    Ok(Exit::Ok)
}

struct Daemon {
    /// What the configuration is read by.
    args: RunArgs,
    config: AgentConfig,
    probe: Probe,
    records: Records,
    pipeline: Pipeline,
    tape: Tape,
    reports: Vec<Report>,
    /// None when pods are not watched.
    kubernetes: Option<KubernetesConfig>,
    /// The pods of our node, as they were last told of.
    pods: Pods,
    hubs: Hubs,
    /// Of the target that was added last.
    last_id: TargetId,
    arrivals: Arrivals,
    started: Instant,
    beat: Beat,
    /// Where they are served.
    metrics: Option<SocketAddr>,
    /// Release of the kernel.
    kernel: String,
    ticks: u32,
    alarm: TapAlarm,
    thermostat: Thermostat,
}

impl Daemon {
    /// Watches a target from now on.
    fn add(
        &mut self,
        mut target: Target,
        mut config: TargetConfig,
        documents: Documents,
        roots_of: &RootsOf,
    ) -> Result<(), Failure> {
        if documents.current.is_some() {
            let declared = config.routes.declared(documents.current.as_ref());
            config.policy.routes = declared.map_err(|error| config.routes.about_openapi(error))?.into();
        }
        let (sink, left) = Sink::open(&config, &target, &self.config.state_dir, &mut self.hubs)?;
        self.last_id = target.id;
        self.pipeline.add_target(target.id, config.policy.clone());
        self.tape.target(&target, &config.policy.ports);
        self.probe.watch_ports(target.id, LocalPorts::of(&config.policy.ports));
        if target.is_there() {
            target.attach(&mut self.probe, roots_of)?;
        }
        take_over(&target, left, &mut self.pipeline);
        log_warnings(&config);
        self.reports.push(Report::new(target, sink, config, documents, &self.probe));
        Ok(())
    }

    /// Serves metrics from now on, where somebody wants them.
    fn serve(&self, listener: Option<Listener>) -> Result<metrics::serve::Questions, Failure> {
        let Some(listener) = listener else { return Ok(metrics::serve::Questions::none()) };
        let address = listener.address;
        let served = listener.serve(self.beat.clone());
        let questions = served.map_err(|error| Failure::Io { doing: "serve metrics", error })?;
        info!(%address, "metrics are served");
        Ok(questions)
    }

    /// The loop. Returns when it is time to go.
    async fn watch(
        &mut self,
        signals: &mut Signals,
        questions: &mut Questions,
        scrapes: &mut metrics::serve::Questions,
        news: &mut News,
    ) -> Result<(), Failure> {
        let readable =
            self.records.readiness().map_err(|error| Failure::Io { doing: "wait for records", error })?;
        let timer = |error| Failure::Io { doing: "set a timer", error };
        let pulse = Pulse::every(POLL).map_err(timer)?;
        let (mut ticked, mut active, mut idle) = (Instant::now(), Instant::now(), false);
        let mut watchdog = Watchdog::of_environment();
        let mut more = false;
        loop {
            let now = Instant::now();
            self.beat.beat(now);
            watchdog.beat(now);
            let mut question: Option<Question> = None;
            let mut scrape: Option<metrics::serve::Question> = None;
            let mut reload = false;
            let mut pods: Option<Pods> = None;
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
                Some(asked) = questions.next() => question = Some(asked),
                Some(asked) = scrapes.next() => scrape = Some(asked),
                told = news.next() => pods = Some(told),
                asked = signals.next() => match asked {
                    Asked::Stop(name) => {
                        info!(signal = name, "stopping");
                        return Ok(());
                    }
                    Asked::Reload => reload = true,
                },
            }
            let handled = self.handle_records();
            if handled.exited && self.see_who_is_left() == Outlook::NothingLeft {
                return Ok(());
            }
            let now = Instant::now();
            if reload {
                self.reload();
            }
            if let Some(pods) = pods {
                self.follow_pods(pods);
            }
            self.meet_arrivals();
            if handled.count > 0 || reload {
                active = now;
            }
            if idle != (now - active >= IDLE_AFTER) {
                idle = !idle;
                let interval = if idle { self.idle_poll() } else { POLL };
                pulse.set(interval).map_err(timer)?;
            }
            if now - ticked >= TICK {
                ticked = now;
                if self.tick() == Outlook::NothingLeft {
                    return Ok(());
                }
            }
            more = handled.count == BATCH;
            self.report_due();
            if let Some(question) = question {
                // Whoever asked may have gone.
                let _ = question.send(self.snapshot());
            }
            if let Some(scrape) = scrape {
                let _ = scrape.send(self.scrape());
            }
        }
    }

    fn idle_poll(&self) -> Duration {
        // Reports that come that often would be late.
        let often =
            |report: &Report| report.config.sync_interval.is_some_and(|interval| interval < 2 * IDLE_POLL);
        if self.reports.iter().any(often) { POLL } else { IDLE_POLL }
    }

    /// Handles what waits in the ring buffer, up to a batch.
    fn handle_records(&mut self) -> Handled {
        let Self { records, pipeline, probe, tape, reports, arrivals, .. } = self;
        let mut exited = false;
        let count = records.drain(BATCH, |bytes| match decode(bytes) {
            Ok(Record::Notice(notice)) => arrivals.add(&notice),
            Ok(record) => {
                tape.record(bytes, &record);
                match record {
                    Record::ProcessForked(process) => {
                        probe.has_forked(process.pid, process.target);
                        let parent = reports.iter().find(|report| report.target.id == process.target);
                        debug!(
                            pid = process.pid,
                            target_pid = parent.map(|report| report.target.pid),
                            "watching child"
                        );
                    }
                    Record::ProcessExited(process) => {
                        exited = true;
                        let ends: Vec<ConnId> = pipeline.last_used_by(&process).collect();
                        for conn in ends {
                            if let Some(state) = probe.connection(conn) {
                                close(conn, &state, Ktime(process.ktime_ns), tape, pipeline);
                                let _ = probe.forget(conn);
                            }
                        }
                        probe.has_exited(process.pid);
                        debug!(pid = process.pid, "process exited");
                    }
                    Record::Data(_)
                    | Record::End(_)
                    | Record::Closed(_)
                    | Record::Peer(_)
                    | Record::Notice(_) => {}
                }
                pipeline.handle_event(record);
            }
            Err(error) => log_undecodable(error),
        });
        for report in reports {
            report.take_logged(pipeline);
        }
        self.settle();
        self.reports.iter().for_each(|report| report.note(&self.pipeline));
        Handled { count, exited }
    }

    /// Tells the kernel side what it need not copy, and what is gone.
    fn settle(&mut self) {
        for (conn, mute) in self.pipeline.take_mutes() {
            self.probe.mute(conn, mute);
        }
        for conn in self.pipeline.take_closed() {
            self.probe.unmute(conn);
        }
        let forgotten: Vec<ConnId> = self.pipeline.take_forgotten().collect();
        for state in forgotten.into_iter().filter_map(|conn| self.probe.forget(conn)) {
            // Its process ended, and nobody told us of its last turns.
            if state.from_start == 1 {
                self.pipeline.lose(state.target, Cause::LostRingFull, state.untold.into());
            }
        }
    }

    /// Has the turns counted as lost that the ring buffer had no room to tell of, on connections that are closed, and
    /// those of connections that are left out.
    fn account_for_turns(&mut self) {
        for report in &self.reports {
            let id = report.target.id;
            let turns = self.probe.take_turns(id);
            self.pipeline.lose(id, Cause::LostRingFull, turns.untold);
            self.pipeline.lose(id, Cause::SampledOut, turns.sampled_out);
        }
    }

    /// Likewise those that there was no room to tell of, on connections that are not closed and, since the target or we
    /// have come to the end, never will be.
    fn account_for_rest(&mut self, target: TargetId) {
        let now = clock::ktime_now();
        for (conn, state) in self.probe.server_connections(target) {
            if state.untold > 0 {
                close(conn, &state, now, &mut self.tape, &mut self.pipeline);
                let _ = self.probe.forget(conn);
            }
        }
        self.settle();
    }

    /// Finishes the targets of which no process is left.
    fn see_who_is_left(&mut self) -> Outlook {
        self.probe.catch_up();
        let ended: Vec<bool> =
            self.reports.iter_mut().map(|report| report.target.has_ended(&self.probe)).collect();
        if ended.contains(&true) {
            // The last process is out of the kernel side's table, so all that it did is in the ring buffer;
            // not before, since what one process did last may stand behind another one's exit.
            while self.handle_records().count == BATCH {}
        }
        self.account_for_turns();
        for index in (0..ended.len()).filter(|index| ended[*index]) {
            self.account_for_rest(self.reports[index].target.id);
        }
        for (report, _) in self.reports.iter_mut().zip(ended).filter(|(_, ended)| *ended) {
            info!(pid = report.target.pid, "target is gone");
            self.pipeline.finish_target(report.target.id);
            report.last_words_due = true;
        }
        let left = |report: &Report| report.target.alive || report.target.may_return();
        if self.kubernetes.is_some() || self.reports.iter().any(left) {
            Outlook::KeepWatching
        } else {
            Outlook::NothingLeft
        }
    }

    fn tick(&mut self) -> Outlook {
        self.reports.iter_mut().for_each(Report::write_log);
        self.ticks = self.ticks.wrapping_add(1);
        self.pipeline.handle_tick(clock::ktime_now());
        self.account_for_turns();
        self.mind_the_cost();
        if self.ticks.is_multiple_of(WARN_EVERY) {
            self.alarm.look_at(&self.probe);
        }
        for report in &mut self.reports {
            report.look_at_files(&mut self.pipeline);
        }
        let is_thorough = self.ticks.is_multiple_of(LOOK_AROUND);
        self.look_around(is_thorough);
        if !is_thorough {
            return Outlook::KeepWatching;
        }
        let watched: Vec<u32> = self.probe.watched().into_iter().map(|(pid, _)| pid).collect();
        watch::drop_dead(&mut self.probe, watched.into_iter());
        self.hubs.end_unused();
        self.end_strays();
        self.see_who_is_left()
    }

    fn end_strays(&mut self) {
        let now = clock::ktime_now();
        let strays = stray::find(&self.pipeline, &self.probe, now);
        if strays.is_empty() {
            return;
        }
        // What was closed while we looked has said so itself.
        while self.handle_records().count == BATCH {}
        let known: HashSet<ConnId> =
            self.pipeline.quiet_connections(now, |_| true).map(|(_, conn)| conn).collect();
        for (target, conn) in strays.into_iter().filter(|(_, conn)| known.contains(conn)) {
            debug!(conn, "connection is gone, though nobody closed it");
            let forgotten = ConnState { target, from_start: 1, ..ConnState::default() };
            let state = self.probe.connection(conn).unwrap_or(forgotten);
            close(conn, &state, now, &mut self.tape, &mut self.pipeline);
            let _ = self.probe.forget(conn);
        }
        self.settle();
    }

    /// Sends what is due. A target that is gone sends its last words, then no heartbeat.
    fn report_due(&mut self) {
        let now = Instant::now();
        for report in &mut self.reports {
            let heartbeat = report.target.alive && report.is_due(now);
            if heartbeat || std::mem::take(&mut report.last_words_due) {
                let occasion = if heartbeat { Occasion::Heartbeat } else { Occasion::Last };
                report.send(&mut self.pipeline, &self.probe, occasion);
                let ledger = self.pipeline.ledger(report.target.id);
                log_ledger(report.target.pid, &ledger, LedgerLine::Interim);
                report.alarm.look_at(report.target.pid, &ledger, now);
            }
        }
    }

    /// Drains, sends the last messages, says what was seen.
    async fn stop(mut self) {
        self.linger().await;
        let deadline = Instant::now() + DRAIN;
        for (pid, _) in self.probe.watched() {
            self.probe.unwatch(pid);
        }
        while self.handle_records().count > 0 && Instant::now() < deadline {}
        self.account_for_turns();
        for index in 0..self.reports.len() {
            self.account_for_rest(self.reports[index].target.id);
        }
        for mut report in std::mem::take(&mut self.reports) {
            self.conclude(&mut report);
        }
        self.alarm.look_at(&self.probe);
        log_tap(&self.probe);
        self.tape.finish();
        self.hubs.close().await;
    }

    /// Watches on a little while answers are under way. A client may have its answer in full while the call that wrote
    /// it has yet to return, and that is when we hear of it.
    async fn linger(&mut self) {
        let deadline = Instant::now() + LINGER;
        loop {
            // At least once: a record in the making holds up those behind it.
            tokio::time::sleep(LINGER_LOOK).await;
            while self.handle_records().count == BATCH {}
            let is_busy = |report: &Report| self.pipeline.open_exchanges(report.target.id) > 0;
            if !self.reports.iter().any(is_busy) || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Sends the last message of a target, and says what was seen of it.
    fn conclude(&mut self, report: &mut Report) {
        let target = &report.target;
        let (id, pid) = (target.id, target.pid);
        self.pipeline.finish_target(id);
        report.send(&mut self.pipeline, &self.probe, Occasion::Last);
        let ledger = self.pipeline.ledger(id);
        report.sink.ledger(pid, &ledger);
        log_ledger(pid, &ledger, LedgerLine::Last);
    }
}

/// Has a connection end of which the kernel side did not tell, or could not.
fn close(conn: ConnId, state: &ConnState, now: Ktime, tape: &mut Tape, pipeline: &mut Pipeline) {
    let header = RecordHeader::closed(conn, state, 0, now.0);
    if let Ok(record) = decode(header.as_bytes()) {
        tape.record(header.as_bytes(), &record);
        pipeline.handle_event(record);
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

fn log_undecodable(error: DecodeError) {
    error!(%error, "the kernel side sent a record we cannot read; please report this");
}

/// What whoever configured a target may not be aware of.
fn log_warnings(config: &TargetConfig) {
    for warning in &config.warnings {
        warn!(%warning, "the configuration had better be changed");
    }
    if config.delivery == Delivery::Nowhere {
        info!(target = %config.spec, "nothing is sent to Apitally, since there is no client id");
    }
}
