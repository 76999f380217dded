//! Secrets out of queries, header values and bodies: by the names of what holds them, and where a value shows by
//! itself what it is.
//!
//! The hub's rules (hub protocol, section 11.4) and what goes beyond them, since what has left cannot be called back:
//!
//! - `api_key` is a name like `api-key`; passwords are masked in headers too.
//! - Names are looked at as the application reads them: percent-encoding and JSON's escapes are no hiding place.
//! - A number under a secret field's name is masked like a string, and so are the elements of an array there.
//! - User info of URLs and JSON Web Tokens are masked wherever they stand, and so are header values in the notation of
//!   `Authorization`.
//! - Queries inside header values (`Location`, `Referer`) are masked like the URL's, and so are URLs and JSON inside
//!   queries.
//!
//! What has no such name and no such shape stays: that `?q=hunter2` is a secret nobody can tell.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::patterns::{List, PatternError, Patterns};

const QUERY_PARAMS: [&str; 6] = ["auth", "api[-_]?key", "secret", "token", "password", "pwd"];
const HEADERS: [&str; 7] = ["auth", "api[-_]?key", "secret", "token", "cookie", "password", "pwd"];
/// Those of both generations of the official clients.
const BODY_FIELDS: [&str; 11] = [
    "password",
    "pwd",
    "token",
    "secret",
    "auth",
    "api[-_]?key",
    "card[-_ ]?number",
    "ccv",
    "cvv",
    "cvc",
    "ssn",
];

/// Schemes of credentials: what `Authorization` begins with, whatever the header is called.
const SCHEMES: [&str; 9] =
    ["basic", "bearer", "digest", "dpop", "hawk", "negotiate", "ntlm", "token", "aws4-hmac-sha256"];

/// How often a value is decoded to look at what is inside; it is twice for a URL in the query of a URL in a query. What
/// is encoded more often counts as a secret.
const MAX_DECODED: usize = 5;

/// Whose words stand for what was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Hub,
    Otlp,
}

impl Style {
    /// Stands for a value that was taken out.
    pub fn masked(self) -> &'static str {
        match self {
            Self::Hub => "******",
            Self::Otlp => "[REDACTED]",
        }
    }

    /// Stands for a body that is too large.
    pub fn too_large(self) -> &'static str {
        match self {
            Self::Hub => "<body too large>",
            Self::Otlp => "[BODY_TOO_LARGE]",
        }
    }
}

/// Patterns of the user's that are added to the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraMasks {
    pub query_params: Vec<String>,
    pub headers: Vec<String>,
    pub body_fields: Vec<String>,
}

/// Names whose values must not leave, and the taking out of these values.
#[derive(Clone, Debug)]
pub struct Masks {
    query_params: Patterns,
    headers: Patterns,
    body_fields: Patterns,
}

impl Masks {
    /// The defaults, and more.
    ///
    /// # Errors
    /// The first pattern that cannot be used.
    pub fn new(extra: &ExtraMasks) -> Result<Self, PatternError> {
        Ok(Self {
            query_params: Patterns::new(List::MaskQueryParams, &QUERY_PARAMS, &extra.query_params)?,
            headers: Patterns::new(List::MaskHeaders, &HEADERS, &extra.headers)?,
            body_fields: Patterns::new(List::MaskBodyFields, &BODY_FIELDS, &extra.body_fields)?,
        })
    }

    /// A URL's query, without its question mark. What is no secret stays byte for byte.
    pub fn query(&self, query: &str, style: Style) -> String {
        self.pairs(query, '&', style, |name| self.query_params.matches(name))
    }

    /// A body of the type `application/x-www-form-urlencoded`: a query whose parameters are fields too.
    pub fn form(&self, body: &str, style: Style) -> String {
        self.pairs(body, '&', style, |name| self.query_params.matches(name) || self.body_fields.matches(name))
    }

    /// A URL's path, whose segments may hold parameters (`;token=..`), and another URL.
    pub fn path(&self, path: &str, style: Style) -> String {
        let path = without_user_info(path, style);
        self.pairs(&path, '/', style, |name| self.query_params.matches(name))
    }

    /// A header's value; one that is no UTF-8 is read as Latin-1.
    pub fn header(&self, name: &str, value: &[u8], style: Style) -> String {
        let value = match str::from_utf8(value) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(value.iter().map(|&byte| char::from(byte)).collect()),
        };
        if self.headers.matches(name) || is_credentials(&value) || is_web_token(&value) {
            return style.masked().to_owned();
        }
        let value = without_user_info(&value, style);
        match value.find(['?', '#']) {
            // A token may stand behind either: OAuth's implicit flow puts it into the fragment.
            Some(at) => {
                let (before, query) = value.split_at(at + 1);
                format!("{before}{}", self.query(query, style))
            }
            None => value.into_owned(),
        }
    }

    /// A JSON document, without blanks between its parts and otherwise as it was written; None when it is none.
    ///
    /// Objects and arrays are walked, and an object under a secret name is judged by its own names.
    pub fn json(&self, document: &str, style: Style) -> Option<String> {
        let document = document.strip_prefix('\u{feff}').unwrap_or(document);
        serde_json::from_str::<IgnoredAny>(document).ok()?;
        Some(self.walk(document, style))
    }

    /// Text of no known structure.
    pub fn text<'a>(&self, text: &'a str, style: Style) -> Cow<'a, str> {
        if is_web_token(text) { Cow::Borrowed(style.masked()) } else { without_user_info(text, style) }
    }

    fn pairs(&self, text: &str, separator: char, style: Style, is_secret: impl Fn(&str) -> bool) -> String {
        let mut masked = String::with_capacity(text.len());
        for (index, pair) in text.split(separator).enumerate() {
            if index > 0 {
                masked.push(separator);
            }
            match self.secret_in(pair, &is_secret) {
                Some(at) => {
                    masked.push_str(&pair[..at]);
                    masked.push_str(style.masked());
                }
                None => masked.push_str(pair),
            }
        }
        masked
    }

    /// Where in a name and its value the secret begins. Some servers separate pairs by semicolons too: a secret name
    /// behind one counts, and a secret that contains one is no shorter for it.
    fn secret_in(&self, pair: &str, is_secret: impl Fn(&str) -> bool) -> Option<usize> {
        let mut start = 0;
        for part in pair.split(';') {
            if let Some((name, value)) = part.split_once('=') {
                let at = start + name.len() + 1;
                let named = || is_secret(name) || is_secret(&decoded(name));
                if at < pair.len() && (named() || self.hides_secret(value, &is_secret)) {
                    return Some(at);
                }
            } else if self.hides_secret(part, &is_secret) {
                return Some(start);
            }
            start += part.len() + 1;
        }
        None
    }

    /// Whether a value contains a URL with user info, a parameter or a field with a secret name, or is a token.
    fn hides_secret(&self, value: &str, is_secret: impl Fn(&str) -> bool) -> bool {
        let holds_pair = |text: &str| {
            text.split(['?', '#', '&', ';'])
                .filter_map(|pair| pair.split_once('='))
                .any(|(name, value)| !value.is_empty() && is_secret(name))
        };
        let holds_field = |text: &str| {
            text.starts_with(['{', '['])
                && serde_json::from_str::<IgnoredAny>(text).is_ok()
                && self.walk(text, Style::Hub).contains(Style::Hub.masked())
        };
        let mut text = Cow::Borrowed(value);
        for _ in 0..=MAX_DECODED {
            if is_web_token(&text) || user_info(&text).is_some() || holds_pair(&text) || holds_field(&text) {
                return true;
            }
            match decoded(&text) {
                Cow::Borrowed(_) => return false,
                Cow::Owned(inside) => text = Cow::Owned(inside),
            }
        }
        true
    }

    /// Copies a document that is valid, value by value. A walk without recursion: nesting is as deep as it likes.
    fn walk(&self, document: &str, style: Style) -> String {
        let mut out = String::with_capacity(document.len());
        let mut nesting: Vec<Nest> = Vec::new();
        // Whether the next string is the name of a field.
        let mut name_is_next = false;
        let mut rest = document;
        while let Some(first) = rest.chars().next() {
            let token = token(rest, first);
            rest = &rest[token.len()..];
            let secret = nesting.last().is_some_and(Nest::is_secret);
            match first {
                '{' => nesting.push(Nest::Object { secret: false }),
                '[' => nesting.push(Nest::Array { secret }),
                '}' | ']' => {
                    nesting.pop();
                }
                '"' if name_is_next => {
                    // A name that cannot be read (half of a surrogate pair) may be any.
                    let name = serde_json::from_str::<Cow<'_, str>>(token);
                    let secret = name.map_or(true, |name| self.body_fields.matches(&name));
                    if let Some(Nest::Object { secret: of_field }) = nesting.last_mut() {
                        *of_field = secret;
                    }
                }
                '"' | '-' | '0'..='9' if secret => {
                    out.push_str(&format!("\"{}\"", style.masked()));
                    continue;
                }
                '"' => {
                    out.push_str(&self.string(token, style));
                    continue;
                }
                ' ' | '\t' | '\r' | '\n' => continue,
                _ => {}
            }
            name_is_next = match first {
                '{' => true,
                ',' => matches!(nesting.last(), Some(Nest::Object { .. })),
                _ => false,
            };
            out.push_str(token);
        }
        out
    }

    /// A JSON string under a harmless name, quotes and escapes included.
    fn string<'a>(&self, token: &'a str, style: Style) -> Cow<'a, str> {
        if !token.contains(['@', '\\']) && !token.starts_with("\"eyJ") {
            return Cow::Borrowed(token);
        }
        let Ok(text) = serde_json::from_str::<Cow<'_, str>>(token) else { return Cow::Borrowed(token) };
        let masked = self.text(&text, style);
        if masked == text { Cow::Borrowed(token) } else { Cow::Owned(Value::from(masked).to_string()) }
    }
}

impl Default for Masks {
    fn default() -> Self {
        Self::new(&ExtraMasks::default()).expect("the hub's patterns are regular expressions")
    }
}

/// What a JSON value stands in, and whether its name is one of a secret.
enum Nest {
    Object { secret: bool },
    Array { secret: bool },
}

impl Nest {
    fn is_secret(&self) -> bool {
        let (Self::Object { secret } | Self::Array { secret }) = self;
        *secret
    }
}

/// The token of a valid JSON document that this text begins with.
fn token(text: &str, first: char) -> &str {
    let end = match first {
        '"' => {
            let mut escaped = true; // the quote it begins with
            text.find(|letter| {
                let ends = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                ends
            })
            .map(|quote| quote + 1)
        }
        '-' | '+' | '.' | '0'..='9' | 'a'..='z' => {
            text.find(|letter: char| letter.is_ascii_whitespace() || ",:[]{}\"".contains(letter))
        }
        _ => Some(first.len_utf8()),
    };
    &text[..end.unwrap_or(text.len())]
}

/// Percent-encoding and plus signs undone, once; borrowed when there are none.
fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        return Cow::Owned(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned());
    }
    percent_decode_str(text).decode_utf8_lossy()
}

/// Whether a value is in the notation of `Authorization`: a scheme and something behind it.
fn is_credentials(value: &str) -> bool {
    let Some((scheme, rest)) = value.trim().split_once(' ') else { return false };
    !rest.trim().is_empty() && SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme))
}

/// Whether a value is a JSON Web Token: three parts in base64, or five, of which the first is a JSON object (RFC 7515,
/// section 3.1; RFC 7516, section 3.1).
fn is_web_token(value: &str) -> bool {
    let value = value.trim();
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte);
    value.starts_with("eyJ")
        && value.split('.').all(|part| part.bytes().all(is_base64))
        && [3, 5].contains(&value.split('.').count())
}

/// The first `user:password` or `user` in front of a host (RFC 3986, section 3.2.1) and where it is, in bytes.
fn user_info(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(slashes) = text[from..].find("//") {
        let start = from + slashes + 2;
        let authority = &text[start..];
        let ends =
            |letter: char| "/?#\\\"'<>".contains(letter) || letter.is_whitespace() || letter.is_control();
        let authority = &authority[..authority.find(ends).unwrap_or(authority.len())];
        if let Some(at) = authority.rfind('@') {
            return Some((start, start + at));
        }
        from = start;
    }
    None
}

/// Every user info replaced.
fn without_user_info(text: &str, style: Style) -> Cow<'_, str> {
    let mut rest = text;
    let mut masked = String::new();
    while let Some((start, end)) = user_info(rest) {
        masked.push_str(&rest[..start]);
        masked.push_str(style.masked());
        rest = &rest[end..];
    }
    if masked.is_empty() {
        return Cow::Borrowed(text);
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

#[cfg(test)]
mod tests;
