//! One request after the other to the apps of `tests/e2e/apps/official`, for each thing that clients and servers treat
//! in ways of their own.

use crate::client::{Client, Request};

/// A request, and what it is there for.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: &'static str,
    pub request: Request,
}

const GOOD: &str = r#"{"name": "Widget", "price": 9.5}"#;
const BAD: &str = r#"{"name": "x", "price": -1}"#;
const LOGIN: &str = r#"{
    "username": "alice",
    "password": "p-1",
    "card": {"card number": "4000", "ccv": 123, "holder": "A"},
    "tokens": [{"refresh_token": "r-1", "kind": "t"}]
}"#;

/// Sends all of them, each over a connection of its own.
pub fn take(client: &Client) {
    for step in steps() {
        client.send_fresh(&step.request);
    }
}

/// All of them, in the order in which they are sent.
pub fn steps() -> Vec<Step> {
    let get = Request::get;
    let echo = |bytes: &[u8]| Request::new("POST", "/echo").field("Content-Type", "text/plain").sized(bytes);
    let private = |key: &str| get("/private").field("X-API-Key", key);
    let steps = [
        ("list", get("/items")),
        ("list_query", get("/items?limit=2&token=secret-value&q=a%20b")),
        ("create", Request::new("POST", "/items").json(GOOD)),
        ("create_invalid", Request::new("POST", "/items").json(BAD)),
        ("create_empty", Request::new("POST", "/items").json("{}")),
        ("get", get("/items/3")),
        ("get_missing", get("/items/999")),
        ("get_not_int", get("/items/abc")),
        ("put", Request::new("PUT", "/items/3").json(GOOD)),
        ("delete", Request::new("DELETE", "/items/3")),
        ("two_params", get("/users/u-1/orders/o-2?expand=lines")),
        ("private_anonymous", get("/private")),
        ("private_alice", private("key-alice")),
        ("private_alice_again", private("key-alice")),
        ("private_bob", private("key-bob")),
        ("private_long", private(&"k".repeat(200))),
        ("invalid_alice", Request::new("POST", "/items").field("X-API-Key", "key-alice").json(BAD)),
        (
            "login",
            Request::new("POST", "/login")
                .field("Authorization", "Bearer b-1")
                .field("Cookie", "session=c-1")
                .field("X-Plain", "kept")
                .json(LOGIN),
        ),
        ("error", get("/error")),
        ("error_alice", get("/error").field("X-API-Key", "key-alice")),
        ("stream", get("/stream")),
        ("gzip", get("/gzip").field("Accept-Encoding", "gzip")),
        ("text", get("/text")),
        ("html", get("/html")),
        ("big_response", get("/big")),
        ("edge_ok", get("/edge/ok")),
        ("edge_over", get("/edge/over")),
        ("echo_small", echo(b"hello")),
        ("echo_edge", echo(&[b'r'; 50_000])),
        ("echo_big", echo(&[b'r'; 60_000])),
        (
            "echo_chunked",
            Request::new("POST", "/echo")
                .field("Content-Type", "text/plain")
                .chunked(b"part one, part two", &[10, 8])
                .plainly(),
        ),
        (
            "echo_binary",
            Request::new("POST", "/echo")
                .field("Content-Type", "application/octet-stream")
                .sized(&(0..=255).collect::<Vec<u8>>()),
        ),
        ("slow", get("/slow")),
        ("redirect", get("/redirect")),
        ("head", Request::new("HEAD", "/items")),
        (
            "options",
            Request::new("OPTIONS", "/items")
                .field("Origin", "http://a.example")
                .field("Access-Control-Request-Method", "GET"),
        ),
        ("unmatched", get("/nope/42")),
        ("method_not_allowed", Request::new("PATCH", "/items/3").json(GOOD)),
        ("healthz", get("/healthz")),
        ("probe_agent", get("/items/1").field("User-Agent", "kube-probe/1.29")),
        (
            "forwarded_https",
            get("/items/2?b=2&a=1").field("X-Forwarded-Proto", "https").host("api.example.com"),
        ),
        ("trailing_slash", get("/items/")),
    ];
    steps.into_iter().map(|(name, request)| Step { name, request }).collect()
}
