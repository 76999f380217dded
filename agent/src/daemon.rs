//! The wiring: one loop over records, ticks and signals, and an orderly end.

mod account;
mod report;
mod signals;
mod sink;
mod snapshot;
mod stray;
mod tape;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use agent_common::{
    conn::{ConnId, ConnState, TargetId},
    decode::{DecodeError, Record, decode},
    event::RecordHeader,
};
use sd_notify::NotifyState;
use tracing::{debug, error, info, warn};
use zerocopy::IntoBytes as _;

use self::{
    account::{LedgerLine, TapAlarm, log_ledger, log_tap},
    report::Report,
    signals::Signals,
    sink::{Hubs, Sink},
    tape::Tape,
};
use crate::{
    config::{Config, TargetConfig},
    exit::{Exit, Failure},
    pipeline::{Ktime, Limits, Pipeline},
    probe::{
        clock,
        host::Host,
        load::{LoadOptions, Probe},
        source::Records,
    },
    pulse::Pulse,
    status::serve::{Question, Questions},
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
    let find = |(id, target): (_, TargetConfig)| Ok((Target::find(id, target.spec.clone())?, target));
    let targets: Vec<(Target, TargetConfig)> =
        (1..).zip(config.targets).map(find).collect::<Result<_, Failure>>()?;

    let options = LoadOptions {
        ring_bytes: config.agent.ring_bytes,
        verbose: tracing::enabled!(tracing::Level::TRACE),
    };
    let (mut probe, records) = Probe::load(kernel, options)?;
    let mut pipeline = Pipeline::new(Limits::default());
    let (mut reports, mut hubs) = (Vec::new(), Hubs::default());
    let mut tape = Tape::create(config.agent.record.as_deref())?;
    // Before anyone is told that we watch; what may be wrong with it is said after what is wrong with the targets.
    let questions = Questions::listen(&config.agent.runtime_dir).await;
    for (mut target, TargetConfig { policy, app, delivery, sync_interval, .. }) in targets {
        let sink = Sink::open(&delivery, &target, sync_interval, &config.agent.state_dir, &mut hubs)?;
        pipeline.add_target(target.id, policy);
        tape.target(&target);
        target.attach(&mut probe)?;
        reports.push(Report::new(target, sink, app, sync_interval));
    }
    let mut questions = questions.unwrap_or_else(|error| {
        warn!(%error, "no status socket: `apitally-agent status` will not show this agent; see --runtime-dir");
        Questions::none()
    });
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        debug!(%error, "cannot tell systemd that we are ready");
    }
    let mut daemon = Daemon {
        probe,
        records,
        pipeline,
        tape,
        reports,
        hubs,
        started: Instant::now(),
        kernel: host.release,
        ticks: 0,
        alarm: TapAlarm::default(),
    };
    daemon.watch(&mut signals, &mut questions).await?;
    drop(questions);
    daemon.stop().await;
    Ok(Exit::Ok)
}

struct Daemon {
    probe: Probe,
    records: Records,
    pipeline: Pipeline,
    tape: Tape,
    reports: Vec<Report>,
    hubs: Hubs,
    started: Instant,
    /// Release of the kernel.
    kernel: String,
    ticks: u32,
    alarm: TapAlarm,
}

impl Daemon {
    /// The loop. Returns when it is time to go.
    async fn watch(&mut self, signals: &mut Signals, questions: &mut Questions) -> Result<(), Failure> {
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
            let mut question: Option<Question> = None;
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
            self.report_due();
            if let Some(question) = question {
                // Whoever asked may have gone.
                let _ = question.send(self.snapshot());
            }
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
                    Record::Data(_) | Record::End(_) | Record::Closed(_) => {}
                }
                pipeline.handle_event(record);
            }
            Err(error) => log_undecodable(error),
        });
        self.settle();
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
                self.pipeline.lose_untold(state.target, state.untold.into());
            }
        }
    }

    /// Has the turns counted as lost that the ring buffer had no room to tell of, on connections that are closed.
    fn account_for_untold(&mut self) {
        for report in &mut self.reports {
            let untold = self.probe.untold(report.target.id);
            self.pipeline.lose_untold(report.target.id, untold.saturating_sub(report.untold));
            report.untold = untold;
        }
    }

    /// Likewise on those that are not and, since the target or we have come to the end, never will be.
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
        self.account_for_untold();
        for index in (0..ended.len()).filter(|index| ended[*index]) {
            self.account_for_rest(self.reports[index].target.id);
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
        self.account_for_untold();
        if self.ticks.is_multiple_of(WARN_EVERY) {
            self.alarm.look_at(&self.probe);
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
            let heartbeat = report.target.alive && report.timer.take_due(now);
            if heartbeat || std::mem::take(&mut report.last_words_due) {
                report.send(&mut self.pipeline);
                let ledger = self.pipeline.ledger(report.target.id);
                log_ledger(report.target.pid, &ledger, LedgerLine::Interim);
                report.alarm.look_at(report.target.pid, &ledger, now);
            }
        }
    }

    /// Drains, sends the last messages, says what was seen.
    async fn stop(mut self) {
        let deadline = Instant::now() + DRAIN;
        for (pid, _) in self.probe.watched() {
            self.probe.unwatch(pid);
        }
        while self.handle_records().count > 0 && Instant::now() < deadline {}
        self.account_for_untold();
        for index in 0..self.reports.len() {
            self.account_for_rest(self.reports[index].target.id);
        }
        for report in &mut self.reports {
            self.pipeline.finish_target(report.target.id);
            report.send(&mut self.pipeline);
            let ledger = self.pipeline.ledger(report.target.id);
            report.sink.ledger(report.target.pid, &ledger);
            log_ledger(report.target.pid, &ledger, LedgerLine::Last);
        }
        self.alarm.look_at(&self.probe);
        log_tap(&self.probe);
        self.tape.finish();
        self.reports.clear();
        self.hubs.close().await;
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
