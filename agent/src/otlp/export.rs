//! Export requests: what one target has to say, cut into messages that a receiver takes, and encoded.

use std::{io::Write as _, mem, time::SystemTime};

use flate2::{Compression, GzBuilder};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use serde::Serialize;
use uuid::Uuid;

use super::{
    events::{self, Capture},
    metrics::{self, Interval, ProcessUse},
    spans::span,
    value::{scope, text},
};
use crate::{
    hub::Startup,
    pipeline::{
        counters::{Counts, Row},
        detail::Logged,
    },
    request_log::{item::WallClock, masked::Masked},
    spool::Receipt,
};

/// Bytes of one request before compression.
const MAX_REQUEST: usize = 4_000_000;
/// Bytes of spans that wait for the next export; with more they go out at once.
const MAX_WAITING: usize = 1_000_000;

/// What kind of telemetry; in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Traces,
    Logs,
    Metrics,
}

impl Signal {
    /// Its name in the path of a URL, and in the agent's own words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
        }
    }
}

/// One export request. Its JSON is OTLP's own encoding in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Export {
    Traces(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

/// An export request as it is sent, and sent again: in protobuf, compressed by gzip.
#[derive(Debug)]
pub struct Payload {
    pub signal: Signal,
    pub body: Vec<u8>,
    /// To be settled when it is in a safe place.
    pub receipt: Option<Receipt>,
}

impl Export {
    pub fn signal(&self) -> Signal {
        match self {
            Self::Traces(_) => Signal::Traces,
            Self::Logs(_) => Signal::Logs,
            Self::Metrics(_) => Signal::Metrics,
        }
    }

    pub fn encode(&self) -> Payload {
        let plain = match self {
            Self::Traces(request) => request.encode_to_vec(),
            Self::Logs(request) => request.encode_to_vec(),
            Self::Metrics(request) => request.encode_to_vec(),
        };
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
        let body = gzip.write_all(&plain).and_then(|()| gzip.finish()).expect("a Vec takes it all");
        Payload { signal: self.signal(), body, receipt: None }
    }

    /// Exchanges that are counted in it.
    pub fn exchanges(&self) -> u64 {
        match self {
            Self::Traces(_) | Self::Logs(_) => 0,
            Self::Metrics(request) => {
                let resources = request.resource_metrics.iter();
                let scopes = resources.flat_map(|resource| &resource.scope_metrics);
                metrics::exchanges(scopes.flat_map(|scope| &scope.metrics))
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Traces(request) => request.encoded_len(),
            Self::Logs(request) => request.encoded_len(),
            Self::Metrics(request) => request.encoded_len(),
        }
    }
}

/// What a target is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub version: Option<String>,
    /// As [`super::OtlpConfig::environment`] has it.
    pub environment: String,
}

/// Turns what is known of one target into export requests.
#[derive(Debug)]
pub struct Exporter {
    resource: Resource,
    /// Until when things have been reported.
    since: SystemTime,
    /// Spans for the next export.
    spans: Vec<Span>,
    /// Their bytes.
    spans_len: usize,
    /// What found no room in an export request.
    pub omitted: Omitted,
}

/// What was left out of export requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Groups of equal errors beyond those that one export takes, or of a route too long for them.
    pub error_groups: u64,
    /// Records, spans and rows that do not fit into a request of their own.
    pub too_large: u64,
}

impl Exporter {
    /// The target gets an identity of its own, as each start of a process does.
    pub fn new(service: &Service, now: SystemTime) -> Self {
        Self {
            resource: resource(service, Uuid::new_v4()),
            since: now,
            spans: Vec::new(),
            spans_len: 0,
            omitted: Omitted::default(),
        }
    }

    /// Takes exchanges that are in the request log, as it lets them leave. They go out with the next counts; when they
    /// are many, now.
    pub fn exchanges(&mut self, exchanges: &[(Logged, Masked)], clock: &WallClock) -> Vec<Export> {
        let mut exports = Vec::new();
        for (logged, masked) in exchanges {
            let span = span(logged, masked, clock);
            self.spans_len += span.encoded_len();
            self.spans.push(span);
            if self.spans_len > MAX_WAITING {
                exports.extend(self.traces());
            }
        }
        exports
    }

    /// Announces the target.
    pub fn startup(&mut self, message: &Startup, capture: &Capture, at: SystemTime) -> Vec<Export> {
        let record = events::startup(message, capture, at);
        self.logs(&[record])
    }

    /// What was counted since the last call, up to `at`. Sent when nothing happened, too: it is the heartbeat.
    pub fn counts(&mut self, counts: &Counts, usage: &ProcessUse, at: SystemTime) -> Vec<Export> {
        let interval = Interval { start: self.since, end: at };
        self.since = at;
        let mut records = events::consumer_updates(&counts.consumers, at);
        for grouped in [
            events::validation_errors(&counts.validation_errors, at),
            events::server_errors(&counts.server_errors, at),
        ] {
            records.extend(grouped.records);
            self.omitted.error_groups += grouped.omitted;
        }
        let mut exports = self.traces();
        exports.extend(self.logs(&records));
        exports.extend(self.metrics(&counts.rows, usage, interval));
        exports
    }

    fn traces(&mut self) -> Vec<Export> {
        self.spans_len = 0;
        let spans = mem::take(&mut self.spans);
        if spans.is_empty() {
            return Vec::new();
        }
        self.fitting(&spans, |exporter, spans| {
            Export::Traces(ExportTraceServiceRequest {
                resource_spans: vec![ResourceSpans {
                    resource: Some(exporter.resource.clone()),
                    scope_spans: vec![ScopeSpans {
                        scope: Some(scope()),
                        spans: spans.to_vec(),
                        ..ScopeSpans::default()
                    }],
                    ..ResourceSpans::default()
                }],
            })
        })
    }

    fn logs(&mut self, records: &[LogRecord]) -> Vec<Export> {
        if records.is_empty() {
            return Vec::new();
        }
        self.fitting(records, |exporter, records| {
            Export::Logs(ExportLogsServiceRequest {
                resource_logs: vec![ResourceLogs {
                    resource: Some(exporter.resource.clone()),
                    scope_logs: vec![ScopeLogs {
                        scope: Some(scope()),
                        log_records: records.to_vec(),
                        ..ScopeLogs::default()
                    }],
                    ..ResourceLogs::default()
                }],
            })
        })
    }

    /// What the target uses is in the first request only.
    fn metrics(&mut self, rows: &[Row], usage: &ProcessUse, interval: Interval) -> Vec<Export> {
        let process = metrics::process(usage, interval.end);
        let mut exports = self.fitting(rows, |exporter, rows| {
            let of = |metrics: Vec<Metric>| ResourceMetrics {
                resource: Some(exporter.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            };
            let mut resource_metrics = vec![of(process.clone())];
            if !rows.is_empty() {
                resource_metrics.push(of(metrics::requests(rows, interval)));
            }
            Export::Metrics(ExportMetricsServiceRequest { resource_metrics })
        });
        for export in exports.iter_mut().skip(1) {
            if let Export::Metrics(request) = export {
                request.resource_metrics.remove(0);
            }
        }
        exports
    }

    /// As few requests as it takes for all of the items, in order. One that needs more than a request is omitted.
    fn fitting<T>(&mut self, items: &[T], request: impl Fn(&Self, &[T]) -> Export + Copy) -> Vec<Export> {
        let whole = request(self, items);
        if whole.len() <= MAX_REQUEST {
            return vec![whole];
        }
        drop(whole);
        if items.len() <= 1 {
            self.omitted.too_large += 1;
            return Vec::new();
        }
        let (first, second) = items.split_at(items.len() / 2);
        let mut exports = self.fitting(first, request);
        exports.extend(self.fitting(second, request));
        exports
    }
}

/// Who is speaking, and of what (protocol page, section 14.3). What is aggregated and sent is the agent's own doing, so
/// it names itself as the SDK, too.
fn resource(service: &Service, instance: Uuid) -> Resource {
    const AGENT: &str = "apitally-agent";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let mut attributes = vec![
        text("service.instance.id", &instance.hyphenated().to_string()),
        text("service.name", &service.name),
    ];
    attributes.extend(service.version.iter().map(|version| text("service.version", version)));
    attributes.extend([
        text("deployment.environment.name", &service.environment),
        text("telemetry.distro.name", AGENT),
        text("telemetry.distro.version", VERSION),
        text("telemetry.sdk.language", "rust"),
        text("telemetry.sdk.name", AGENT),
        text("telemetry.sdk.version", VERSION),
    ]);
    Resource { attributes, ..Resource::default() }
}
