//! Numbers -> text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Requests, Scrape};
use crate::{
    pipeline::cumulative::{DURATION_BOUNDS, Histogram, Row, SIZE_BOUNDS},
    status::report::{AgentStatus, CaptureStatus, Counts, Hub, LastAnswer, Spool, Target},
};

/// Notes of a target that have a metric of their own.
const TOLD_ELSEWHERE: [&str; 5] =
    ["connections", "bytes_seen", "bytes_captured", "bytes_muted", "bytes_gapped"];
/// Fields of a target's ledger that are no causes.
const NO_CAUSES: [&str; 3] = ["seen", "reported", "lost"];

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
    /// Prometheus's own, version 0.0.4, for those that do not ask for the other one.
    Prometheus,
}

impl Form {
    /// What these values of `Accept` ask for.
    pub fn wanted_by<'v>(mut accept: impl Iterator<Item = &'v str>) -> Self {
        let is_open = accept.any(|value| value.contains("application/openmetrics-text"));
        if is_open { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub fn page(self, scrape: Scrape) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(scrape));
        let mut page = String::new();
        text::encode(&mut page, &registry).expect("a string can be written to");
        match self {
            Self::OpenMetrics => page,
            Self::Prometheus => in_older_words(&page),
        }
    }
}

/// The same in the older format: a counter's family is called as its samples are, with `_total`, and there are neither
/// units nor an end.
fn in_older_words(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' '));
        let kind = lines.peek().and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        match (help, kind) {
            (Some((name, help)), Some((_, kind))) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                text += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
                lines.next();
            }
            _ if line.starts_with("# ") => {}
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder };
        page.agent(&self.status)?;
        page.capture(&self.status.capture)?;
        page.deliveries(&added_up(&self.status.hubs))?;
        page.targets(&self.status.targets)?;
        page.requests(&self.requests)
    }
}

/// Of each label its name and value.
type Labels<'v, const N: usize> = [(&'static str, &'v str); N];

struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn agent(&mut self, status: &AgentStatus) -> fmt::Result {
        let AgentStatus { version, kernel, uptime_s, resources, tap, .. } = status;
        self.gauge(
            "apitally_agent_build_info",
            "The agent's version, and the kernel it runs on; always 1",
            [([("version", &**version), ("kernel", &**kernel)], 1.0)],
        )?;
        self.gauge("apitally_agent_uptime_seconds", "How long the agent runs", [([], *uptime_s)])?;
        self.number(
            "process_cpu_seconds",
            "Processor time of the agent itself, in user space and in system calls",
            resources.cpu_s,
        )?;
        self.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the agent itself",
            [([], resources.resident_bytes as f64)],
        )?;
        self.gauge(
            "process_open_fds",
            "File descriptors of the agent itself",
            [([], resources.open_fds as f64)],
        )?;
        self.counter("apitally_agent_tap_records", "Records from the kernel side", [([], tap.records)])?;
        self.counter(
            "apitally_agent_tap_seen_bytes",
            "Bytes that moved on connections of the targets",
            [([], tap.bytes_seen)],
        )?;
        self.counter(
            "apitally_agent_tap_captured_bytes",
            "Those of them that were copied",
            [([], tap.bytes_captured)],
        )?;
        self.counter(
            "apitally_agent_tap_muted_bytes",
            "Those of them that the agent asked to leave out",
            [([], tap.bytes_muted)],
        )?;
        self.counter(
            "apitally_agent_tap_missed_runs",
            "Runs of the agent's programs that the kernel left out",
            [([], tap.missed_runs)],
        )?;
        self.counter(
            "apitally_agent_tap_dropped",
            "What the kernel side gave up, by reason",
            by("reason", &tap.dropped),
        )
    }

    fn capture(&mut self, capture: &CaptureStatus) -> fmt::Result {
        let CaptureStatus { level, since_s, bytes_per_call, connections_percent, .. } = capture;
        self.gauge(
            "apitally_agent_capture_level",
            "0 while everything is looked at; the more, the less, to stay within the limits",
            [([], *level as f64)],
        )?;
        self.gauge(
            "apitally_agent_capture_level_age_seconds",
            "Since the level became what it is",
            [([], *since_s)],
        )?;
        self.gauge(
            "apitally_agent_capture_call_bytes",
            "What is copied from the beginning of a system call, at most",
            [([], *bytes_per_call as f64)],
        )?;
        self.gauge(
            "apitally_agent_capture_connections_ratio",
            "Share of the connections that are looked at; exchanges of the others are lost to sampled_out",
            [([], connections_percent / 100.0)],
        )?;
        self.gauge(
            "apitally_agent_cpu_limit_ratio",
            "What the agent may take of one core before it looks at less",
            [([], f64::from(capture.max_cpu_percent) / 100.0)],
        )?;
        self.gauge(
            "apitally_agent_memory_limit_bytes",
            "Resident memory that the agent may have before it looks at less",
            [([], capture.max_memory_bytes as f64)],
        )
    }

    fn deliveries(&mut self, hubs: &[Hub]) -> fmt::Result {
        let of = |value: fn(&Hub) -> f64| hubs.iter().map(move |hub| (destination(hub), value(hub)));
        let count = |value: fn(&Hub) -> u64| hubs.iter().map(move |hub| (destination(hub), value(hub)));
        self.gauge(
            "apitally_agent_delivery_up",
            "1 while messages are sent; 0 once the hub has said that it does not know the client id",
            of(|hub| f64::from(hub.running)),
        )?;
        self.gauge(
            "apitally_agent_delivery_queue_messages",
            "Messages that wait, the one being sent included",
            of(|hub| hub.queued as f64),
        )?;
        self.gauge(
            "apitally_agent_delivery_queue_bytes",
            "Bytes of the messages that wait",
            of(|hub| hub.queued_bytes as f64),
        )?;
        self.counter(
            "apitally_agent_delivery_delivered_messages",
            "Messages that were taken",
            count(|hub| hub.delivered),
        )?;
        let each = |counts: fn(&Hub) -> &Counts| {
            hubs.iter().flat_map(move |hub| {
                let reason = |(reason, count)| ([("url", &*hub.url), ("env", &*hub.env), reason], count);
                by("reason", counts(hub)).map(move |([label], count)| reason((label, count)))
            })
        };
        self.counter(
            "apitally_agent_delivery_dropped_messages",
            "Messages given up, by reason",
            each(|hub| &hub.dropped),
        )?;
        self.counter(
            "apitally_agent_delivery_failed_tries",
            "Tries without an answer that decides about the message, by reason",
            each(|hub| &hub.failures),
        )?;
        let answered =
            hubs.iter().filter_map(|hub| Some((destination(hub), hub.last_answer.as_ref()?.age_s)));
        self.gauge(
            "apitally_agent_delivery_last_answer_age_seconds",
            "Since it was known what became of a message, delivered or not",
            answered,
        )?;
        self.gauge(
            "apitally_agent_delivery_logs_paused_seconds",
            "How long the hub wants no request logs yet",
            of(|hub| hub.logs_paused_s.unwrap_or(0.0)),
        )?;
        self.gauge(
            "apitally_agent_spool_memory_messages",
            "Messages that would not survive the end of the agent; the others that wait are on disk",
            of(|hub| hub.spool.in_memory as f64),
        )?;
        self.gauge(
            "apitally_agent_spool_degraded",
            "1 while messages cannot be kept on disk",
            of(|hub| f64::from(hub.spool.degraded.is_some())),
        )?;
        self.counter(
            "apitally_agent_spool_recovered_messages",
            "Messages of earlier runs that were found at the start",
            count(|hub| hub.spool.recovered),
        )?;
        self.counter(
            "apitally_agent_spool_damaged_files",
            "Files that were no messages any more",
            count(|hub| hub.spool.damaged),
        )?;
        self.gauge(
            "apitally_agent_spool_foreign_files",
            "Files that do not belong where messages are kept",
            of(|hub| hub.spool.foreign as f64),
        )
    }

    fn targets(&mut self, targets: &[Target]) -> fmt::Result {
        let of = |value: fn(&Target) -> f64| {
            targets.iter().map(move |target| ([("target", &*target.spec)], value(target)))
        };
        let count = |counts: fn(&Target) -> &Counts, name: &'static str| {
            targets.iter().map(move |target| {
                ([("target", &*target.spec)], counts(target).get(name).copied().unwrap_or(0))
            })
        };
        let each = |label: &'static str, counts: fn(&Target) -> &Counts, without: &'static [&'static str]| {
            targets.iter().flat_map(move |target| {
                let wanted =
                    by(label, counts(target)).filter(move |([(_, name)], _)| !without.contains(name));
                wanted.map(move |([named], count)| ([("target", &*target.spec), named], count))
            })
        };
        self.gauge(
            "apitally_agent_target_info",
            "The process that a target is known by; always 1",
            targets
                .iter()
                .map(|target| ([("target", &*target.spec), ("process_executable_name", &*target.name)], 1.0)),
        )?;
        self.gauge(
            "apitally_agent_target_up",
            "1 while any process of the target is there",
            of(|target| f64::from(target.alive)),
        )?;
        self.gauge(
            "apitally_agent_target_processes",
            "Processes that are watched",
            of(|target| target.processes.len() as f64),
        )?;
        self.counter(
            "apitally_agent_exchanges_seen",
            "Exchanges that became known: reported, lost, or open",
            count(|target| &target.ledger, "seen"),
        )?;
        self.counter(
            "apitally_agent_exchanges_reported",
            "Exchanges that are counted in what is reported",
            count(|target| &target.ledger, "reported"),
        )?;
        self.counter(
            "apitally_agent_exchanges_lost",
            "Exchanges that are not, by cause",
            each("cause", |target| &target.ledger, &NO_CAUSES),
        )?;
        self.gauge(
            "apitally_agent_exchanges_open",
            "Exchanges that wait for the end of their response",
            of(|target| target.open_exchanges as f64),
        )?;
        self.gauge(
            "apitally_agent_coverage_ratio",
            "Share of what was to be reported that was, rounded down; none before there was anything",
            targets.iter().filter_map(|target| Some(([("target", &*target.spec)], target.coverage? / 100.0))),
        )?;
        self.gauge(
            "apitally_agent_connections_known",
            "Connections that are known now",
            of(|target| target.connections as f64),
        )?;
        self.counter(
            "apitally_agent_connections",
            "Connections that brought records",
            count(|target| &target.notes, "connections"),
        )?;
        for (name, help, note) in [
            (
                "apitally_agent_captured_bytes",
                "Bytes of the target's connections that were copied",
                "bytes_captured",
            ),
            ("apitally_agent_muted_bytes", "Bytes that the agent asked to leave out", "bytes_muted"),
            ("apitally_agent_gapped_bytes", "Bytes that the agent wanted and did not get", "bytes_gapped"),
        ] {
            self.counter(name, help, count(|target| &target.notes, note))?;
        }
        self.counter(
            "apitally_agent_notes",
            "What was noticed beside the exchanges",
            each("note", |target| &target.notes, &TOLD_ELSEWHERE),
        )?;
        self.gauge(
            "apitally_agent_routes",
            "Routes, declared ones and learned ones",
            of(|target| target.routes.count as f64),
        )?;
        self.gauge(
            "apitally_agent_routes_learned",
            "Those of them that were learned",
            of(|target| target.routes.learned as f64),
        )?;
        self.gauge(
            "apitally_agent_routes_learned_limit",
            "How many can be",
            of(|target| target.routes.limit as f64),
        )?;
        self.gauge(
            "apitally_agent_consumers",
            "Consumers that are known",
            of(|target| target.consumers.count as f64),
        )?;
        self.gauge(
            "apitally_agent_consumers_limit",
            "How many can be",
            of(|target| target.consumers.limit as f64),
        )
    }

    fn requests(&mut self, requests: &[Requests]) -> fmt::Result {
        let bounds = DURATION_BOUNDS.map(|bound| bound.as_secs_f64());
        self.histogram(
            "http_server_request_duration_seconds",
            "Duration of HTTP server requests",
            requests,
            |row| &row.response_times,
            (&bounds, 1e-9),
        )?;
        let bounds = SIZE_BOUNDS.map(|bound| bound as f64);
        self.histogram(
            "http_server_request_body_size_bytes",
            "Size of HTTP server request bodies, where it is known",
            requests,
            |row| &row.request_sizes,
            (&bounds, 1.0),
        )?;
        self.histogram(
            "http_server_response_body_size_bytes",
            "Size of HTTP server response bodies, where it is known",
            requests,
            |row| &row.response_sizes,
            (&bounds, 1.0),
        )
    }

    /// `scale`: upper bounds of the buckets, and what a sum is multiplied by to be in their unit.
    fn histogram<const BUCKETS: usize>(
        &mut self,
        name: &str,
        help: &str,
        requests: &[Requests],
        histogram: fn(&Row) -> &Histogram<BUCKETS>,
        (bounds, unit): (&[f64], f64),
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for Requests { target, rows } in requests {
            for row in rows {
                let status = row.status.to_string();
                let labels = [
                    ("target", &**target),
                    ("http_request_method", row.method.as_str()),
                    ("http_route", &*row.path),
                    ("http_response_status_code", &*status),
                ];
                let histogram = histogram(row);
                let bounds = bounds.iter().copied().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
                let (sum, count) = (histogram.sum as f64 * unit, histogram.count());
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    /// `name`: without `_total`, which the format adds.
    fn counter<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'v, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in samples {
            sample(&mut family, &labels, |metric| metric.encode_counter::<NoLabelSet, _, f64>(&value, None))?;
        }
        Ok(())
    }

    /// Likewise, of one that counts fractions.
    fn number(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'v, N>, f64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in samples {
            sample(&mut family, &labels, |metric| metric.encode_gauge(&value))?;
        }
        Ok(())
    }

    /// Its unit is what its name ends with.
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        let (name, unit) = if let Some(name) = name.strip_suffix("_seconds") {
            (name, Some(&Unit::Seconds))
        } else if let Some(name) = name.strip_suffix("_bytes") {
            (name, Some(&Unit::Bytes))
        } else {
            (name, None)
        };
        self.encoder.encode_descriptor(name, help, unit, kind)
    }
}

fn sample<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &Labels<'_, N>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if N == 0 { encode(family) } else { encode(&mut family.encode_family(labels)?) }
}

/// Counts with their names as values of a label.
fn by<'c>(label: &'static str, counts: &'c Counts) -> impl Iterator<Item = (Labels<'c, 1>, u64)> {
    counts.iter().map(move |(name, count)| ([(label, &**name)], *count))
}

fn destination(hub: &Hub) -> Labels<'_, 2> {
    [("url", &*hub.url), ("env", &*hub.env)]
}

/// Each URL and environment once. What tells apart several apps that report there, the client id, is not for everybody to
/// read, so their numbers are added up.
fn added_up(hubs: &[Hub]) -> Vec<Hub> {
    let mut sums: Vec<Hub> = Vec::new();
    for hub in hubs {
        match sums.iter_mut().find(|sum| (&sum.url, &sum.env) == (&hub.url, &hub.env)) {
            Some(sum) => add(sum, hub),
            None => sums.push(hub.clone()),
        }
    }
    sums
}

/// Of what cannot be added up the worse of the two counts.
fn add(sum: &mut Hub, hub: &Hub) {
    let Hub {
        running,
        queued,
        queued_bytes,
        delivered,
        dropped,
        failures,
        last_answer,
        spool,
        logs_paused_s,
        ..
    } = hub;
    let Spool { in_memory, recovered, damaged, foreign, degraded } = spool;
    sum.running &= running;
    sum.queued += queued;
    sum.queued_bytes += queued_bytes;
    sum.delivered += delivered;
    for (counts, more) in [(&mut sum.dropped, dropped), (&mut sum.failures, failures)] {
        for (name, count) in more {
            *counts.entry(name.clone()).or_default() += count;
        }
    }
    let age = |answer: &Option<LastAnswer>| answer.as_ref().map(|answer| answer.age_s);
    if age(last_answer) > age(&sum.last_answer) {
        sum.last_answer.clone_from(last_answer);
    }
    sum.spool.in_memory += in_memory;
    sum.spool.recovered += recovered;
    sum.spool.damaged += damaged;
    sum.spool.foreign += foreign;
    sum.spool.degraded = sum.spool.degraded.take().or_else(|| degraded.clone());
    if *logs_paused_s > sum.logs_paused_s {
        sum.logs_paused_s = *logs_paused_s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let form = |accept: &str| Form::wanted_by([accept].into_iter());
        let of_prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(form(of_prometheus), Form::OpenMetrics);
        for accept in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(form(accept), Form::Prometheus, "{accept}");
        }
    }

    #[test]
    fn older_words_say_the_same() {
        let page = "# HELP a_seconds What # TYPE does\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
                    a_seconds_total{b=\"# EOF\"} 1\n# HELP c It\n# TYPE c gauge\nc 2\n# EOF\n";
        let want = "# HELP a_seconds_total What # TYPE does\n# TYPE a_seconds_total counter\n\
                    a_seconds_total{b=\"# EOF\"} 1\n# HELP c It\n# TYPE c gauge\nc 2\n";
        assert_eq!(in_older_words(page), want);
    }

    #[test]
    fn apps_that_share_a_hub_are_added_up() {
        let hub = |url: &str, queued, running, age_s| Hub {
            url: url.to_owned(),
            env: "prod".to_owned(),
            running,
            queued,
            queued_bytes: 10,
            delivered: 1,
            dropped: [("too_old".to_owned(), queued)].into(),
            failures: Counts::new(),
            last_answer: Some(LastAnswer { delivered: true, outcome: String::new(), age_s }),
            spool: Spool::default(),
            logs_paused_s: None,
        };
        let sums = added_up(&[hub("a", 1, true, 1.0), hub("b", 2, true, 1.0), hub("a", 4, false, 9.0)]);
        let [of_a, of_b] = &sums[..] else { panic!("{sums:?}") };
        assert_eq!((of_a.queued, of_a.delivered, of_a.running, of_a.dropped["too_old"]), (5, 2, false, 5));
        assert_eq!(of_a.last_answer.as_ref().map(|answer| answer.age_s), Some(9.0));
        assert_eq!((of_b.queued, of_b.running), (2, true));
    }
}
