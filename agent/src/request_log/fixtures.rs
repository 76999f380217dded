//! Exchanges for tests, out of heads and bodies as they are on the wire.

use std::time::Duration;

use crate::pipeline::{
    Ktime,
    detail::{Body, Logged, MAX_BODY, Message},
    http::head::Method,
};

/// An exchange whose request's head was complete at 1 s and whose response took 40 ms. What stands behind the empty
/// lines is the bodies. It matches no route.
pub fn logged(request: &str, response: &str) -> Logged {
    logged_bytes(request.as_bytes(), response.as_bytes())
}

pub fn logged_bytes(request: &[u8], response: &[u8]) -> Logged {
    let (start, request, request_size) = message(request);
    let mut words = start.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (status_line, response, response_size) = message(response);
    Logged {
        head_received: Ktime(1_000_000_000),
        first_byte: Ktime(1_030_000_000),
        last_byte: Ktime(1_040_000_000),
        response_time: Duration::from_millis(40),
        method: Method::new(method),
        route: None,
        consumer: None,
        status: status_line.split(' ').nth(1).unwrap().parse().unwrap(),
        request_size,
        response_size,
        client: None,
        target: target.to_owned(),
        request,
        response,
    }
}

fn message(bytes: &[u8]) -> (String, Message, Option<u64>) {
    let end =
        bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends in an empty line");
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let mut lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let start = String::from_utf8(lines.next().unwrap().to_vec()).unwrap();
    let fields = lines.map(|line| {
        let colon = line.iter().position(|&byte| byte == b':').expect("a field has a colon");
        let name = String::from_utf8(line[..colon].to_vec()).unwrap();
        (name, line[colon + 1..].trim_ascii().to_vec())
    });
    let kept = match body.len() {
        0 => Body::None,
        1..=MAX_BODY => Body::Whole(body.to_vec()),
        _ => Body::TooLarge,
    };
    let size = (!body.is_empty()).then_some(body.len() as u64);
    (start, Message { fields: fields.collect(), body: kept }, size)
}
