//! Items of the request log against their schema, and against what official clients logged of the same exchanges.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use agent::{
    pipeline::{
        Ktime,
        detail::{Body, Logged, MAX_BODY, Message},
        http::head::Method,
    },
    request_log::{
        RequestLog,
        item::WallClock,
        policy::{LogOptions, LogPolicy},
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../data/schema/log_item.json");
const GOLDEN: [(&str, &str); 3] = [
    ("django", include_str!("../data/golden/log_django.jsonl")),
    ("fastapi", include_str!("../data/golden/log_fastapi.jsonl")),
    ("express", include_str!("../data/golden/log_express.jsonl")),
];

/// Where our items differ from the official clients', all of it. `*` is each of the three.
const DIFFERENCES: &[(&str, &str, &str, &str)] = &[
    ("django", "list_query", "url", "only the secret gives way, the query is not written anew"),
    ("fastapi", "list_query", "url", "likewise"),
    ("express", "list_query", "url", "likewise"),
    ("*", "login", "request_body", "a number under a secret name is masked: ccv"),
    ("*", "gzip", "response_body", "decoded and masked, not sent with the secret inside"),
    ("*", "redirect", "response_headers", "the query inside Location is masked"),
    ("django", "echo_chunked", "request_body", "18 bytes are not too large"),
    ("express", "stream", "response_body", "a streamed body is seen like any other"),
    ("django", "stream", "response_body", "likewise"),
    ("express", "html", "response_body", "HTML cannot be masked, it is not among the default types"),
    ("express", "head", "response_body", "nothing was sent"),
    ("fastapi", "head", "response_body", "likewise"),
    ("fastapi", "method_not_allowed", "request_body", "the app never read it, the wire has it"),
    ("django", "unmatched", "item", "logged without a path, as the other clients do"),
    ("django", "trailing_slash", "item", "likewise"),
];

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn everything() -> LogOptions {
    LogOptions { request_headers: true, request_body: true, response_body: true, ..LogOptions::default() }
}

/// The item, if there is one and the schema allows it.
fn item(options: &LogOptions, logged: Logged) -> Option<Value> {
    let mut log = RequestLog::new(Arc::new(LogPolicy::new(options).unwrap()));
    log.add(logged, Instant::now());
    let clock = WallClock { wall: SystemTime::now(), ktime: Ktime(2_000_000_000) };
    let item = serde_json::to_value(log.take_items(&clock).pop()?).unwrap();
    let schema = jsonschema::validator_for(&parse(SCHEMA)).unwrap();
    let violations: Vec<_> =
        schema.iter_errors(&item).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(violations.is_empty(), "{violations:#?}\n{item:#}");
    Some(item)
}

/// The exchange that a line of a golden file describes.
pub fn logged(line: &Value) -> Logged {
    let (request, response) = (&line["request"], &line["response"]);
    let path = line["official"]["path"].as_str().map(str::to_owned);
    Logged {
        head_received: Ktime(1_000_000_000),
        first_byte: Ktime(1_000_000_000),
        last_byte: Ktime(1_040_000_000),
        response_time: Duration::from_millis(40),
        method: Method::new(request["method"].as_str().unwrap()),
        route: path,
        consumer: None,
        status: response["status"].as_u64().unwrap().try_into().unwrap(),
        request_size: None,
        response_size: None,
        client: None,
        target: request["target"].as_str().unwrap().to_owned(),
        request: message(request),
        response: message(response),
    }
}

fn message(message: &Value) -> Message {
    let fields = pairs(&message["fields"]).into_iter().map(|(name, value)| (name, value.into_bytes()));
    let body = match bytes(&message["body"]) {
        None => Body::None,
        Some(bytes) if bytes.len() > MAX_BODY => Body::TooLarge,
        Some(bytes) => Body::Whole(bytes),
    };
    Message { fields: fields.collect(), body }
}

fn pairs(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.as_array().into_iter().flatten().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

/// `"text"`, in which `<<c*N>>` is a run, or `{"base64": ".."}`.
pub fn bytes(body: &Value) -> Option<Vec<u8>> {
    if let Some(text) = body["base64"].as_str() {
        return Some(BASE64_STANDARD.decode(text).unwrap());
    }
    let mut text = body.as_str()?.to_owned();
    while let Some((before, rest)) = text.split_once("<<") {
        let (run, after) = rest.split_once(">>").unwrap();
        let (letter, times) = run.split_once('*').unwrap();
        text = format!("{before}{}{after}", letter.repeat(times.parse().unwrap()));
    }
    Some(text.into_bytes())
}

/// What of an item is compared, in one form for both sides.
fn comparable(url: &Value, messages: [(&Value, Option<Vec<u8>>); 2]) -> Vec<(&'static str, String)> {
    let [(request_headers, request_body), (response_headers, response_body)] = messages;
    let headers = |list: &Value| {
        let pairs = pairs(list).into_iter();
        pairs.map(|(name, value)| format!("{}: {value}", name.to_lowercase())).collect::<Vec<_>>().join("\n")
    };
    let body = |body: Option<Vec<u8>>| {
        body.map_or("none".to_owned(), |body| String::from_utf8_lossy(&body).into_owned())
    };
    vec![
        ("url", url.as_str().unwrap().to_owned()),
        ("request_headers", headers(request_headers)),
        ("request_body", body(request_body)),
        ("response_headers", headers(response_headers)),
        ("response_body", body(response_body)),
    ]
}

fn ours(item: &Value) -> Vec<(&'static str, String)> {
    let (request, response) = (&item["request"], &item["response"]);
    let body = |message: &Value| message["body"].as_str().map(|body| BASE64_STANDARD.decode(body).unwrap());
    let messages = [(&request["headers"], body(request)), (&response["headers"], body(response))];
    comparable(&request["url"], messages)
}

fn theirs(official: &Value) -> Vec<(&'static str, String)> {
    let messages = [
        (&official["request_headers"], bytes(&official["request_body"])),
        (&official["response_headers"], bytes(&official["response_body"])),
    ];
    comparable(&official["url"], messages)
}

#[test]
fn items_differ_from_the_official_clients_as_listed() {
    let mut found = Vec::new();
    for (client, golden) in GOLDEN {
        let lines: Vec<Value> = golden.lines().map(parse).collect();
        assert_eq!(lines.len(), 42, "{client}");
        for line in &lines {
            let step = line["step"].as_str().unwrap();
            let mut differs = |what: &'static str, detail: String| {
                println!("{client} {step} {what}\n{detail}\n");
                found.push((client, step.to_owned(), what));
            };
            match (item(&everything(), logged(line)), line.get("official")) {
                (None, None) => {}
                (Some(ours), None) => differs("item", format!("{ours:#}")),
                (None, Some(_)) => differs("item", "none".to_owned()),
                (Some(item), Some(official)) => {
                    for ((what, ours), (_, theirs)) in ours(&item).into_iter().zip(theirs(official)) {
                        if ours != theirs {
                            let cut = |text: &str| text.chars().take(400).collect::<String>();
                            differs(what, format!("ours:\n{}\ntheirs:\n{}", cut(&ours), cut(&theirs)));
                        }
                    }
                }
            }
        }
    }
    let listed = DIFFERENCES.iter().flat_map(|(clients, step, what, _)| {
        let of =
            GOLDEN.iter().map(|(client, _)| *client).filter(move |client| ["*", client].contains(clients));
        of.map(|client| (client, (*step).to_owned(), *what))
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn with_the_defaults_only_url_and_response_headers_leave() {
    for (client, golden) in GOLDEN {
        for line in golden.lines().map(parse) {
            let Some(item) = item(&LogOptions::default(), logged(&line)) else { continue };
            let names = |part: &str| item[part].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            let request = names("request");
            assert!(
                ["headers", "body"].iter().all(|name| !request.iter().any(|known| known == name)),
                "{client}"
            );
            assert!(!names("response").iter().any(|name| name == "body"), "{client}");
        }
    }
}

#[test]
fn schema_refuses_what_the_hub_would() {
    let schema = jsonschema::validator_for(&parse(SCHEMA)).unwrap();
    let valid = json!({
        "uuid": "c8e07c51-2df1-448f-a846-a636fa78839c",
        "request": { "timestamp": 1.8e9, "method": "GET", "url": "http://a/b" },
        "response": { "status_code": 200, "response_time": 0.1, "size": 0 },
    });
    assert!(schema.is_valid(&valid));
    for (part, name, wrong) in [
        ("request", "url", json!("/b")),
        ("request", "url", json!("http://user:pass@a/b")),
        ("request", "path", Value::Null),
        ("request", "headers", json!([])),
        ("request", "headers", json!([["Host", "a"]])),
        ("response", "body", json!("")),
        ("response", "size", json!(-1)),
        ("response", "statusCode", json!(200)),
    ] {
        let mut item = valid.clone();
        item[part][name] = wrong.clone();
        assert!(!schema.is_valid(&item), "{part}.{name}: {wrong}");
    }
}
