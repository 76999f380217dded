use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use super::*;
use crate::request_log::{
    fixtures::{logged, logged_bytes},
    policy::LogOptions,
};

const OK: &str = "HTTP/1.1 200 OK\r\n\r\n";

fn everything() -> LogOptions {
    LogOptions { request_headers: true, request_body: true, response_body: true, ..LogOptions::default() }
}

fn masked(options: &LogOptions, request: &str, response: &str) -> Masked {
    Masked::new(&logged(request, response), &LogPolicy::new(options).unwrap(), Style::Hub)
}

fn body_of(content_type: &str, body: &[u8]) -> Option<String> {
    let head = format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n\r\n");
    let exchange = logged_bytes(&[head.as_bytes(), body].concat(), OK.as_bytes());
    let types =
        [LogOptions::default().content_types, vec!["application/x-www-form-urlencoded".to_owned()]].concat();
    let policy = LogPolicy::new(&LogOptions { content_types: types, ..everything() }).unwrap();
    let masked = Masked::new(&exchange, &policy, Style::Hub);
    masked.request.body.map(|body| body.iter().map(|&byte| char::from(byte)).collect())
}

#[test]
fn urls_are_those_the_client_sees() {
    let check = |request: &str, want: &str| {
        let request = format!("{request}\r\n\r\n");
        assert_eq!(masked(&LogOptions::default(), &request, OK).url.to_string(), want, "{request}");
    };
    check("GET /items HTTP/1.1\r\nHost: 127.0.0.1:8000", "http://127.0.0.1:8000/items");
    check(
        "GET /items?a=b%20c&token=d HTTP/1.1\r\nHost: [::1]:80",
        "http://[::1]:80/items?a=b%20c&token=******",
    );
    check("GET /items? HTTP/1.1\r\nhost: a", "http://a/items");
    check("GET /items HTTP/1.0", "http://unknown.invalid/items");
    check("GET / HTTP/1.1\r\nHost: a b/?x", "http://unknown.invalid/");
    check("GET / HTTP/1.1\r\nHost: user:pass@a", "http://a/");
    check("GET http://b:81/x?y=z HTTP/1.1\r\nHost: a", "http://b:81/x?y=z");
    check("GET https://b HTTP/1.1\r\nHost: a", "https://b/");
    check("GET http://user:pass@b/x HTTP/1.1\r\nHost: a", "http://b/x");
    check("GET http://user:pass@b?x HTTP/1.1\r\nHost: a", "http://b/?x");
    check("GET /a?next=http://b/c HTTP/1.1\r\nHost: a", "http://a/a?next=http://b/c");
}

#[test]
fn https_is_what_the_proxy_says() {
    let check = |fields: &str, want: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        assert_eq!(masked(&LogOptions::default(), &request, OK).url.scheme, want, "{fields}");
    };
    for name in FORWARDED_SCHEME {
        check(&format!("{name}: https"), "https");
        check(&format!("{name}: HTTPS , http"), "https");
        check(&format!("{name}: http, https"), "http");
    }
    check("Forwarded: for=1.2.3.4;proto=https;by=a, for=b;proto=http", "https");
    check("Forwarded: for=1.2.3.4, for=b;proto=https", "http");
    check("Front-End-Https: on", "https");
    check("X-Forwarded-Ssl: on", "https");
    check("X-Forwarded-Ssl: off", "http");
    check("X-Other: https", "http");
}

#[test]
fn only_what_the_policy_wants_is_there() {
    let request = "POST /x?a=1 HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n\r\nhello";
    let response = "HTTP/1.1 200 OK\r\nX-Plain: kept\r\nContent-Type: text/plain\r\n\r\nworld";
    let default = masked(&LogOptions::default(), request, response);
    assert_eq!(default.request, MaskedMessage::default());
    let names: Vec<&str> = default.response.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, default.response.body), (vec!["x-plain", "content-type"], None));

    let everything = masked(&everything(), request, response);
    assert_eq!(everything.request.headers[0], ("host".to_owned(), "a".to_owned()));
    assert_eq!(everything.request.body.as_deref(), Some(b"hello".as_slice()));
    assert_eq!(everything.response.body.as_deref(), Some(b"world".as_slice()));

    let nothing = LogOptions { query_params: false, response_headers: false, ..LogOptions::default() };
    let nothing = masked(&nothing, request, response);
    assert_eq!(nothing.url.to_string(), "http://a/x");
    assert_eq!(nothing.response, MaskedMessage::default());
}

#[test]
fn without_queries_no_url_has_one() {
    let options = LogOptions { query_params: false, ..everything() };
    let request = "GET /x?a=1 HTTP/1.1\r\nHost: a\r\nReferer: http://a/y?b=2\r\nX-Original-URI: /x?a=1\r\nSec-CH-UA-Mobile: ?0\r\n\r\n";
    let response = "HTTP/1.1 302 Found\r\nLocation: items?c=3\r\n\r\n";
    let masked = masked(&options, request, response);
    let values: Vec<&str> = masked.request.headers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["a", "http://a/y", "/x", "?0"]);
    assert_eq!(masked.response.headers[0].1, "items");
}

#[test]
fn user_info_leaves_in_no_header() {
    let request = "GET / HTTP/1.1\r\nHost: u:p@a\r\nX-Forwarded-Host: u:p@b\r\nFrom: me@c\r\n\r\n";
    let masked = masked(&everything(), request, "HTTP/1.1 302 Found\r\nLocation: http://u:p@d/\r\n\r\n");
    let values: Vec<&str> = masked.request.headers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["******@a", "******@b", "me@c"]);
    assert_eq!(masked.response.headers[0].1, "http://******@d/");
}

#[test]
fn bodies_leave_masked_or_not_at_all() {
    let check = |content_type: &str, body: &str, want: Option<&str>| {
        assert_eq!(body_of(content_type, body.as_bytes()).as_deref(), want, "{content_type}: {body}");
    };
    check("application/json", r#"{"token": "x", "a": 1}"#, Some(r#"{"token":"******","a":1}"#));
    check("Application/Problem+JSON; charset=utf-8", r#"{"token":"x"}"#, Some(r#"{"token":"******"}"#));
    check("application/json", r#"{"token": "x""#, None);
    check("application/json", "token=x", None);
    check("application/x-ndjson", "{\"token\":1}\n{\"a\":2}\n", Some("{\"token\":\"******\"}\n{\"a\":2}\n"));
    check("application/x-ndjson", "{\"token\":1}\n{\"a\"\n", None);
    check("text/plain", "hello", Some("hello"));
    // JSON that is not called so, as browsers send it across origins.
    check("text/plain", r#" {"token": "x"}"#, Some(r#"{"token":"******"}"#));
    check("text/plain", "{ \"a\": 1 }", Some("{ \"a\": 1 }"));
    check("text/plain", "db is postgres://u:p@db/x", Some("db is postgres://******@db/x"));
    check("application/x-www-form-urlencoded", "user=a&password=b", Some("user=a&password=******"));
    check("text/html", "<p>", None);
    check("multipart/form-data; boundary=x", "--x", None);
    check("text/plain", "to\0ken", None);
    assert_eq!(body_of("application/json", b"{\"a\":\"\xe9\"}"), None);
    assert_eq!(body_of("text/plain", b"caf\xe9 http://u:p@h").as_deref(), Some("caf\u{e9} http://******@h"));
}

#[test]
fn compressed_bodies_are_masked_inside_or_left_out() {
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let body = |codings: &str, bytes: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{codings}\r\n");
        let response = [head.as_bytes(), bytes].concat();
        let exchange = logged_bytes(b"GET / HTTP/1.1\r\n\r\n", &response);
        let body = Masked::new(&exchange, &LogPolicy::new(&everything()).unwrap(), Style::Hub).response.body;
        body.map(|body| String::from_utf8(body).unwrap())
    };
    let json = gzip(r#"{"token":"inside-gzip"}"#);
    let masked = Some(r#"{"token":"******"}"#.to_owned());
    assert_eq!(body("Content-Encoding: gzip\r\n", &json), masked);
    let zstd =
        ruzstd::encoding::compress_to_vec(json.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(body("Content-Encoding: gzip\r\nContent-Encoding: zstd\r\n", &zstd), masked);
    assert_eq!(body("Content-Encoding: gzip\r\n", br#"{"token":"inside-gzip"}"#), None);
    assert_eq!(body("Content-Encoding: gzip\r\n", &json[..json.len() - 1]), None);
    assert_eq!(body("Content-Encoding: x-own\r\n", &json), None);
    assert_eq!(body("", &json), None);
    for length in [50_001, 400_000] {
        let large = gzip(&format!("\"{}\"", "r".repeat(length - 2)));
        assert_eq!(body("Content-Encoding: gzip\r\n", &large).as_deref(), Some("<body too large>"));
    }
}

#[test]
fn large_bodies_leave_as_words() {
    let fits = "r".repeat(50_000);
    assert_eq!(body_of("text/plain", fits.as_bytes()).as_deref(), Some(fits.as_str()));
    assert_eq!(body_of("text/plain", format!("{fits}r").as_bytes()).as_deref(), Some("<body too large>"));
    assert_eq!(body_of("text/html", format!("{fits}r").as_bytes()), None);
    // One that grows when it is masked.
    let numbers = format!(r#"{{"token":[1{}]}}"#, ",1".repeat(20_000));
    assert_eq!(body_of("application/json", numbers.as_bytes()).as_deref(), Some("<body too large>"));
}

#[test]
fn incomplete_bodies_are_left_out() {
    let mut exchange = logged("POST / HTTP/1.1\r\nContent-Type: text/plain\r\n\r\nhello", OK);
    exchange.request.body = Body::Incomplete;
    let masked = Masked::new(&exchange, &LogPolicy::new(&everything()).unwrap(), Style::Hub);
    assert_eq!(masked.request.body, None);
}
