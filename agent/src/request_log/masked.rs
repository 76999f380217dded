//! An exchange as its policy lets it leave the host.

use std::borrow::Cow;

use crate::pipeline::{
    coding::{self, NotDecoded},
    detail::{Body, Logged, MAX_BODY, Message},
};

use super::{
    mask::{Masks, Style},
    policy::{LogPolicy, Parts},
};

/// Stands for a host that the request does not name; no real one can be called that (RFC 2606, section 2).
const NO_HOST: &str = "unknown.invalid";
/// Fields in which a proxy says how the client spoke to it; the first element counts (hub protocol, section 11.5).
const FORWARDED_SCHEME: [&str; 5] =
    ["x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-scheme", "x-url-scheme", "x-scheme"];
const FORWARDED_TLS: [&str; 2] = ["front-end-https", "x-forwarded-ssl"];
/// Fields that hold a URL, or the path and query of one.
const URL_FIELDS: [&str; 5] = ["location", "content-location", "referer", "refresh", "link"];
/// Fields that name a host, in front of which user info may stand.
const HOST_FIELDS: [&str; 2] = ["host", "x-forwarded-host"];

/// What may leave. What the policy does not want is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    pub url: Url,
    pub request: MaskedMessage,
    pub response: MaskedMessage,
}

/// What was asked for, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// With the port, if the request names one.
    pub host: String,
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedMessage {
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without its content coding; or the words that stand for one that is too large.
    pub body: Option<Vec<u8>>,
}

impl Masked {
    /// Whether it is in the log at all, [`LogPolicy::exclusions`] says.
    pub fn new(logged: &Logged, policy: &LogPolicy, style: Style) -> Self {
        Self {
            url: url(logged, policy, style),
            request: message(&logged.request, policy.request, policy, style),
            response: message(&logged.response, policy.response, policy, style),
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.host, self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

fn url(logged: &Logged, policy: &LogPolicy, style: Style) -> Url {
    // Whoever asks a proxy names scheme and host in the request line (RFC 9112, section 3.2.2).
    let (origin, rest) = match logged.target.split_once("://") {
        Some((scheme, rest)) if !logged.target.starts_with('/') => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (Some((scheme, &rest[..end])), &rest[end..])
        }
        _ => (None, logged.target.as_str()),
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let host =
        origin.map(|(_, authority)| authority).or_else(|| text(&logged.request, "host")).unwrap_or_default();
    let is_https = origin.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
        || is_forwarded_https(&logged.request);
    Url {
        scheme: if is_https { "https" } else { "http" },
        host: without_user(host).filter(|host| is_host(host)).unwrap_or(NO_HOST).to_owned(),
        path: if path.is_empty() { "/".to_owned() } else { policy.masks.path(path, style) },
        query: query
            .filter(|query| policy.query_params && !query.is_empty())
            .map(|query| policy.masks.query(query, style)),
    }
}

/// What is behind the user info of an authority.
fn without_user(authority: &str) -> Option<&str> {
    authority.rsplit('@').next().map(str::trim)
}

/// Whether it can stand in a URL: a name or an address, and a port (RFC 3986, section 3.2.2).
fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte))
}

fn is_forwarded_https(request: &Message) -> bool {
    let first = |name| text(request, name).map(|value| value.split(',').next().unwrap_or_default().trim());
    FORWARDED_SCHEME.iter().any(|name| first(name).is_some_and(|value| value.eq_ignore_ascii_case("https")))
        || first("forwarded").is_some_and(|value| value.to_ascii_lowercase().contains("proto=https"))
        || FORWARDED_TLS.iter().any(|name| first(name).is_some_and(|value| value.eq_ignore_ascii_case("on")))
}

/// The first value under this name, if it is text.
fn text<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.field(name).and_then(|value| str::from_utf8(value).ok())
}

fn message(message: &Message, parts: Parts, policy: &LogPolicy, style: Style) -> MaskedMessage {
    let headers = message.fields.iter().filter(|_| parts.headers);
    MaskedMessage {
        headers: headers.map(|(name, value)| header(name, value, policy, style)).collect(),
        body: if parts.body { body(message, policy, style) } else { None },
    }
}

fn header(name: &str, value: &[u8], policy: &LogPolicy, style: Style) -> (String, String) {
    let name = name.to_ascii_lowercase();
    let mut masked = policy.masks.header(&name, value, style);
    if HOST_FIELDS.contains(&name.as_str())
        && let Some(at) = masked.rfind('@')
    {
        masked.replace_range(..at, style.masked());
    }
    let is_url = URL_FIELDS.contains(&name.as_str()) || masked.starts_with('/') || masked.contains("://");
    if !policy.query_params && is_url {
        masked.truncate(masked.find(['?', '#']).unwrap_or(masked.len()));
    }
    (name, masked)
}

/// The body as it may leave; None also for one that cannot be masked as its type says.
fn body(message: &Message, policy: &LogPolicy, style: Style) -> Option<Vec<u8>> {
    let field = |name| String::from_utf8_lossy(message.field(name).unwrap_or_default()).to_ascii_lowercase();
    let content_type = field("content-type");
    let too_large = || Some(style.too_large().as_bytes().to_vec());
    if !policy.takes_type(content_type.trim()) {
        return None;
    }
    let bytes = match &message.body {
        Body::None | Body::Incomplete => return None,
        Body::TooLarge => return too_large(),
        // What cannot be decoded cannot be masked.
        Body::Whole(bytes) => match coding::decode(bytes, &content_encoding(message)) {
            Ok(bytes) if bytes.len() <= MAX_BODY => bytes,
            Ok(_) | Err(NotDecoded::TooLarge) => return too_large(),
            Err(_) => return None,
        },
    };
    let masked = masked_body(&bytes, &content_type, &policy.masks, style)?;
    match masked.len() {
        0 => None,
        1..=MAX_BODY => Some(masked),
        _ => too_large(),
    }
}

/// Every value of the field, as one list (RFC 9110, section 5.3).
fn content_encoding(message: &Message) -> Vec<u8> {
    let values = message.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
    values.map(|(_, value)| value.as_slice()).collect::<Vec<_>>().join(&b',')
}

fn masked_body(bytes: &[u8], content_type: &str, masks: &Masks, style: Style) -> Option<Vec<u8>> {
    if content_type.contains("json") {
        let text = str::from_utf8(bytes).ok()?;
        let is_lines =
            ["ndjson", "jsonl", "json-seq", "stream+json"].iter().any(|name| content_type.contains(name));
        let masked = if is_lines { json_lines(text, masks, style) } else { masks.json(text, style) };
        return masked.map(String::into_bytes);
    }
    // Text is not binary, nor in two bytes a letter, where nothing would be found.
    if bytes.contains(&0) {
        return None;
    }
    let Ok(text) = str::from_utf8(bytes) else {
        // Read as Latin-1, in which every byte is a letter, and written so again: ours are ASCII.
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        let masked = masked_text(&text, content_type, masks, style);
        return masked.chars().map(|letter| u8::try_from(letter).ok()).collect();
    };
    Some(masked_text(text, content_type, masks, style).into_owned().into_bytes())
}

/// One document in each line; none at all when one of them is no JSON.
fn json_lines(text: &str, masks: &Masks, style: Style) -> Option<String> {
    let mut masked = String::with_capacity(text.len());
    // A record separator begins each one in RFC 7464.
    for line in text.split_inclusive('\n') {
        let document = line.trim_matches(['\u{1e}', '\n', '\r', ' ']);
        if !document.is_empty() {
            masked.push_str(&masks.json(document, style)?);
        }
        masked.push('\n');
    }
    Some(masked)
}

/// Text that is a document or a form is masked as such; it may be sent as what it is not.
fn masked_text<'a>(text: &'a str, content_type: &str, masks: &Masks, style: Style) -> Cow<'a, str> {
    if content_type.starts_with("application/x-www-form-urlencoded") {
        return Cow::Owned(masks.form(text, style));
    }
    let document = masks.json(text, style).filter(|masked| masked.contains(style.masked()));
    document.map_or_else(|| masks.text(text, style), Cow::Owned)
}

#[cfg(test)]
mod tests;
