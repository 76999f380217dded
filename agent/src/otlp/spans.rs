//! The request log as OTLP's spans: one of kind SERVER for each exchange (protocol page, section 14.5).
//!
//! What may leave the host was decided before, by the request log's policy; nothing here masks anything, and nothing
//! is taken from the unmasked exchange but what no policy is about: times, sizes, status, route, client.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{ArrayValue, KeyValue, any_value::Value},
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};

use super::value::{any, attribute, cut, integer, text};
use crate::{
    pipeline::detail::{Logged, Message},
    request_log::{
        item::WallClock,
        masked::{Masked, MaskedMessage},
        trace::TraceContext,
    },
};

/// Whether the parent is of another process is known (`SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` in the protocol), and it
/// is (`SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`).
const KNOWS_PARENT: u32 = 0x100;
const HAS_REMOTE_PARENT: u32 = 0x200;
/// Characters of a route, and bytes of `tracestate` (W3C Trace Context, section 3.3.1.5).
const MAX_ROUTE: usize = 2048;
const MAX_TRACE_STATE: usize = 512;

/// The span of an exchange. It belongs to the trace that the request says it is of, or to a new one.
pub fn span(logged: &Logged, masked: &Masked, clock: &WallClock) -> Span {
    let context = TraceContext::of(&logged.request);
    let method = logged.method.as_ref().map_or("_OTHER", |method| method.as_str());
    let route = logged.route.as_deref().map(|route| cut(route, MAX_ROUTE));
    let failed = logged.status >= 500;
    let nanos = |time| u64::try_from(clock.at(time).as_nanos()).unwrap_or(u64::MAX);
    let start = nanos(logged.head_received);
    Span {
        trace_id: context
            .as_ref()
            .map_or_else(|| fastrand::u128(1..).to_be_bytes().to_vec(), |context| bytes(&context.trace_id)),
        span_id: fastrand::u64(1..).to_be_bytes().to_vec(),
        trace_state: context.as_ref().and_then(|_| trace_state(&logged.request)).unwrap_or_default(),
        parent_span_id: context.as_ref().map(|context| bytes(&context.parent_id)).unwrap_or_default(),
        flags: KNOWS_PARENT | if context.is_some() { HAS_REMOTE_PARENT } else { 0 },
        name: route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: nanos(logged.last_byte).max(start),
        attributes: attributes(logged, masked, method, route),
        status: Some(Status {
            code: if failed { StatusCode::Error.into() } else { StatusCode::Unset.into() },
            ..Status::default()
        }),
        ..Span::default()
    }
}

fn attributes(logged: &Logged, masked: &Masked, method: &str, route: Option<&str>) -> Vec<KeyValue> {
    let Masked { url, request, response } = masked;
    let (host, port) = host_and_port(&url.host);
    let mut found = vec![
        text("http.request.method", method),
        integer("http.response.status_code", logged.status.into()),
        text("url.scheme", url.scheme),
        text("url.path", &url.path),
        text("server.address", host),
        integer("server.port", port.unwrap_or(if url.scheme == "https" { 443 } else { 80 }).into()),
        text("network.protocol.version", "1.1"),
    ];
    found.extend(route.map(|route| text("http.route", route)));
    found.extend(url.query.iter().map(|query| text("url.query", query)));
    if let Some(client) = logged.client {
        found.push(text("client.address", &client.ip().to_canonical().to_string()));
        found.push(integer("client.port", client.port().into()));
    }
    found.extend(user_agent(&logged.request).map(|agent| text("user_agent.original", agent)));
    found.extend(logged.request_size.map(|size| integer("http.request.body.size", size)));
    found.extend(logged.response_size.map(|size| integer("http.response.body.size", size)));
    found.extend(logged.consumer.iter().map(|consumer| text("apitally.consumer.identifier", consumer)));
    if logged.status >= 500 {
        found.push(text("error.type", &logged.status.to_string()));
    }
    for (message, side) in [(request, "request"), (response, "response")] {
        found.extend(headers(message, side));
        found.extend(
            message.body.as_ref().map(|body| attribute(&format!("apitally.{side}.body"), content(body))),
        );
    }
    found
}

/// Fields of the same name are the values of one attribute, in order.
fn headers(message: &MaskedMessage, side: &str) -> impl Iterator<Item = KeyValue> {
    let mut values: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, value) in &message.headers {
        values.entry(name).or_default().push(any(Value::StringValue(value.clone())));
    }
    values.into_iter().map(move |(name, values)| {
        attribute(&format!("http.{side}.header.{name}"), Value::ArrayValue(ArrayValue { values }))
    })
}

/// Text where it is text.
fn content(body: &[u8]) -> Value {
    match str::from_utf8(body) {
        Ok(text) => Value::StringValue(text.to_owned()),
        Err(_) => Value::BytesValue(body.to_vec()),
    }
}

/// The port is behind the last colon, unless that is inside of an IPv6 address.
fn host_and_port(host: &str) -> (&str, Option<u16>) {
    let port = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    match port {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// The only header that leaves by itself: what the client is.
fn user_agent(request: &Message) -> Option<&str> {
    request.field("user-agent").and_then(|value| str::from_utf8(value).ok()).filter(|value| !value.is_empty())
}

/// Several fields are one list (W3C Trace Context, section 3.3.1). One that is too long is dropped.
fn trace_state(request: &Message) -> Option<String> {
    let fields = request.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("tracestate"));
    let values: Option<Vec<&str>> =
        fields.map(|(_, value)| str::from_utf8(value).ok().map(str::trim)).collect();
    Some(values?.join(",")).filter(|state| state.len() <= MAX_TRACE_STATE)
}

/// What pairs of hexadecimal digits stand for.
fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        for (text, want) in [
            ("example.com", ("example.com", None)),
            ("example.com:8080", ("example.com", Some(8080))),
            ("[::1]:80", ("[::1]", Some(80))),
            ("[::1]", ("[::1]", None)),
            ("h:x", ("h:x", None)),
        ] {
            assert_eq!(host_and_port(text), want);
        }
    }

    #[test]
    fn ids_are_bytes() {
        assert_eq!(bytes("00f067aa0ba902b7"), [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
    }
}
