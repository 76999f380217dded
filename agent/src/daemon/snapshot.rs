//! What the agent says of itself when it is asked.

use std::{
    path::Path,
    process,
    time::{Instant, SystemTime},
};

use super::{Daemon, cost::usage, report::Report};
use crate::{
    config::{HubTarget, OtlpTarget},
    hub::{self as delivery, Answer, Condition, HubState},
    metrics::{Requests, Scrape},
    otlp::{self, Otlp, OtlpState},
    pipeline::{ledger::Coverage, route::Source},
    spool::SpoolState,
    status::report::{
        AgentStatus, Consumers, Counts, Hub, LastAnswer, MAX_TEMPLATE, Resources, Route, Routes, Spool, Tap,
        Target,
    },
};

impl Daemon {
    pub fn snapshot(&self) -> AgentStatus {
        let now = Instant::now();
        let [bytes_seen, bytes_captured, bytes_muted, records] =
            self.probe.tallies().map(|(_, amount)| amount);
        let dropped = named(self.probe.drops().iter().map(|(reason, count)| (reason.name(), *count)));
        let mut hubs: Vec<Hub> = self.hubs.deliveries().map(|(app, delivery)| hub(app, delivery)).collect();
        hubs.extend(self.hubs.otlps.deliveries().map(|(target, delivery)| otlp(target, delivery)));
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            uptime_s: (now - self.started).as_secs_f64(),
            kernel: self.kernel.clone(),
            programs: self.probe.programs().map(str::to_owned).collect(),
            resources: resources().unwrap_or_default(),
            capture: self.capture_status(now),
            metrics: self.metrics,
            tap: Tap {
                records,
                bytes_seen,
                bytes_captured,
                bytes_muted,
                missed_runs: self.probe.missed_runs(),
                dropped,
            },
            hub: hubs.first().cloned(),
            hubs,
            targets: self.reports.iter().map(|report| self.target(report, now)).collect(),
        }
    }

    /// The snapshot, and the requests of each target by route.
    pub fn scrape(&self) -> Scrape {
        let requests = |report: &Report| Requests {
            target: report.target.spec.to_string(),
            rows: self.pipeline.cumulative(report.target.id),
        };
        Scrape { status: self.snapshot(), requests: self.reports.iter().map(requests).collect() }
    }

    fn target(&self, report: &Report, now: Instant) -> Target {
        let (pipeline, id) = (&self.pipeline, report.target.id);
        let (ledger, limits) = (pipeline.ledger(id), pipeline.limits());
        let mut processes: Vec<u32> =
            self.probe.watched().into_iter().filter(|(_, of)| *of == id).map(|(pid, _)| pid).collect();
        processes.sort_unstable();
        let list: Vec<Route> = pipeline
            .templates(id)
            .map(|(template, source)| Route {
                template: template.chars().take(MAX_TEMPLATE).collect(),
                source: source.as_str().to_owned(),
            })
            .collect();
        Target {
            spec: match &report.config.pod {
                Some(pod) => pod.to_string(),
                None => report.target.spec.to_string(),
            },
            pid: report.target.pid,
            name: report.target.process_name().to_owned(),
            alive: report.target.alive,
            processes,
            coverage: ledger.coverage().map(Coverage::percent),
            ledger: named(ledger.fields()),
            notes: named(ledger.notes().chain(report.log.iter().flat_map(|log| log.counts().fields()))),
            connections: pipeline.connections(id) as u64,
            open_exchanges: pipeline.open_exchanges(id),
            routes: Routes {
                count: list.len() as u64,
                learned: list.iter().filter(|route| route.source == Source::Learned.as_str()).count() as u64,
                limit: limits.max_routes as u64,
                list,
            },
            consumers: Consumers { count: pipeline.consumers(id) as u64, limit: limits.max_consumers as u64 },
            last_sync_age_s: report.last_sync.map(|last| (now - last).as_secs_f64()),
            next_sync_in_s: report
                .target
                .alive
                .then(|| report.timer.next_due().saturating_duration_since(now).as_secs_f64()),
        }
    }
}

fn hub(app: &HubTarget, delivery: &delivery::Hub) -> Hub {
    let HubState {
        condition,
        queued,
        queued_bytes,
        delivered,
        dropped,
        last_answer,
        spool,
        logs_paused_until,
    } = delivery.state();
    let last_answer = last_answer.as_ref().map(|last| LastAnswer {
        delivered: last.answer == Ok(Answer::Delivered),
        outcome: match &last.answer {
            Ok(Answer::Delivered) => "delivered".to_owned(),
            Ok(Answer::Rejected) => "refused as invalid (422)".to_owned(),
            Ok(Answer::NoLogs(_)) => "no more request logs for now (402)".to_owned(),
            Ok(Answer::UnknownClientId) => "client id not known (404)".to_owned(),
            Err(failure) => failure.to_string(),
        },
        age_s: SystemTime::now().duration_since(last.at).unwrap_or_default().as_secs_f64(),
    });
    Hub {
        url: app.base_url.to_string(),
        env: app.env.to_string(),
        running: condition == Condition::Running,
        queued: queued as u64,
        queued_bytes: queued_bytes as u64,
        delivered,
        dropped: named(dropped.reasons()),
        failures: named(delivery.failures()),
        last_answer,
        spool: self::spool(&spool),
        logs_paused_s: logs_paused_until
            .map(|until| until.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64()),
    }
}

fn otlp(target: &OtlpTarget, delivery: &Otlp) -> Hub {
    let OtlpState { queued, queued_bytes, delivered, dropped, last_answer, spool, .. } = delivery.state();
    let last_answer = last_answer.as_ref().map(|last| LastAnswer {
        delivered: matches!(last.answer, Ok(otlp::Answer::Delivered { .. })),
        outcome: match &last.answer {
            Ok(otlp::Answer::Delivered { rejected: 0 }) => "delivered".to_owned(),
            Ok(otlp::Answer::Delivered { rejected }) => format!("delivered, but for {rejected} of its items"),
            Ok(otlp::Answer::Refused(status)) => format!("refused with status {status}"),
            Err(failure) => failure.to_string(),
        },
        age_s: SystemTime::now().duration_since(last.at).unwrap_or_default().as_secs_f64(),
    });
    Hub {
        url: target.endpoint.to_string(),
        env: target.env.to_string(),
        running: true,
        queued: queued as u64,
        queued_bytes: queued_bytes as u64,
        delivered,
        dropped: named(dropped.reasons()),
        failures: named(delivery.failures()),
        last_answer,
        spool: self::spool(&spool),
        logs_paused_s: None,
    }
}

fn named(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Counts {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn spool(state: &SpoolState) -> Spool {
    Spool {
        in_memory: state.in_memory as u64,
        recovered: state.recovered,
        damaged: state.given_up.damaged,
        foreign: state.foreign,
        degraded: state.degraded.clone(),
    }
}

/// None where /proc does not say.
fn resources() -> Option<Resources> {
    let usage = usage()?;
    let open_fds = Path::new("/proc/self/fd").read_dir().ok()?.count();
    Some(Resources {
        resident_bytes: usage.memory,
        cpu_s: usage.cpu.as_secs_f64(),
        open_fds: open_fds.saturating_sub(1) as u64, // without the one that lists them
    })
}
