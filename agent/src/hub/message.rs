//! Messages in the hub's own words, and the only conversion of counts into them.
//!
//! The spelling is that of the official Python client, which the hub has seen most of: snake case, null where
//! there is no consumer, lists present even when empty.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use uuid::Uuid;

use crate::pipeline::{
    counters::{Bins, Counts, Row, ServerErrors, ValidationErrors},
    target::Operation,
};

/// Announces a target: its routes and what it is made of. Made anew, with the full list, when routes are added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Startup {
    pub instance_uuid: Uuid,
    pub message_uuid: Uuid,
    pub paths: Vec<PathItem>,
    pub versions: BTreeMap<String, String>,
    pub client: String,
    /// The OpenAPI document as text, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openapi: Option<String>,
}

/// What is known about a target when it is announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct App {
    /// The hub's name for the framework, like `python:django`; ours when none was recognised.
    pub client: Option<String>,
    /// The application's own version, as configured.
    pub version: Option<String>,
    /// Versions of what it runs on, by component: `python`, `uvicorn`, ...
    pub components: BTreeMap<String, String>,
    pub routes: Vec<PathItem>,
    /// The OpenAPI document as JSON text.
    pub openapi: Option<String>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathItem {
    pub method: String,
    /// Template.
    pub path: String,
    /// What an OpenAPI document says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl From<Operation> for PathItem {
    fn from(operation: Operation) -> Self {
        let Operation { method, template, summary, description } = operation;
        Self { method: method.as_str().to_owned(), path: template, summary, description }
    }
}

/// What `client` says when no framework was recognised.
const CLIENT: &str = "rust:ebpf";

impl Startup {
    /// HEAD and OPTIONS are left out of the routes, methods are upper-cased, repetitions removed.
    pub fn new(instance: Uuid, app: App) -> Self {
        let mut seen = HashSet::new();
        let paths = app
            .routes
            .into_iter()
            .map(|route| PathItem { method: route.method.to_ascii_uppercase(), ..route })
            .filter(|route| !matches!(route.method.as_str(), "HEAD" | "OPTIONS"))
            .filter(|route| seen.insert((route.method.clone(), route.path.clone())))
            .collect();
        let mut versions = app.components;
        versions.insert("apitally-agent".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        versions.extend(app.version.map(|version| ("app".to_owned(), version)));
        Self {
            instance_uuid: instance,
            message_uuid: Uuid::new_v4(),
            paths,
            versions,
            client: app.client.unwrap_or_else(|| CLIENT.to_owned()),
            openapi: app.openapi,
        }
    }
}

/// What happened on a target since its last sync. Sent when nothing happened, too: it is the heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sync {
    /// Unix seconds at which the interval was closed; stays when the message is sent later.
    pub timestamp: f64,
    pub instance_uuid: Uuid,
    pub message_uuid: Uuid,
    pub requests: Vec<RequestsItem>,
    pub validation_errors: Vec<ValidationErrorsItem>,
    /// Only what responses say: an exception cannot be seen from outside, and is not made up from a status.
    pub server_errors: Vec<ServerErrorsItem>,
    /// New or changed since the last sync.
    pub consumers: Vec<ConsumerItem>,
    /// None in a target's first sync: CPU use needs two samples.
    pub resources: Option<Resources>,
}

/// Equal validation errors of requests that share consumer, method and route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValidationErrorsItem {
    pub consumer: Option<String>,
    pub method: String,
    /// Template.
    pub path: String,
    pub loc: Vec<String>,
    pub msg: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub error_count: u64,
}

/// Equal errors of exchanges that share consumer, method and route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerErrorsItem {
    pub consumer: Option<String>,
    pub method: String,
    /// Template.
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub msg: String,
    pub traceback: String,
    /// Always null: no Sentry is in sight.
    pub sentry_event_id: Option<String>,
    pub error_count: u64,
}

/// Requests that share consumer, method, route and status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestsItem {
    pub consumer: Option<String>,
    pub method: String,
    /// Template.
    pub path: String,
    pub status_code: u16,
    pub request_count: u64,
    /// Bytes.
    pub request_size_sum: u64,
    /// Bytes.
    pub response_size_sum: u64,
    /// Milliseconds, rounded down to a multiple of 10 -> count. JSON makes the keys decimal strings.
    pub response_times: BTreeMap<u64, u64>,
    /// Bytes / 1000, rounded down -> count.
    pub request_sizes: BTreeMap<u64, u64>,
    /// Likewise.
    pub response_sizes: BTreeMap<u64, u64>,
}

/// What the dashboard calls a consumer. Only those that have a name or a group are announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsumerItem {
    pub identifier: String,
    pub name: Option<String>,
    pub group: Option<String>,
}

/// What the target's processes use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Resources {
    /// Percent of one core since the last sync; exceeds 100 where several cores are used.
    pub cpu_percent: f64,
    /// Bytes.
    pub memory_rss: u64,
}

impl Sync {
    /// `closed_at`: when counting stopped for this message.
    pub fn new(closed_at: SystemTime, instance: Uuid, counts: Counts, resources: Option<Resources>) -> Self {
        Self {
            timestamp: unix_seconds(closed_at),
            instance_uuid: instance,
            message_uuid: Uuid::new_v4(),
            requests: counts.rows.into_iter().map(RequestsItem::from).collect(),
            validation_errors: counts.validation_errors.into_iter().map(ValidationErrorsItem::from).collect(),
            server_errors: counts.server_errors.into_iter().map(ServerErrorsItem::from).collect(),
            consumers: counts
                .consumers
                .into_iter()
                .filter_map(|it| ConsumerItem::new(&it.identifier, it.name.as_deref(), it.group.as_deref()))
                .collect(),
            resources,
        }
    }
}

impl From<Row> for RequestsItem {
    fn from(row: Row) -> Self {
        Self {
            consumer: row.consumer,
            method: row.method,
            path: row.path,
            status_code: row.status,
            request_count: row.request_count,
            request_size_sum: row.request_size_sum,
            response_size_sum: row.response_size_sum,
            response_times: in_tens(&row.response_times),
            request_sizes: row.request_sizes,
            response_sizes: row.response_sizes,
        }
    }
}

impl From<ValidationErrors> for ValidationErrorsItem {
    fn from(errors: ValidationErrors) -> Self {
        let ValidationErrors { consumer, method, path, location, message, kind, count } = errors;
        Self { consumer, method, path, loc: location, msg: message, kind, error_count: count }
    }
}

impl From<ServerErrors> for ServerErrorsItem {
    fn from(errors: ServerErrors) -> Self {
        let ServerErrors { consumer, method, path, kind, message, traceback, count } = errors;
        let sentry_event_id = None;
        Self { consumer, method, path, kind, msg: message, traceback, sentry_event_id, error_count: count }
    }
}

/// Our bin n is the hub's bin 10·n.
fn in_tens(bins: &Bins) -> BTreeMap<u64, u64> {
    bins.iter().map(|(bin, count)| (bin * 10, *count)).collect()
}

impl ConsumerItem {
    /// Blanks around each part are removed, and what is too long is cut: 128 characters of the identifier, 64
    /// of the others. None when there is nothing to announce.
    pub fn new(identifier: &str, name: Option<&str>, group: Option<&str>) -> Option<Self> {
        let cut = |text: &str, most: usize| {
            let text: String = text.trim().chars().take(most).collect();
            (!text.is_empty()).then_some(text)
        };
        let (name, group) = (name.and_then(|name| cut(name, 64)), group.and_then(|group| cut(group, 64)));
        if name.is_none() && group.is_none() {
            return None;
        }
        Some(Self { identifier: cut(identifier, 128)?, name, group })
    }
}

impl Resources {
    /// From the CPU time used between two samples that lie `elapsed` apart. None without a first sample.
    pub fn between(cpu_time: Duration, elapsed: Duration, memory_rss: u64) -> Option<Self> {
        if elapsed.is_zero() {
            return None;
        }
        let percent = 100.0 * cpu_time.as_secs_f64() / elapsed.as_secs_f64();
        Some(Self { cpu_percent: (percent * 100.0).round() / 100.0, memory_rss })
    }
}

/// With microseconds; a clock before 1970 counts as 1970.
fn unix_seconds(time: SystemTime) -> f64 {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_an_identity_of_its_own() {
        let instance = Uuid::new_v4();
        let sync = || Sync::new(SystemTime::now(), instance, Counts::default(), None);
        assert_ne!(sync().message_uuid, sync().message_uuid);
        let startup = || Startup::new(instance, App::default());
        assert_ne!(startup().message_uuid, startup().message_uuid);
    }

    #[test]
    fn startup_lists_each_route_once_in_upper_case_and_no_head_or_options() {
        let routes = [("get", "/"), ("GET", "/"), ("head", "/"), ("OPTIONS", "/"), ("Post", "/items/{id}")]
            .map(|(method, path)| PathItem {
                method: method.to_owned(),
                path: path.to_owned(),
                ..PathItem::default()
            });
        let startup = Startup::new(Uuid::new_v4(), App { routes: routes.into(), ..App::default() });
        let paths: Vec<_> = startup.paths.iter().map(|p| format!("{} {}", p.method, p.path)).collect();
        assert_eq!(paths, ["GET /", "POST /items/{id}"]);
    }

    #[test]
    fn startup_names_the_agent_and_what_the_user_gave() {
        let bare = Startup::new(Uuid::new_v4(), App::default());
        assert_eq!(bare.client, "rust:ebpf");
        assert_eq!(bare.versions.keys().collect::<Vec<_>>(), ["apitally-agent"]);

        let full = Startup::new(
            Uuid::new_v4(),
            App {
                client: Some("python:django".to_owned()),
                version: Some("1.2.3".to_owned()),
                components: [("python".to_owned(), "3.13.1".to_owned())].into(),
                ..App::default()
            },
        );
        assert_eq!(full.client, "python:django");
        assert_eq!(full.versions["app"], "1.2.3");
        assert_eq!(full.versions["python"], "3.13.1");
    }

    #[test]
    fn consumer_is_announced_only_with_a_name_or_a_group() {
        assert_eq!(ConsumerItem::new("bob", None, None), None);
        assert_eq!(ConsumerItem::new("bob", Some("  "), None), None);
        assert_eq!(ConsumerItem::new(" ", Some("Bob"), None), None);
        let long = ConsumerItem::new(&"ü".repeat(200), Some(&"n".repeat(70)), Some(" Admins ")).unwrap();
        assert_eq!(long.identifier, "ü".repeat(128));
        assert_eq!(long.name, Some("n".repeat(64)));
        assert_eq!(long.group.as_deref(), Some("Admins"));
    }

    #[test]
    fn cpu_is_percent_of_one_core() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(Resources::between(seconds(0.08), seconds(10.0), 1).unwrap().cpu_percent, 0.8);
        assert_eq!(Resources::between(seconds(25.0), seconds(10.0), 1).unwrap().cpu_percent, 250.0);
        assert_eq!(Resources::between(seconds(1.0), Duration::ZERO, 1), None);
    }

    #[test]
    fn timestamp_keeps_microseconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_326_892_030_051);
        assert_eq!(unix_seconds(time), 1_795_326_892.030_051);
        assert_eq!(unix_seconds(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0.0);
    }
}
