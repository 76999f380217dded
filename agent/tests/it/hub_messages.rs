//! Messages against their schemas, and against what an official client sent for the same traffic.

use std::{collections::BTreeMap, time::SystemTime};

use agent::{
    hub::{App, ConsumerItem, PathItem, Resources, Startup, Sync},
    pipeline::counters::{Bins, Counts, Row},
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

const STARTUP: &str = include_str!("../data/golden/startup.json");
const SYNC: &str = include_str!("../data/golden/sync.json");
const SYNC_IDLE: &str = include_str!("../data/golden/sync_idle.json");

const STARTUP_SCHEMA: &str = include_str!("../data/schema/startup.json");
const SYNC_SCHEMA: &str = include_str!("../data/schema/sync.json");

/// The message as it goes over the wire, if the schema allows it.
fn checked(message: &impl Serialize, schema: &str) -> Value {
    let wire = serde_json::from_slice(&serde_json::to_vec(message).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&parse(schema)).unwrap();
    let violations: Vec<_> =
        schema.iter_errors(&wire).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(violations.is_empty(), "{violations:#?}");
    wire
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Field name -> JSON type.
fn shape(object: &Value) -> BTreeMap<&str, &'static str> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    object.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), kind(value))).collect()
}

/// The traffic behind the golden sync, as the pipeline counts it.
fn golden_counts() -> Counts {
    type BinList = &'static [(u64, u64)];
    fn row(
        consumer: Option<&str>,
        (method, path, status): (&str, &str, u16),
        (request_count, request_size_sum, response_size_sum): (u64, u64, u64),
        (response_times, request_sizes, response_sizes): (BinList, BinList, BinList),
    ) -> Row {
        let bins = |bins: BinList| bins.iter().copied().collect::<Bins>();
        Row {
            consumer: consumer.map(ToOwned::to_owned),
            method: method.to_owned(),
            path: path.to_owned(),
            status,
            request_count,
            request_size_sum,
            response_size_sum,
            response_times: bins(response_times),
            request_sizes: bins(request_sizes),
            response_sizes: bins(response_sizes),
            exponential: None,
        }
    }
    let alice = Some("alice@example.com");
    #[rustfmt::skip]
    let rows = vec![
        //   consumer                              status  count, bytes in and out  times        request sizes                   response sizes
        row(None,  ("GET",    "/items",            200), (2, 0, 261),      (&[(0, 2)], &[],                           &[(0, 2)])),
        row(None,  ("POST",   "/items",            422), (2, 28, 423),     (&[(0, 2)], &[(0, 2)],                     &[(0, 2)])),
        row(None,  ("DELETE", "/items/{item_id}",  204), (1, 0, 0),        (&[(0, 1)], &[],                           &[(0, 1)])),
        row(alice, ("GET",    "/private",          200), (2, 0, 22),       (&[(0, 2)], &[],                           &[(0, 2)])),
        row(alice, ("POST",   "/items",            422), (1, 26, 260),     (&[(0, 1)], &[(0, 1)],                     &[(0, 1)])),
        row(None,  ("GET",    "/big",              200), (1, 0, 60011),    (&[(0, 1)], &[],                           &[(60, 1)])),
        row(None,  ("POST",   "/echo",             200), (5, 110_261, 61), (&[(0, 5)], &[(0, 2), (50, 1), (60, 1)],   &[(0, 5)])),
        row(None,  ("GET",    "/slow",             200), (1, 0, 13),       (&[(3, 1)], &[],                           &[(0, 1)])),
    ];
    Counts { rows, ..Counts::default() }
}

#[test]
fn equal_counts_make_an_equal_sync() {
    let mut golden = parse(SYNC);
    let resources = Resources { cpu_percent: 1.4, memory_rss: 58_851_328 };
    let mut sync = Sync::new(SystemTime::now(), Uuid::new_v4(), golden_counts(), Some(resources));
    sync.consumers.extend(ConsumerItem::new("alice@example.com", Some("Alice Doe"), Some("Admins")));
    let ours = checked(&sync, SYNC_SCHEMA);
    assert_eq!(shape(&ours), shape(&golden));

    // What differs by nature: identity and time; errors, which the wire does not show.
    for field in ["timestamp", "instance_uuid", "message_uuid", "validation_errors", "server_errors"] {
        golden[field] = ours[field].clone();
    }
    assert_eq!(ours, golden);
}

#[test]
fn idle_sync_is_an_equal_heartbeat() {
    let mut golden = parse(SYNC_IDLE);
    let sync = Sync::new(SystemTime::now(), Uuid::new_v4(), Counts::default(), None);
    let ours = checked(&sync, SYNC_SCHEMA);
    assert_eq!(shape(&ours), shape(&golden));
    for field in ["timestamp", "instance_uuid", "message_uuid"] {
        golden[field] = ours[field].clone();
    }
    assert_eq!(ours, golden);
}

#[test]
fn equal_routes_make_an_equal_startup() {
    let mut golden = parse(STARTUP);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let routes = golden["paths"].as_array().unwrap().iter();
    let route = |path: &Value| PathItem {
        method: text(&path["method"]),
        path: text(&path["path"]),
        ..PathItem::default()
    };
    let routes = routes.map(route).collect();
    let app = App {
        client: Some("python:starlette".to_owned()),
        version: Some("1.2.3".to_owned()),
        components: [("python".to_owned(), "3.11.7".to_owned())].into(),
        routes,
        openapi: None,
    };
    let ours = checked(&Startup::new(Uuid::new_v4(), app), STARTUP_SCHEMA);
    assert_eq!(shape(&ours), shape(&golden));

    // That client has the methods in lower case, as only some do. Ours names itself, not the official client.
    for path in golden["paths"].as_array_mut().unwrap() {
        path["method"] = text(&path["method"]).to_uppercase().into();
    }
    assert_eq!(ours["paths"], golden["paths"]);
    assert_eq!(ours["client"], golden["client"]);
    assert_eq!(ours["versions"]["app"], golden["versions"]["app"]);
    assert_eq!(ours["versions"].get("apitally"), None);
}

#[test]
fn startup_without_any_knowledge_is_valid() {
    let ours = checked(&Startup::new(Uuid::new_v4(), App::default()), STARTUP_SCHEMA);
    assert_eq!(ours["paths"], Value::Array(Vec::new()));
}

#[test]
fn schemas_refuse_what_the_hub_would() {
    let schema = jsonschema::validator_for(&parse(SYNC_SCHEMA)).unwrap();
    let valid = parse(SYNC_IDLE);
    assert!(schema.is_valid(&valid));
    for (field, wrong) in [("timestamp", "now".into()), ("requests", Value::Null), ("resources", 1.into())] {
        let mut message = valid.clone();
        message[field] = wrong;
        assert!(!schema.is_valid(&message), "{field}");
    }
}
