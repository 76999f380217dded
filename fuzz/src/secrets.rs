//! The request log: a secret that is planted where the log's patterns say that secrets are leaves the host in no form.

use std::{
    fmt::Write as _,
    io::Write as _,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use agent::{
    pipeline::{
        Ktime,
        detail::{Body, Logged, Message},
        http::head::Method,
    },
    request_log::{
        RequestLog,
        item::{Item, WallClock},
        mask::{Masks, Style},
        policy::{LogOptions, LogPolicy},
    },
};
use arbitrary::{Result, Unstructured};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use percent_encoding::percent_decode;
use serde_json::Value;

/// What must not leave. Its letters are in nothing else that is made up here.
const SECRET: &str = "QXZ7QXZ9QXZ";
/// Likewise, where only digits can stand.
const NUMBER: &str = "7318527318";
const SECRET_NAMES: [&str; 8] =
    ["auth", "api-key", "apikey", "api_key", "secret", "token", "password", "pwd"];
const SECRET_FIELDS: [&str; 8] = ["password", "pwd", "token", "secret", "auth", "card number", "ccv", "ssn"];
const NAMES: [&str; 6] = ["a", "id", "x-plain", "name", "items", "next"];
const TEXTS: [&str; 7] = ["", "1", "kept", "a b", "me@host", "/x", "100%"];

static POLICY: LazyLock<Arc<LogPolicy>> = LazyLock::new(|| {
    let types =
        ["application/json", "application/x-ndjson", "application/x-www-form-urlencoded", "text/plain"];
    let options = LogOptions {
        request_headers: true,
        request_body: true,
        response_body: true,
        content_types: types.map(str::to_owned).to_vec(),
        ..LogOptions::default()
    };
    Arc::new(LogPolicy::new(&options).expect("there are no patterns of the user's"))
});

/// The bytes are text as it may come, and choices of what to plant where.
pub fn check(input: &[u8]) {
    check_noise(input);
    let mut choices = Unstructured::new(input);
    while !choices.is_empty() {
        let Ok(logged) = exchange(&mut choices) else { return };
        check_item(logged);
    }
}

/// Whatever comes is masked without a panic; masked JSON is JSON.
fn check_noise(input: &[u8]) {
    let masks = &POLICY.masks;
    masks.header("location", input, Style::Hub);
    let text = String::from_utf8_lossy(input);
    masks.query(&text, Style::Hub);
    masks.path(&text, Style::Otlp);
    masks.form(&text, Style::Hub);
    masks.text(&text, Style::Otlp);
    check_json(masks, &text);
}

fn check_json(masks: &Masks, text: &str) {
    let Some(masked) = masks.json(text, Style::Hub) else { return };
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&masked).is_ok(), "{text}\n{masked}");
    assert_eq!(masks.json(&masked, Style::Hub).as_deref(), Some(masked.as_str()), "masked twice");
}

fn check_item(logged: Logged) {
    let mut log = RequestLog::new(Arc::clone(&POLICY));
    let shown = format!("{logged:?}");
    log.add(logged, Instant::now());
    let clock = WallClock { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 31), ktime: Ktime(1) };
    for item in log.take_items(&clock) {
        let found = texts_of(&item).into_iter().find(|text| shows_secret(text));
        assert!(
            found.is_none(),
            "{:?} in {shown}",
            found.map(|text| String::from_utf8_lossy(&text).into_owned())
        );
    }
}

/// Everything in an item that could show something; bodies as they were before base64.
fn texts_of(item: &Item) -> Vec<Vec<u8>> {
    let line = serde_json::to_vec(item).expect("items are plain data");
    let bodies = [&item.request.body, &item.response.body].into_iter().flatten();
    let bodies = bodies.map(|body| BASE64_STANDARD.decode(body).expect("bodies are in base64"));
    std::iter::once(line).chain(bodies).collect()
}

/// Whether it is there, as it is or behind up to three layers of percent-encoding or in JSON's escapes.
fn shows_secret(text: &[u8]) -> bool {
    let holds = |text: &[u8]| {
        [SECRET, NUMBER]
            .iter()
            .any(|secret| text.windows(secret.len()).any(|window| window == secret.as_bytes()))
    };
    let mut decoded = text.to_vec();
    for _ in 0..3 {
        if holds(&decoded) {
            return true;
        }
        decoded = percent_decode(&decoded).collect();
    }
    let lines =
        text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    holds(&decoded) || lines.into_iter().any(|value| holds(format!("{value:?}").as_bytes()))
}

fn exchange(choices: &mut Unstructured<'_>) -> Result<Logged> {
    let methods = [Method::GET, Method::HEAD];
    let target = match choices.int_in_range(0..=3)? {
        0 => format!("http://user:{SECRET}@host/x"),
        1 => format!("/proxy/{}http://user:{SECRET}@host/", text(choices)?.replace(['/', '%'], "")),
        _ => format!("/items/{}?{}", choices.int_in_range(0..=99)?, query(choices, 3)?),
    };
    Ok(Logged {
        head_received: Ktime(0),
        first_byte: Ktime(0),
        last_byte: Ktime(0),
        response_time: Duration::ZERO,
        method: Some(*choices.choose(&methods)?),
        route: None,
        consumer: None,
        status: 200,
        request_size: None,
        response_size: None,
        client: None,
        target,
        request: message(choices)?,
        response: message(choices)?,
    })
}

fn message(choices: &mut Unstructured<'_>) -> Result<Message> {
    let mut fields = Vec::new();
    for _ in 0..choices.int_in_range(0..=4)? {
        fields.push(field(choices)?);
    }
    let (content_type, body) = match choices.int_in_range(0..=4)? {
        0 => return Ok(Message { fields, body: Body::None }),
        1 => ("application/x-www-form-urlencoded", query(choices, 2)?),
        2 => {
            let lines: Result<String> = (0..choices.int_in_range(1..=3)?)
                .map(|_| Ok(format!("{}\n", document(choices, Under::Harmless, 3)?.replace('\n', " "))))
                .collect();
            ("application/x-ndjson", lines?)
        }
        3 => ("text/plain; charset=utf-8", document(choices, Under::Harmless, 4)?),
        _ => ("application/json", document(choices, Under::Harmless, 4)?),
    };
    fields.push(("Content-Type".to_owned(), content_type.as_bytes().to_vec()));
    let mut body = body.into_bytes();
    for _ in 0..choices.int_in_range(0..=2)? {
        let (coding, encoded) = match choices.int_in_range(0..=3)? {
            0 => ("gzip", gzip(&body)),
            1 => ("br", brotli(&body)),
            2 => ("zstd", zstd(&body)),
            _ => continue,
        };
        body = encoded;
        fields.push(("Content-Encoding".to_owned(), coding.as_bytes().to_vec()));
    }
    Ok(Message { fields, body: Body::Whole(body) })
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory can be written to")
}

/// Uncompressed meta-blocks (RFC 7932, section 9.2).
fn brotli(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, block) in body.chunks(4096).enumerate() {
        // The first one has the window size in front, a bit. Not the last, four nibbles of length, uncompressed.
        let shift = if index == 0 { 1 } else { 0 };
        let header = ((block.len() as u32 - 1) << 3 | 1 << 19) << shift;
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    // The last one, empty.
    out.push(if body.is_empty() { 0b110 } else { 0b11 });
    out
}

/// Raw blocks (RFC 8878, section 3.1.1.2).
fn zstd(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    for block in body.chunks(4096) {
        out.extend_from_slice(&((block.len() as u32) << 3).to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&[1, 0, 0]);
    out
}

fn field(choices: &mut Unstructured<'_>) -> Result<(String, Vec<u8>)> {
    let (name, value) = match choices.int_in_range(0..=5)? {
        0 => (secret_name(choices, &SECRET_NAMES)?.replace(' ', "-"), format!("{}{SECRET}", text(choices)?)),
        1 => (
            (*choices.choose(&["Cookie", "Set-Cookie"])?).to_owned(),
            format!("a=b; session={SECRET}; Path=/"),
        ),
        2 => {
            (name(choices)?, format!("{} {SECRET}", choices.choose(&["Bearer", "basic", "Token", "DIGEST"])?))
        }
        3 => ("Location".to_owned(), format!("{}?{}", text(choices)?, query(choices, 3)?)),
        4 => ("Referer".to_owned(), format!("https://u:{SECRET}@host/{}", text(choices)?)),
        _ => (name(choices)?, text(choices)?),
    };
    Ok((name, value.into_bytes()))
}

/// Pairs of which any may hold the secret under its name, percent-encoded or in a URL inside.
fn query(choices: &mut Unstructured<'_>, depth: u8) -> Result<String> {
    let mut query = String::new();
    for index in 0..choices.int_in_range(0..=4)? {
        if index > 0 {
            query.push(if choices.ratio(1, 5)? { ';' } else { '&' });
        }
        match choices.int_in_range(0..=4)? {
            0 | 1 => {
                let name = secret_name(choices, &SECRET_NAMES)?;
                let name = encoded(choices, &name)?;
                let value = encoded(choices, SECRET)?;
                let _ = write!(query, "{name}={value}");
            }
            2 if depth > 0 => {
                let inside = format!("/cb?{}", self::query(choices, depth - 1)?);
                let _ = write!(query, "{}={}", name(choices)?, all_encoded(&inside));
            }
            3 => {
                let url = format!("http://user:{SECRET}@host/");
                let url = if choices.arbitrary()? { all_encoded(&url) } else { url };
                let _ = write!(query, "{}={url}", name(choices)?);
            }
            _ => {
                let value = text(choices)?;
                let _ = write!(query, "{}={}", name(choices)?, all_encoded(&value));
            }
        }
    }
    Ok(query)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Under {
    Secret,
    Harmless,
}

/// A JSON document: under a secret name a string or a number is the secret, or what is in an array there.
fn document(choices: &mut Unstructured<'_>, under: Under, depth: u8) -> Result<String> {
    let blank = *choices.choose(&["", " ", "\n\t"])?;
    let value = match choices.int_in_range(0..=5)? {
        0 | 1 if depth > 0 => {
            let mut fields = Vec::new();
            for _ in 0..choices.int_in_range(0..=3)? {
                let (name, under) = if choices.arbitrary()? {
                    (secret_name(choices, &SECRET_FIELDS)?, Under::Secret)
                } else {
                    (name(choices)?, Under::Harmless)
                };
                let value = document(choices, under, depth - 1)?;
                fields.push(format!("{}{blank}:{value}", escaped(choices, &name)?));
            }
            format!("{{{blank}{}}}", fields.join(","))
        }
        2 if depth > 0 => {
            let elements: Result<Vec<_>> =
                (0..choices.int_in_range(0..=3)?).map(|_| document(choices, under, depth - 1)).collect();
            format!("[{blank}{}]", elements?.join(","))
        }
        3 if under == Under::Secret => NUMBER.to_owned(),
        4 => escaped(choices, &format!("postgres://u:{SECRET}@db/x"))?,
        _ if under == Under::Secret => escaped(choices, SECRET)?,
        _ => (*choices.choose(&["true", "null", "-1.50", "\"kept\"", "12345678901234567890"])?).to_owned(),
    };
    Ok(format!("{blank}{value}{blank}"))
}

/// A JSON string, letters escaped here and there.
fn escaped(choices: &mut Unstructured<'_>, text: &str) -> Result<String> {
    let mut string = String::from('"');
    for letter in text.chars() {
        match letter {
            '/' if choices.ratio(1, 2)? => string.push_str("\\/"),
            _ if choices.ratio(1, 8)? => {
                let _ = write!(string, "\\u{:04X}", u32::from(letter));
            }
            _ => string.push(letter),
        }
    }
    string.push('"');
    Ok(string)
}

/// A name that says that it has a secret, in any case and with more around it.
fn secret_name(choices: &mut Unstructured<'_>, names: &[&str]) -> Result<String> {
    let name = choices.choose(names)?;
    let mut around = String::from(*choices.choose(&["", "x-", "my", "user_"])?);
    for letter in name.chars() {
        around.push(if choices.arbitrary()? { letter.to_ascii_uppercase() } else { letter });
    }
    around.push_str(choices.choose(&["", "s", "-2", "_id"])?);
    Ok(around)
}

fn name(choices: &mut Unstructured<'_>) -> Result<String> {
    choices.choose(&NAMES).map(|name| (*name).to_owned())
}

fn text(choices: &mut Unstructured<'_>) -> Result<String> {
    choices.choose(&TEXTS).map(|text| (*text).to_owned())
}

/// Percent-encoded here and there; blanks always.
fn encoded(choices: &mut Unstructured<'_>, text: &str) -> Result<String> {
    let mut out = String::new();
    for letter in text.chars() {
        if letter == ' ' || choices.ratio(1, 6)? {
            let _ = write!(out, "%{:02x}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    Ok(out)
}

/// Percent-encoded wherever a query would take it for something else.
fn all_encoded(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() {
            out.push(letter);
        } else {
            let _ = write!(out, "%{:02X}", u32::from(letter));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use agent::pipeline::coding::decode;

    use super::*;

    #[test]
    fn what_shows_is_seen() {
        assert!(shows_secret(SECRET.as_bytes()) && shows_secret(NUMBER.as_bytes()));
        assert!(shows_secret(SECRET.replace('X', "%2558").as_bytes()));
        assert!(shows_secret(format!("\"{}\"", SECRET.replace('X', "\\u0058")).as_bytes()));
        assert!(!shows_secret(b"******"));
    }

    #[test]
    fn what_is_encoded_can_be_decoded() {
        for length in [0, 1, 4096, 10_000] {
            let body = "x".repeat(length).into_bytes();
            for (coding, encoded) in [("gzip", gzip(&body)), ("br", brotli(&body)), ("zstd", zstd(&body))] {
                assert_eq!(decode(&encoded, coding.as_bytes()).as_deref(), Ok(body.as_slice()), "{coding}");
            }
        }
    }
}
