//! Spans of the request log, against those of the newest official client for the same requests.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use agent::{
    otlp::{Export, Exporter, ProcessUse, Service, Signal},
    pipeline::{Ktime, counters::Counts, detail::Logged},
    request_log::{
        RequestLog,
        item::WallClock,
        mask::Style,
        policy::{LogOptions, LogPolicy},
    },
};
use serde_json::{Value, json};
use tests::otlp;

use crate::request_log::{bytes, logged};

const REQUESTS: &str = include_str!("../data/golden/log_fastapi.jsonl");
const SPANS: &str = include_str!("../data/golden/otlp_spans.jsonl");

/// Where our spans differ from the official client's, all of it. `*`: in each.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("*", "server.address", "an address has no port: that is in server.port"),
    ("login", "apitally.request.body", "a number under a secret name is masked: ccv"),
    ("head", "apitally.response.body", "nothing was sent"),
    ("method_not_allowed", "apitally.request.body", "the app never read it, the wire has it"),
    ("forwarded_https", "server.port", "that of the host that the client asked for"),
    // The golden requests do not have what their server answered here.
    ("error", "apitally.response.body", "not in the golden request"),
    ("error", "http.response.header.content-length", "likewise"),
    ("error", "http.response.header.content-type", "likewise"),
    ("error_alice", "apitally.response.body", "likewise"),
    ("error_alice", "http.response.header.content-length", "likewise"),
    ("error_alice", "http.response.header.content-type", "likewise"),
];

fn options() -> LogOptions {
    LogOptions { request_headers: true, request_body: true, response_body: true, ..LogOptions::default() }
}

fn exporter() -> Exporter {
    let service = Service { name: "x".to_owned(), version: None, environment: "golden".to_owned() };
    Exporter::new(&service, SystemTime::now())
}

const USAGE: ProcessUse = ProcessUse { uptime: Duration::ZERO, cpu_utilization: None, memory: None };
/// One second of kernel time after 1970.
const CLOCK: WallClock = WallClock { wall: SystemTime::UNIX_EPOCH, ktime: Ktime(0) };

/// The spans of these exchanges, as a receiver reads them.
fn spans(options: &LogOptions, exchanges: impl IntoIterator<Item = Logged>) -> Vec<Value> {
    let mut log = RequestLog::new(Arc::new(LogPolicy::new(options).unwrap()));
    let mut exporter = exporter();
    let mut exports = Vec::new();
    for exchange in exchanges {
        log.add(exchange, Instant::now());
        exports.extend(exporter.exchanges(&log.take(Style::Otlp), &CLOCK));
    }
    exports.extend(exporter.counts(&Counts::default(), &USAGE, SystemTime::now()));
    exports.retain(|export| export.signal() == Signal::Traces);
    let requests: Vec<Value> = exports.iter().map(read).collect();
    otlp::spans(&requests).into_iter().cloned().collect()
}

fn read(export: &Export) -> Value {
    otlp::decode(otlp::Signal::Traces, &otlp::gunzip(&export.encode().body).unwrap()).unwrap()
}

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// One form for both sides: runs of letters written out, bytes that are text as text.
fn plain(value: &Value) -> String {
    let base64 = json!({"base64": value["_bytes_base64"]});
    let body = if value.get("_bytes_base64").is_some() { bytes(&base64) } else { bytes(value) };
    body.map_or_else(|| value.to_string(), |body| String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn spans_are_those_of_the_official_client() {
    let requests: Vec<Value> = lines(REQUESTS).collect();
    let mut differing = BTreeSet::new();
    for golden in lines(SPANS) {
        let (step, official) = (golden["step"].as_str().unwrap(), &golden["span"]);
        let request = requests.iter().find(|request| request["step"] == step).unwrap();
        // What the pipeline finds out, not the log.
        let attribute = |name: &str| official["attributes"][name].as_str().map(str::to_owned);
        let exchange = Logged {
            route: attribute("http.route"),
            consumer: attribute("apitally.consumer.identifier"),
            request_size: official["attributes"]["http.request.body.size"].as_u64(),
            response_size: official["attributes"]["http.response.body.size"].as_u64(),
            client: Some(([127, 0, 0, 1], 50_000).into()),
            ..logged(request)
        };
        let found = spans(&options(), [exchange]);
        let [ours] = &found[..] else { panic!("{step}: {found:#?}") };
        for name in ["name", "kind", "flags", "status"] {
            if official[name] != ours[name] {
                differing.insert((step.to_owned(), format!("{name}: {} -> {}", official[name], ours[name])));
            }
        }
        let of = |span: &Value| span["attributes"].as_object().unwrap().clone();
        let (official, ours) = (of(official), of(ours));
        for name in official.keys().chain(ours.keys()) {
            let side = |side: &serde_json::Map<String, Value>| side.get(name).map(plain);
            if side(&official) != side(&ours) {
                differing.insert((step.to_owned(), name.clone()));
            }
        }
    }
    let everywhere: BTreeSet<&str> =
        DIFFERENCES.iter().filter(|(step, ..)| *step == "*").map(|(_, name, _)| *name).collect();
    differing.retain(|(_, name)| !everywhere.contains(name.as_str()));
    let listed: BTreeSet<(String, String)> = DIFFERENCES
        .iter()
        .filter(|(step, ..)| *step != "*")
        .map(|(step, name, _)| ((*step).to_owned(), (*name).to_owned()))
        .collect();
    assert_eq!(differing, listed);
}

/// The exchange of the step `list`, with more fields in its request.
fn with_fields(fields: &[(&str, &str)]) -> Logged {
    let mut exchange = logged(&lines(REQUESTS).next().unwrap());
    let more = fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    exchange.request.fields.extend(more);
    exchange
}

#[test]
fn a_request_says_whose_trace_it_is() {
    let parent = ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let states = [parent, ("tracestate", "a=1"), ("TraceState", "b=2 ")];
    let span = &spans(&options(), [with_fields(&states)])[0];
    assert_eq!(span["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(span["parent_span_id"], "00f067aa0ba902b7");
    assert_eq!(span["trace_state"], "a=1,b=2");
    assert_eq!(span["flags"], 0x300);
}

#[test]
fn what_names_no_trace_begins_one() {
    let long = "x".repeat(513);
    let invalid =
        [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"), ("tracestate", "a=1")];
    let valid =
        [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", &long)];
    let found = spans(&options(), [with_fields(&invalid), with_fields(&[]), with_fields(&valid)]);
    for span in &found[..2] {
        assert_eq!((&span["parent_span_id"], &span["trace_state"]), (&Value::Null, &Value::Null));
        assert_eq!((span["trace_id"].as_str().unwrap().len(), &span["flags"]), (32, &json!(0x100)));
    }
    assert_eq!(found[2]["trace_state"], Value::Null);
    let ids: BTreeSet<&str> = found.iter().map(|span| span["span_id"].as_str().unwrap()).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| id.len() == 16), "{ids:?}");
    assert_ne!(found[0]["trace_id"], found[1]["trace_id"]);
}

#[test]
fn a_span_lasts_from_the_requests_head_to_the_last_byte() {
    let span = &spans(&options(), [with_fields(&[])])[0];
    assert_eq!(span["start_time_unix_nano"], 1_000_000_000_u64);
    assert_eq!(span["end_time_unix_nano"], 1_040_000_000_u64);
}

#[test]
fn what_is_in_no_log_has_no_span() {
    let steps = ["options", "healthz", "probe_agent"];
    let of = |step| logged(&lines(REQUESTS).find(|request| request["step"] == step).unwrap());
    assert_eq!(spans(&options(), steps.map(of)), [Value::Null; 0]);
}

#[test]
fn secrets_stay_unless_they_were_switched_on() {
    let secret = [
        ("Authorization", "Bearer hunter2"),
        ("X-Note", "hunter2"),
        ("User-Agent", "curl"),
        ("Referer", "/?token=hunter2"),
    ];
    let mut exchange = with_fields(&secret);
    exchange.target = "/items?token=hunter2".to_owned();
    let text = spans(&LogOptions::default(), [exchange])[0].to_string();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("token=[REDACTED]") && text.contains("content-type"), "{text}");
}

#[test]
fn many_spans_go_out_before_the_next_counts() {
    let mut exporter = exporter();
    let mut log = RequestLog::new(Arc::new(LogPolicy::new(&options()).unwrap()));
    let mut requests = Vec::new();
    for n in 0..60 {
        log.add(with_fields(&[("x-large", &"x".repeat(40_000))]), Instant::now());
        let exports = exporter.exchanges(&log.take(Style::Otlp), &CLOCK);
        assert!(n >= 24 || exports.is_empty());
        requests.extend(exports.iter().map(read));
    }
    assert_eq!(requests.len(), 2);
    let rest = exporter.counts(&Counts::default(), &USAGE, SystemTime::now());
    assert_eq!(rest[0].signal(), Signal::Traces);
    requests.push(read(&rest[0]));
    assert_eq!(otlp::spans(&requests).len(), 60);
    // They are gone then.
    let rest = exporter.counts(&Counts::default(), &USAGE, SystemTime::now());
    assert!(rest.iter().all(|export| export.signal() == Signal::Metrics));
}
