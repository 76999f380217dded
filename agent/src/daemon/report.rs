//! What one target's messages are made of, and when they are due.

use std::{
    mem,
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::sync::mpsc;
use tracing::{debug, error};

use super::{account::Alarm, documents::Documents, names, sink::Sink, timer::Timer};
use crate::{
    config::TargetConfig,
    hub::{Announcements, App, PathItem, Resources},
    pipeline::{Pipeline, consumer::NameTable},
    probe::{
        clock,
        load::Probe,
        resources::Meter,
        software::{self, Software},
    },
    request_log::{RequestLog, item::WallClock},
    watch::Target,
};

/// What one target's messages are made of.
pub struct Report {
    pub target: Target,
    pub sink: Sink,
    pub config: TargetConfig,
    /// Tables of a file that has changed.
    names: Option<mpsc::Receiver<NameTable>>,
    documents: Documents,
    software: Software,
    meter: Meter,
    pub timer: Timer,
    announcements: Announcements,
    /// None when no requests are logged.
    pub log: Option<RequestLog>,
    pub alarm: Alarm,
    pub last_sync: Option<Instant>,
    /// The target ended; what was counted since the last message is still to be sent.
    pub last_words_due: bool,
    /// Exchanges that are in messages.
    handed_over: u64,
    /// Messages that were given up, as far as we took notice.
    dropped: u64,
}

/// Why a sync is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    Heartbeat,
    /// Nothing more will come of this process, or of us.
    Last,
}

impl Report {
    /// The target is attached already.
    pub fn new(
        target: Target,
        sink: Sink,
        mut config: TargetConfig,
        documents: Documents,
        probe: &Probe,
    ) -> Self {
        Self {
            software: software::detect(&probe.processes(target.id)),
            target,
            timer: Timer::start(Instant::now(), &sink, &config),
            sink,
            meter: Meter::default(),
            names: config.names.take().map(names::follow),
            log: config.request_log.clone().map(RequestLog::new),
            documents,
            config,
            announcements: Announcements::default(),
            alarm: Alarm::default(),
            last_sync: None,
            last_words_due: false,
            handed_over: 0,
            dropped: 0,
        }
    }

    /// The target is there again: its watch is young again.
    pub fn restart(&mut self, probe: &Probe) {
        self.timer = Timer::start(Instant::now(), &self.sink, &self.config);
        self.software = software::detect(&probe.processes(self.target.id));
        self.meter = Meter::default();
        self.announcements.restart();
    }

    /// Reports as `config` says from now on, to `sink` where that is another one.
    pub fn change(&mut self, mut config: TargetConfig, sink: Option<Sink>, pipeline: &mut Pipeline) {
        self.end_log_file();
        self.log = match (self.log.take(), config.request_log.clone()) {
            (Some(log), Some(policy)) => Some(log.following(policy)),
            (_, policy) => policy.map(RequestLog::new),
        };
        let is_another = sink.is_some();
        if let Some(sink) = sink {
            self.sink = sink;
        }
        if is_another || config.app != self.config.app {
            self.announcements.restart();
        }
        if is_another || config.sync_interval != self.config.sync_interval {
            self.timer = Timer::start(Instant::now(), &self.sink, &config);
        }
        self.names = config.names.take().map(names::follow);
        if config.routes.openapi() != self.config.routes.openapi() {
            let last = self.documents.current.take();
            self.documents = Documents::expect(&config.routes);
            // Until there is news, the last one is better than none.
            self.documents.current = last.filter(|_| config.routes.openapi().is_some());
        }
        self.config = config;
        self.declare_routes();
        pipeline.set_policy(self.target.id, self.config.policy.clone());
    }

    /// Whether a heartbeat is due; if so, it is taken as sent.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.timer.take_due(now, &self.sink)
    }

    /// Has the account know how many exchanges are counted that are in no message yet.
    pub fn note(&self, pipeline: &Pipeline) {
        let id = self.target.id;
        let counted = pipeline.ledger(id).reported - self.handed_over;
        self.sink.note(counted, pipeline.open_exchanges(id));
    }

    /// Has the pipeline go on with what its files say now, if they have changed.
    pub fn look_at_files(&mut self, pipeline: &mut Pipeline) {
        let table = self.names.as_mut().and_then(|names| names.try_recv().ok());
        let is_another = table.is_some();
        if let Some(table) = table {
            let rules = self.config.policy.consumers.as_ref().clone().with_names(Arc::new(table));
            self.config.policy.consumers = Arc::new(rules);
        }
        if self.documents.look() {
            self.declare_routes();
            self.announcements.restart();
            pipeline.set_policy(self.target.id, self.config.policy.clone());
        } else if is_another {
            pipeline.set_policy(self.target.id, self.config.policy.clone());
        }
    }

    /// Has the policy know the routes of the document.
    fn declare_routes(&mut self) {
        match self.config.routes.declared(self.documents.current.as_ref()) {
            Ok(declared) => self.config.policy.routes = Arc::new(declared),
            Err(error) => error!(%error, "the routes of the OpenAPI document cannot be used"),
        }
    }

    /// Sends the start-up message when it is due, and a sync.
    pub fn send(&mut self, pipeline: &mut Pipeline, probe: &Probe, occasion: Occasion) {
        let generation = pipeline.route_generation(self.target.id);
        let is_behind = self.announcements.is_behind(generation);
        let operations = if is_behind { pipeline.operations(self.target.id) } else { Vec::new() };
        let is_due = self.announcements.take_due(generation, operations.len());
        if is_due || (is_behind && occasion == Occasion::Last) {
            let app = App {
                version: self.config.app.version.clone(),
                client: self.config.app.client.clone().or_else(|| self.software.client.clone()),
                components: self.software.components.clone(),
                routes: operations.into_iter().map(PathItem::from).collect(),
                openapi: self.documents.current.as_ref().and_then(|document| document.json.clone()),
            };
            self.sink.startup(self.target.pid, app, self.config.request_log.as_deref());
        }
        let dropped = self.sink.dropped();
        if dropped != self.dropped {
            self.dropped = dropped;
            // Names of consumers may have been in what was dropped.
            pipeline.resend_consumers(self.target.id);
        }
        self.note(pipeline);
        let counted = pipeline.ledger(self.target.id).reported;
        let exchanges = counted - mem::replace(&mut self.handed_over, counted);
        self.take_logged(pipeline);
        self.end_log_file();
        let counts = pipeline.take_counts(self.target.id);
        debug!(pid = self.target.pid, rows = counts.rows.len(), "sync");
        self.last_sync = Some(Instant::now());
        let used = self.meter.look(probe.processes(self.target.id));
        let resources = used.and_then(|used| Resources::between(used.cpu_time, used.elapsed, used.memory));
        self.sink.sync(self.target.pid, counts, exchanges, resources);
        self.note(pipeline);
    }

    /// Takes in the exchanges that are to be logged; after each batch of records.
    pub fn take_logged(&mut self, pipeline: &mut Pipeline) {
        let Some(log) = &mut self.log else { return };
        let now = Instant::now();
        for logged in pipeline.take_logged(self.target.id) {
            log.add(logged, now);
        }
    }

    /// Masks what was taken in, and writes it down; about once a second.
    pub fn write_log(&mut self) {
        if let Some(log) = &mut self.log {
            let clock = WallClock { wall: SystemTime::now(), ktime: clock::ktime_now() };
            self.sink.write_log(self.target.pid, log, &clock);
        }
    }

    fn end_log_file(&mut self) {
        self.write_log();
        if let Some(log) = &mut self.log {
            self.sink.end_log_file(log);
        }
    }
}
