//! Export requests against what the newest official client sent for the same traffic.
//!
//! `otlp_metrics.json` and `otlp_events.json` are that client's, read from its protobuf. Here the same counts go
//! through our exporter, what comes out is read by `tests::otlp`, and each difference must be one of those listed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use agent::{
    hub::{App, PathItem, Startup},
    otlp::{Capture, Export, Exporter, ProcessUse, Service, Signal},
    pipeline::counters::{ConsumerNames, Counts, Exponential, Row, ServerErrors, ValidationErrors},
};
use serde_json::{Value, json};
use tests::otlp;
use uuid::Uuid;

const METRICS: &str = include_str!("../data/golden/otlp_metrics.json");
const EVENTS: &str = include_str!("../data/golden/otlp_events.json");

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// What a receiver reads.
fn read(export: &Export) -> Value {
    let signal = match export.signal() {
        Signal::Traces => otlp::Signal::Traces,
        Signal::Logs => otlp::Signal::Logs,
        Signal::Metrics => otlp::Signal::Metrics,
    };
    otlp::decode(signal, &otlp::gunzip(&export.encode().body).unwrap()).unwrap()
}

fn exporter(since: SystemTime) -> Exporter {
    let service = Service {
        name: "uvicorn".to_owned(),
        version: Some("1.2.3".to_owned()),
        environment: "golden".to_owned(),
    };
    Exporter::new(&service, since)
}

fn at(unix_nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_nanos)
}

/// Differences between two documents, one line each. Numbers that are not whole may differ by rounding.
fn differences(official: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", official, ours, &mut found);
    found
}

fn compare(place: &str, official: &Value, ours: &Value, found: &mut Vec<String>) {
    match (official, ours) {
        (Value::Object(one), Value::Object(other)) => {
            for name in one.keys().chain(other.keys().filter(|name| !one.contains_key(*name))) {
                let missing = Value::Null;
                let of =
                    |object: &serde_json::Map<_, _>| object.get(name).cloned().unwrap_or(missing.clone());
                compare(&format!("{place}/{name}"), &of(one), &of(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{place}/{index}"), one, other, found);
            }
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            if (one - other).abs() > 1e-9 * one.abs() {
                found.push(format!("{place}: {one} -> {other}"));
            }
        }
        _ if official == ours => {}
        _ => found.push(format!("{place}: {official} -> {ours}")),
    }
}

/// What the client measured, as far as a point of at most three values tells: the smallest, the largest, and what is
/// left of the sum.
fn values(point: &Value) -> Vec<f64> {
    let [sum, min, max] = ["sum", "min", "max"].map(|name| point[name].as_f64().unwrap());
    match point["count"].as_u64().unwrap() {
        1 => vec![sum],
        2 => vec![min, max],
        3 => vec![min, sum - min - max, max],
        more => panic!("{more} values cannot be told from a sum"),
    }
}

/// The traffic behind the golden metrics, as the pipeline counts it.
fn golden_rows(golden: &Value) -> Vec<Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (metric, is_time, is_request) in [
        ("http.server.request.duration", true, false),
        ("http.server.request.body.size", false, true),
        ("http.server.response.body.size", false, false),
    ] {
        for point in otlp::points([golden], metric) {
            let attribute = |name: &str| point["attributes"][name].as_str().map(str::to_owned);
            let row = rows.entry(point["attributes"].to_string()).or_insert_with(|| Row {
                consumer: attribute("apitally.consumer.identifier"),
                method: attribute("http.request.method").unwrap(),
                path: attribute("http.route").unwrap(),
                status: point["attributes"]["http.response.status_code"].as_u64().unwrap() as u16,
                ..Row::default()
            });
            let Exponential { response_times, request_sizes, response_sizes } =
                &mut **row.exponential.get_or_insert_default();
            for value in values(point) {
                match (is_time, is_request) {
                    (true, _) => {
                        response_times.add_duration(Duration::from_nanos((value * 1e9).round() as u64))
                    }
                    (false, true) => request_sizes.add_bytes(value as u64),
                    (false, false) => response_sizes.add_bytes(value as u64),
                };
            }
        }
    }
    rows.into_values().collect()
}

/// By metric and attributes, so that order does not matter.
fn by_attributes(request: &Value) -> Value {
    let mut points = serde_json::Map::new();
    for resource in request["resource_metrics"].as_array().unwrap() {
        for metric in resource["scope_metrics"][0]["metrics"].as_array().unwrap() {
            let name = metric["name"].as_str().unwrap();
            let mut known = metric.clone();
            for kind in ["gauge", "exponential_histogram"] {
                let Some(data) = known.get_mut(kind) else { continue };
                let data = data.as_object_mut().unwrap();
                for point in data.remove("data_points").unwrap().as_array().unwrap() {
                    let old = points.insert(format!("{name} {}", point["attributes"]), point.clone());
                    assert_eq!(old, None);
                }
            }
            points.insert(name.to_owned(), known);
        }
    }
    points.into()
}

#[test]
fn metrics_are_those_of_the_official_client() {
    let golden = parse(METRICS);
    let point = otlp::points([&golden], "http.server.request.duration")[0];
    let [start, end] =
        ["start_time_unix_nano", "time_unix_nano"].map(|name| point[name].as_u64().map(at).unwrap());
    let rows = golden_rows(&golden);
    assert_eq!(rows.len(), 28);
    let usage = ProcessUse {
        uptime: Duration::from_secs_f64(17.782_919_645_309_45),
        cpu_utilization: Some(0.006),
        memory: Some(66_326_528),
    };
    let exports = exporter(start).counts(&Counts { rows, ..Counts::default() }, &usage, end);
    let [metrics] = &exports[..] else { panic!("{exports:?}") };
    let ours = read(metrics);

    // Names, units, temporality, scale, attributes, times, counts, sums, extremes and buckets of every point.
    assert_eq!(differences(&by_attributes(&golden), &by_attributes(&ours)), [""; 0]);

    let resource = |request: &Value| request["resource_metrics"][0]["resource"]["attributes"].clone();
    let (official, mut ours) = (resource(&golden), resource(&ours));
    let instance = ours["service.instance.id"].take();
    assert_eq!(Uuid::parse_str(instance.as_str().unwrap()).unwrap().get_version_num(), 4);
    let agent = concat!("\"apitally-agent\" -> \"", env!("CARGO_PKG_VERSION"), "\"");
    let (_, version) = agent.split_once(" -> ").unwrap();
    let want = [
        // We are no OpenTelemetry SDK, and none of theirs.
        "/telemetry.sdk.language: \"python\" -> \"rust\"".to_owned(),
        "/telemetry.sdk.name: \"opentelemetry\" -> \"apitally-agent\"".to_owned(),
        format!("/telemetry.sdk.version: \"1.45.1\" -> {version}"),
        // A new one for each start.
        "/service.instance.id: \"6b968992-ce06-4026-ad77-f27a3beefc6f\" -> null".to_owned(),
        // We know a name, and may have been told a version.
        "/service.name: \"unknown_service:python3\" -> \"uvicorn\"".to_owned(),
        "/telemetry.distro.name: \"apitally-py\" -> \"apitally-agent\"".to_owned(),
        format!("/telemetry.distro.version: \"1.0.0\" -> {version}"),
        "/service.version: null -> \"1.2.3\"".to_owned(),
    ];
    assert_eq!(differences(&official, &ours), want);
}

#[test]
fn several_values_make_the_official_clients_buckets() {
    // Its points for the five bodies that were sent to /echo, and for the answers.
    check(&[5, 18, 256, 50_000, 60_000], 110_279.0, &[(18, 1), (33, 1), (63, 1), (124, 1), (126, 1)]);
    check(&[10, 11, 12, 14, 14], 61.0, &[(26, 1), (27, 1), (28, 1), (30, 2)]);

    fn check(sizes: &[u64], sum: f64, buckets: &[(i64, u64)]) {
        let mut exponential = Box::<Exponential>::default();
        for size in sizes {
            exponential.response_sizes.add_bytes(*size);
        }
        let row = Row { exponential: Some(exponential), ..Row::default() };
        let counts = Counts { rows: vec![row], ..Counts::default() };
        let usage = ProcessUse { uptime: Duration::ZERO, cpu_utilization: None, memory: None };
        let exports = exporter(at(0)).counts(&counts, &usage, at(1));
        let read = read(&exports[0]);
        let point = otlp::points([&read], "http.server.response.body.size")[0];
        assert_eq!((&point["sum"], &point["count"]), (&json!(sum), &json!(sizes.len())));
        assert_eq!(otlp::buckets(point), buckets);
    }
}

#[test]
fn a_size_of_zero_is_counted_apart() {
    let mut exponential = Box::<Exponential>::default();
    exponential.response_sizes.add_bytes(0);
    let row = Row { exponential: Some(exponential), ..Row::default() };
    let usage = ProcessUse { uptime: Duration::ZERO, cpu_utilization: None, memory: None };
    let exports = exporter(at(0)).counts(&Counts { rows: vec![row], ..Counts::default() }, &usage, at(1));
    let read = read(&exports[0]);
    let mut point = otlp::points([&read], "http.server.response.body.size")[0].clone();
    point["attributes"].take();
    let want = json!({"attributes": null, "start_time_unix_nano": 0, "time_unix_nano": 1, "count": 1, "sum": 0.0,
        "scale": 3, "zero_count": 1, "min": 0.0, "max": 0.0});
    // Numbers that are zero are not sent, but those that may be absent.
    let want = differences(&want, &point);
    assert_eq!(want, ["/start_time_unix_nano: 0 -> null"]);
}

#[test]
fn events_are_those_of_the_official_client() {
    let golden = parse(EVENTS);
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let alice = || Some("alice@example.com".to_owned());
    let validation =
        |consumer, (method, path), location: &[&str], message: &str, kind: &str| ValidationErrors {
            consumer,
            method: String::from(method),
            path: String::from(path),
            location: texts(location),
            message: message.to_owned(),
            kind: kind.to_owned(),
            count: 1,
        };
    let (too_short, too_small) =
        ("String should have at least 2 characters", "Input should be greater than 0");
    let no_integer = "Input should be a valid integer, unable to parse string as an integer";
    let (post, get) = (("POST", "/items"), ("GET", "/items/{item_id}"));
    let failed = |consumer| ServerErrors {
        consumer,
        method: "GET".to_owned(),
        path: "/error".to_owned(),
        kind: "builtins.ValueError".to_owned(),
        message: "boom".to_owned(),
        traceback: "Traceback".to_owned(),
        count: 1,
    };
    let named = |identifier: &str, name: &str, group: &str| ConsumerNames {
        identifier: identifier.to_owned(),
        name: Some(name.to_owned()),
        group: Some(group.to_owned()),
    };
    let counts = Counts {
        validation_errors: vec![
            validation(None, post, &["body", "name"], too_short, "string_too_short"),
            validation(None, post, &["body", "price"], too_small, "greater_than"),
            validation(None, post, &["body", "name"], "Field required", "missing"),
            validation(None, post, &["body", "price"], "Field required", "missing"),
            validation(None, get, &["path", "item_id"], no_integer, "int_parsing"),
            validation(alice(), post, &["body", "name"], too_short, "string_too_short"),
            validation(alice(), post, &["body", "price"], too_small, "greater_than"),
        ],
        server_errors: vec![failed(None), failed(alice())],
        consumers: vec![
            named(" alice@example.com", "Alice Doe ", " Admins "),
            named(&"x".repeat(200), &"n".repeat(80), &"g".repeat(80)),
        ],
        ..Counts::default()
    };
    let paths = [
        "GET /items",
        "POST /items",
        "GET /items/{item_id}",
        "PUT /items/{item_id}",
        "DELETE /items/{item_id}",
    ];
    let route = |text: &str| {
        let (method, path) = text.split_once(' ').unwrap();
        PathItem { method: method.to_lowercase(), path: path.to_owned(), ..PathItem::default() }
    };
    let app = App {
        client: Some("python:starlette".to_owned()),
        version: Some("1.2.3".to_owned()),
        components: [("python", "3.11.7"), ("fastapi", "0.165.0"), ("starlette", "1.10.0")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        routes: paths.map(route).into(),
        openapi: Some("{}".to_owned()),
    };
    let capture = Capture { capture_response_headers: true, sample_rate: 1.0, ..Capture::default() };
    let now = at(1_795_328_346_082_274_752);
    let mut exporter = exporter(now);
    let mut exports = exporter.startup(&Startup::new(Uuid::nil(), app), &capture, now);
    let usage = ProcessUse { uptime: Duration::ZERO, cpu_utilization: None, memory: None };
    exports.extend(exporter.counts(&counts, &usage, now));
    exports.retain(|export| export.signal() == Signal::Logs);
    let ours: Vec<Value> = exports.iter().map(read).collect();
    assert!(
        ours.iter()
            .all(|request| request["resource_logs"][0]["scope_logs"][0]["scope"]
                == json!({"name": "apitally"}))
    );

    // The times are not the same, and the start-up event is text in JSON.
    let comparable = |record: &Value| {
        let mut record = record.clone();
        for name in ["time_unix_nano", "observed_time_unix_nano"] {
            let time = record.as_object_mut().unwrap().remove(name).unwrap();
            assert!(time.as_u64().unwrap() > 1_795_000_000_000_000_000);
        }
        if let Some(text) = record["body"].as_str() {
            record["body"] = parse(text);
        }
        record
    };
    let official: Value = otlp::log_records([&golden]).into_iter().map(comparable).collect();
    let ours: Value = otlp::log_records(&ours).into_iter().map(comparable).collect();
    let version = env!("CARGO_PKG_VERSION");
    let want = [
        // The agent says that it is there.
        format!("/0/body/versions/apitally-agent: null -> \"{version}\""),
        // What an app logs cannot be seen.
        "/0/body/config/capture_logs: true -> false".to_owned(),
        // The app's code may say more of a consumer; nothing on the wire does.
        "/1/body/attributes: {\"plan\":\"pro\",\"seats\":\"5\"} -> null".to_owned(),
        "/2/body/attributes: {\"plan\":\"pro\",\"seats\":\"5\"} -> null".to_owned(),
    ];
    assert_eq!(differences(&official, &ours), want);
}

#[test]
fn parts_of_a_request_have_one_name_each() {
    for (location, source, field) in [
        (&["querystring", "page"][..], "query", "page"),
        (&["params", "id"], "path", "id"),
        (&["headers", "x-a"], "header", "x-a"),
        (&["cookies", "c"], "cookie", "c"),
        (&["body", "items", "0", "name"], "body", "items.0.name"),
        (&["body"], "body", ""),
        (&["name"], "", "name"),
        (&[], "", ""),
    ] {
        let error = ValidationErrors {
            consumer: None,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            location: location.iter().map(|part| (*part).to_owned()).collect(),
            message: "m".to_owned(),
            kind: String::new(),
            count: 3,
        };
        let body = &events(Counts { validation_errors: vec![error], ..Counts::default() }).0[0]["body"];
        assert_eq!((body["source"].as_str(), body["field"].as_str()), (Some(source), Some(field)));
        assert_eq!(body["counts"], json!([{"count": 3}]));
    }
}

/// The records of these counts, and how many groups were omitted.
fn events(counts: Counts) -> (Vec<Value>, u64) {
    let usage = ProcessUse { uptime: Duration::ZERO, cpu_utilization: None, memory: None };
    let mut exporter = exporter(at(0));
    let exports = exporter.counts(&counts, &usage, at(1));
    let read: Vec<Value> =
        exports.iter().filter(|export| export.signal() == Signal::Logs).map(read).collect();
    (otlp::log_records(&read).into_iter().cloned().collect(), exporter.omitted.error_groups)
}

#[test]
fn what_is_too_much_for_an_event_is_cut_or_omitted_and_counted() {
    let error = |n: usize, path: &str| ServerErrors {
        consumer: None,
        method: "GET".to_owned(),
        path: path.to_owned(),
        kind: "k".repeat(300),
        message: format!("{n} {}", "ü".repeat(3000)),
        traceback: "t".repeat(70_000),
        count: u64::MAX,
    };
    let mut server_errors: Vec<_> = (0..103).map(|n| error(n, "/")).collect();
    server_errors.push(error(5, "/")); // has a group
    server_errors.push(error(0, &"p".repeat(2001)));
    let (records, omitted) = events(Counts { server_errors, ..Counts::default() });
    assert_eq!((records.len(), omitted), (100, 4));
    let body = &records[5]["body"];
    let length = |name: &str| body[name].as_str().unwrap().chars().count();
    assert_eq!(["type", "message", "stacktrace"].map(length), [256, 2048, 65_536]);
    assert_eq!(body["counts"], json!([{"count": u32::MAX}, {"count": u32::MAX}]));
}

#[test]
fn what_is_too_much_for_a_request_goes_into_several() {
    let row = |n: usize| {
        let mut exponential = Box::<Exponential>::default();
        for _ in 0..2 {
            exponential.response_times.add_duration(Duration::from_millis(n as u64 + 1));
        }
        exponential.response_sizes.add_bytes(1);
        Row {
            method: "GET".to_owned(),
            path: format!("/{n:0>500}"),
            exponential: Some(exponential),
            ..Row::default()
        }
    };
    let counts = Counts { rows: (0..10_000).map(row).collect(), ..Counts::default() };
    let usage = ProcessUse { uptime: Duration::from_secs(1), cpu_utilization: None, memory: None };
    let mut exporter = exporter(at(0));
    let exports = exporter.counts(&counts, &usage, at(1));
    assert_eq!(exports.len(), 4);
    let plain = |export: &Export| otlp::gunzip(&export.encode().body).unwrap();
    assert!(exports.iter().all(|export| plain(export).len() <= 4_000_000));
    assert_eq!(exports.iter().map(Export::exchanges).collect::<Vec<_>>(), [5000; 4]);
    let read: Vec<Value> = exports.iter().map(read).collect();
    for metric in ["http.server.request.duration", "http.server.response.body.size"] {
        let routes =
            otlp::points(&read, metric).into_iter().map(|point| point["attributes"]["http.route"].as_str());
        assert!(routes.eq(
            (0..10_000).map(|n| Some(format!("/{n:0>500}"))).collect::<Vec<_>>().iter().map(Option::as_deref)
        ));
    }
    assert_eq!(otlp::points(&read, "process.uptime").len(), 1);
    assert_eq!(otlp::points(&read[..1], "process.uptime").len(), 1);
    assert_eq!(exporter.omitted.too_large, 0);
}

#[test]
fn a_startup_gives_up_its_document_and_then_routes_to_fit() {
    let check = |routes: usize, document: usize, want: (bool, bool)| {
        let app = App {
            routes: (0..routes)
                .map(|n| PathItem {
                    method: "GET".to_owned(),
                    path: format!("/{n:0>1900}"),
                    ..PathItem::default()
                })
                .collect(),
            openapi: Some("d".repeat(document)),
            ..App::default()
        };
        let message = Startup::new(Uuid::nil(), app);
        let exports = exporter(at(0)).startup(&message, &Capture::default(), at(1));
        assert!(otlp::gunzip(&exports[0].encode().body).unwrap().len() <= 4_000_000);
        let read = read(&exports[0]);
        let body = parse(otlp::log_records([&read])[0]["body"].as_str().unwrap());
        assert_eq!(body["framework"], "ebpf");
        let listed = body["paths"].as_array().unwrap().len();
        assert_eq!((body.get("openapi").is_some(), listed == routes), want, "{listed} of {routes}");
    };
    check(3, 1000, (true, true));
    check(3, 3_999_000, (false, true));
    check(3000, 10, (false, false));
}

#[test]
fn the_heartbeat_goes_out_when_nothing_happened() {
    let usage = ProcessUse { uptime: Duration::from_secs(5), cpu_utilization: None, memory: None };
    let exports = exporter(at(0)).counts(&Counts::default(), &usage, at(1));
    let [heartbeat] = &exports[..] else { panic!("{exports:?}") };
    let read = read(heartbeat);
    assert_eq!(otlp::points([&read], "process.uptime")[0]["as_double"], json!(5.0));
}

#[test]
fn what_is_encoded_twice_is_the_same() {
    let usage = ProcessUse { uptime: Duration::from_secs(5), cpu_utilization: None, memory: None };
    let exports = exporter(at(0)).counts(&Counts::default(), &usage, at(1));
    assert_eq!(exports[0].encode().body, exports[0].encode().body);
}
