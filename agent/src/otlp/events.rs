//! What Apitally learns beside metrics, as log records with a name of their own (protocol page, section 14.6).
//!
//! The newest official client is the authority on their form: the start-up event is text in JSON, the others are
//! structured values.

use std::{collections::BTreeMap, time::SystemTime};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use serde::Serialize;

use super::value::{any, attribute, cut, integer, object, text, unix_nanos};
use crate::{
    hub::{ConsumerItem, PathItem, Startup},
    pipeline::counters::{ConsumerNames, ServerErrors, ValidationErrors},
    request_log::policy::LogPolicy,
};

/// Groups of equal errors in one export, of either kind.
const MAX_GROUPS: usize = 100;
/// Characters.
const MAX_PATH: usize = 2000;
const MAX_METHOD: usize = 12;
const MAX_TEXT: usize = 2048;
const MAX_VALIDATION_TYPE: usize = 128;
const MAX_ERROR_TYPE: usize = 256;
const MAX_STACKTRACE: usize = 65_536;
/// Bytes of a start-up event, with the OpenAPI document that it may contain. As much as a request takes.
const MAX_STARTUP: usize = 3_900_000;

/// What of an exchange is captured for the request log, as the start-up event tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Capture {
    /// False: what an app logs is not seen.
    pub capture_logs: bool,
    pub capture_request_headers: bool,
    pub capture_request_body: bool,
    pub capture_response_headers: bool,
    pub capture_response_body: bool,
    /// The user's own patterns.
    pub mask_query_params: Vec<String>,
    pub mask_headers: Vec<String>,
    pub mask_body_fields: Vec<String>,
    pub exclude_paths: Vec<String>,
    /// Share of the requests that have a span: 1 with the request log, else 0.
    pub sample_rate: f64,
}

impl Capture {
    /// With no policy nothing is captured.
    pub fn of(policy: Option<&LogPolicy>) -> Self {
        let Some(LogPolicy { options, .. }) = policy else { return Self::default() };
        Self {
            capture_logs: false,
            capture_request_headers: options.request_headers,
            capture_request_body: options.request_body,
            capture_response_headers: options.response_headers,
            capture_response_body: options.response_body,
            mask_query_params: options.masks.query_params.clone(),
            mask_headers: options.masks.headers.clone(),
            mask_body_fields: options.masks.body_fields.clone(),
            exclude_paths: options.exclusions.paths.clone(),
            sample_rate: 1.0,
        }
    }
}

#[derive(Serialize)]
struct StartupBody<'a> {
    framework: &'a str,
    versions: &'a BTreeMap<String, String>,
    config: &'a Capture,
    paths: &'a [PathItem],
    #[serde(skip_serializing_if = "Option::is_none")]
    openapi: Option<&'a str>,
}

/// Announces the target. A document that is too large is left out, then as many routes as it takes.
pub fn startup(message: &Startup, capture: &Capture, at: SystemTime) -> LogRecord {
    let short = |path: &&PathItem| fits(&path.method, &path.path);
    let mut paths: Vec<PathItem> = message.paths.iter().filter(short).cloned().collect();
    let mut openapi = message.openapi.as_deref();
    loop {
        let (framework, versions) = (framework(message), &message.versions);
        let body = StartupBody { framework, versions, config: capture, paths: &paths, openapi };
        let body = serde_json::to_string(&body).expect("messages are plain data");
        if body.len() <= MAX_STARTUP || (openapi.is_none() && paths.is_empty()) {
            return record("apitally.app.startup", Value::StringValue(body), at);
        }
        if openapi.take().is_none() {
            paths.truncate(paths.len() / 2);
        }
    }
}

/// The framework under its own name. The hub's protocol has one word for FastAPI and what it is built on.
fn framework(message: &Startup) -> &str {
    match message.client.split_once(':') {
        Some(("python", "starlette")) if message.versions.contains_key("fastapi") => "fastapi",
        Some((_, framework)) => framework,
        None => &message.client,
    }
}

/// Consumers with a name or a group.
pub fn consumer_updates(consumers: &[ConsumerNames], at: SystemTime) -> Vec<LogRecord> {
    let named = consumers
        .iter()
        .filter_map(|it| ConsumerItem::new(&it.identifier, it.name.as_deref(), it.group.as_deref()));
    named
        .map(|consumer| {
            let mut members = vec![text("identifier", &consumer.identifier)];
            members.extend(consumer.name.iter().map(|name| text("name", name)));
            members.extend(consumer.group.iter().map(|group| text("group", group)));
            record("apitally.consumer.update", object(members), at)
        })
        .collect()
}

/// Events, and how many groups of errors found no room in them.
#[derive(Debug, Default, PartialEq)]
pub struct Grouped {
    pub records: Vec<LogRecord>,
    pub omitted: u64,
}

/// Validation errors, equal ones of different consumers in one event.
pub fn validation_errors(errors: &[ValidationErrors], at: SystemTime) -> Grouped {
    let mut groups = Groups::default();
    for error in errors {
        let (source, field) = place(&error.location);
        let members = vec![
            text("method", &error.method),
            text("path", &error.path),
            text("source", source),
            text("field", cut(&field, MAX_TEXT)),
            text("message", cut(&error.message, MAX_TEXT)),
            text("type", cut(&error.kind, MAX_VALIDATION_TYPE)),
        ];
        groups.add((&error.method, &error.path), members, error.consumer.as_deref(), error.count);
    }
    groups.into_records("apitally.request.validation_error", at)
}

/// Server errors, likewise.
pub fn server_errors(errors: &[ServerErrors], at: SystemTime) -> Grouped {
    let mut groups = Groups::default();
    for error in errors {
        let members = vec![
            text("method", &error.method),
            text("path", &error.path),
            text("type", cut(&error.kind, MAX_ERROR_TYPE)),
            text("message", cut(&error.message, MAX_TEXT)),
            text("stacktrace", cut(&error.traceback, MAX_STACKTRACE)),
        ];
        groups.add((&error.method, &error.path), members, error.consumer.as_deref(), error.count);
    }
    groups.into_records("apitally.request.server_error", at)
}

/// The part of the request, by the one name it has whatever the framework calls it, and the way from there. An unknown
/// part has no name, and belongs to the way.
fn place(location: &[String]) -> (&'static str, String) {
    let known = location.first().and_then(|first| match first.as_str() {
        "body" => Some("body"),
        "query" | "querystring" => Some("query"),
        "path" | "params" => Some("path"),
        "header" | "headers" => Some("header"),
        "cookie" | "cookies" => Some("cookie"),
        _ => None,
    });
    let way = if known.is_some() { &location[1..] } else { location };
    (known.unwrap_or_default(), way.join("."))
}

/// Whether an event takes this method and path.
fn fits(method: &str, path: &str) -> bool {
    (2..=MAX_METHOD).contains(&method.len()) && !path.is_empty() && path.chars().count() <= MAX_PATH
}

/// Equal errors with the consumers they happened to. What comes when there are [`MAX_GROUPS`] is counted only.
#[derive(Default)]
struct Groups {
    groups: Vec<(Vec<KeyValue>, Vec<AnyValue>)>,
    omitted: u64,
}

impl Groups {
    fn add(
        &mut self,
        (method, path): (&str, &str),
        members: Vec<KeyValue>,
        consumer: Option<&str>,
        count: u64,
    ) {
        let known = self.groups.iter().position(|(known, _)| *known == members);
        let index = known.unwrap_or(self.groups.len());
        if known.is_none() {
            if self.groups.len() == MAX_GROUPS || !fits(method, path) {
                self.omitted += 1;
                return;
            }
            self.groups.push((members, Vec::new()));
        }
        let count = integer("count", count.min(u32::MAX.into()));
        let counted =
            consumer.map(|consumer| text("consumer", consumer)).into_iter().chain([count]).collect();
        self.groups[index].1.push(any(object(counted)));
    }

    fn into_records(self, name: &str, at: SystemTime) -> Grouped {
        let records = self.groups.into_iter().map(|(mut members, counts)| {
            members.push(attribute("counts", Value::ArrayValue(ArrayValue { values: counts })));
            record(name, object(members), at)
        });
        Grouped { records: records.collect(), omitted: self.omitted }
    }
}

fn record(name: &str, body: Value, at: SystemTime) -> LogRecord {
    LogRecord {
        time_unix_nano: unix_nanos(at),
        observed_time_unix_nano: unix_nanos(at),
        event_name: name.to_owned(),
        body: Some(any(body)),
        ..LogRecord::default()
    }
}
