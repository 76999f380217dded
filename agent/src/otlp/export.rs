//! Export requests: what one target has to say, cut into messages that a receiver takes, and encoded.

use std::{io::Write as _, time::SystemTime};

use flate2::{Compression, GzBuilder};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
};
use prost::Message;
use serde::Serialize;
use uuid::Uuid;

use super::{
    events::{self, Capture},
    metrics::{self, Interval, ProcessUse},
    value::{scope, text},
};
use crate::{
    hub::Startup,
    pipeline::counters::{Counts, Row},
};

/// Bytes of one request before compression.
const MAX_REQUEST: usize = 4_000_000;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub signal: Signal,
    pub body: Vec<u8>,
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
        Payload { signal: self.signal(), body }
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
        Self { resource: resource(service, Uuid::new_v4()), since: now, omitted: Omitted::default() }
    }

    /// Announces the target.
    pub fn startup(
        &mut self,
        message: &Startup,
        openapi: Option<&str>,
        capture: &Capture,
        at: SystemTime,
    ) -> Vec<Export> {
        let record = events::startup(message, openapi, capture, at);
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
        let mut exports = self.logs(&records);
        exports.extend(self.metrics(&counts.rows, usage, interval));
        exports
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
