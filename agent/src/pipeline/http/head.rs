//! Start lines and fields. Heads are parsed where they lie; nothing of them is kept.

use agent_common::limits::ROLE_PREFIX;
use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig};

use super::framing::BodyFields;

/// Fields of one head. A head with more is refused.
pub const MAX_FIELDS: usize = 128;

/// Bytes of one head, start line included. A longer one is refused.
pub const MAX_HEAD: usize = 64 * 1024;

/// What every response begins with; what does not is foreign from the first byte that differs.
pub const RESPONSE_PREFIX: &[u8] = b"HTTP/1.";
/// How a handshake record of any version of TLS begins (RFC 8446 section 5.1): its type, and the first half of a version.
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

/// Longest PROXY protocol v1 line, its line end included, bytes (section 2.1 of that specification).
const MAX_PROXY_LINE: usize = 107;

/// A request method, upper case, `[A-Z-]{1,16}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method {
    /// Padded with zeros.
    bytes: [u8; 16],
}

impl Method {
    pub const GET: Method = Method::known(b"GET");
    pub const HEAD: Method = Method::known(b"HEAD");
    pub const OPTIONS: Method = Method::known(b"OPTIONS");
    pub const CONNECT: Method = Method::known(b"CONNECT");

    /// Turned to upper case; None for what the hub does not take.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        if name.is_empty() || name.len() > bytes.len() {
            return None;
        }
        for (slot, byte) in bytes.iter_mut().zip(name.bytes()) {
            *slot = byte.to_ascii_uppercase();
            if !slot.is_ascii_uppercase() && *slot != b'-' {
                return None;
            }
        }
        Some(Self { bytes })
    }

    const fn known(name: &[u8]) -> Self {
        let mut bytes = [0; 16];
        let (start, _) = bytes.split_at_mut(name.len());
        start.copy_from_slice(name);
        Self { bytes }
    }

    pub fn as_str(&self) -> &str {
        let length = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(self.bytes.len());
        self.bytes.get(..length).and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
    }
}

/// A complete request head.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// Bytes, up to and including the empty line.
    pub length: usize,
    /// None for a method the hub does not take.
    pub method: Option<Method>,
    /// What the request line asks for, as it was sent.
    pub target: &'a str,
    /// Its path, without query; None when it has none (`*`, an authority).
    pub path: Option<&'a str>,
    pub body: BodyFields,
    pub fields: &'a [Header<'a>],
}

/// A complete response head.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// Bytes, up to and including the empty line.
    pub length: usize,
    pub status: u16,
    pub body: BodyFields,
    pub fields: &'a [Header<'a>],
}

/// Why bytes are not a whole head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAHead {
    /// It goes on in bytes that have not come yet.
    Partial,
    /// The start line is HTTP/1.x; something in it or after it breaks the rules or our bounds.
    Malformed,
    /// It goes on beyond what may be kept of incomplete heads.
    TooLarge,
    /// The preface of HTTP/2 (RFC 9113 section 3.4).
    Http2,
    /// The handshake of TLS.
    Tls,
    /// Not HTTP.
    Foreign,
}

/// Room for the fields of a head, on the stack of whoever parses.
pub type FieldRoom<'a> = [MaybeUninit<Header<'a>>; MAX_FIELDS];

pub const fn field_room<'a>() -> FieldRoom<'a> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Reads a request head from the front of `bytes`.
///
/// # Errors
/// When there is no whole head, see [`NotAHead`].
pub fn parse_request<'a>(bytes: &'a [u8], room: &'a mut FieldRoom<'a>) -> Result<RequestHead<'a>, NotAHead> {
    if bytes.starts_with(&TLS_HANDSHAKE) {
        return Err(NotAHead::Tls);
    }
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(NotAHead::Partial),
        Err(_) => {
            let lines = complete_lines(bytes);
            let mut request = httparse::Request::new(&mut []);
            return Err(match request.parse_with_uninit_headers(lines, &mut field_room()) {
                Ok(_) => NotAHead::Partial,
                Err(_) => name_the_fault(lines),
            });
        }
    };
    let mut body = BodyFields::default();
    for field in request.headers.iter() {
        body.add(field.name, field.value);
    }
    let target = request.path.unwrap_or_default();
    Ok(RequestHead {
        length,
        method: Method::new(request.method.unwrap_or_default()),
        target,
        path: path_of(target),
        body,
        fields: request.headers,
    })
}

/// Whether `bytes` may be the beginning of a request, as far as they show it: a method (RFC 9110 section 5.6.2,
/// token) that is not endless, and a space. Empty lines before it are skipped.
pub fn may_begin_request(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    method <= ROLE_PREFIX && line.get(method).is_none_or(|byte| *byte == b' ')
}

/// Reads a response head from the front of `bytes`.
///
/// # Errors
/// When there is no whole head, see [`NotAHead`].
pub fn parse_response<'a>(
    bytes: &'a [u8],
    room: &'a mut FieldRoom<'a>,
) -> Result<ResponseHead<'a>, NotAHead> {
    // httparse skips empty lines here, and would wait for more of what cannot become a response.
    let known = RESPONSE_PREFIX.iter().zip(bytes).all(|(want, got)| want == got);
    if !known {
        return Err(NotAHead::Foreign);
    }
    let mut config = ParserConfig::default();
    config
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true);
    let mut response = httparse::Response::new(&mut []);
    let length = match config.parse_response_with_uninit_headers(&mut response, bytes, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(NotAHead::Partial),
        Err(_) => {
            let (lines, mut room) = (complete_lines(bytes), field_room());
            let mut response = httparse::Response::new(&mut []);
            return Err(match config.parse_response_with_uninit_headers(&mut response, lines, &mut room) {
                Ok(_) => NotAHead::Partial,
                Err(_) => NotAHead::Malformed,
            });
        }
    };
    let status = response.code.filter(|status| (100..1000).contains(status)).ok_or(NotAHead::Malformed)?;
    let mut body = BodyFields::default();
    for field in response.headers.iter() {
        body.add(field.name, field.value);
    }
    Ok(ResponseHead { length, status, body, fields: response.headers })
}

/// Bytes of the PROXY protocol v1 line that `bytes` begin with.
///
/// # Errors
/// `Partial` while it may still become one, `Foreign` when there is none.
pub fn proxy_line(bytes: &[u8]) -> Result<usize, NotAHead> {
    let may_be = b"PROXY ".iter().zip(bytes).all(|(want, got)| want == got);
    if !may_be {
        return Err(NotAHead::Foreign);
    }
    match bytes.iter().take(MAX_PROXY_LINE).position(|&byte| byte == b'\n') {
        Some(end) => Ok(end + 1),
        None if bytes.len() < MAX_PROXY_LINE => Err(NotAHead::Partial),
        None => Err(NotAHead::Foreign),
    }
}

/// `bytes` up to their last line end. A fault counts once the line it is in has come to its end, so that the
/// answer does not depend on how the bytes were cut into records.
fn complete_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    bytes.get(..end).unwrap_or_default()
}

/// What is wrong with a request head, of one line or more, that the parser refused.
fn name_the_fault(lines: &[u8]) -> NotAHead {
    let line = lines.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if line.starts_with(b"PRI * HTTP/2") {
        NotAHead::Http2
    } else if is_request_line(line) {
        NotAHead::Malformed
    } else {
        NotAHead::Foreign
    }
}

/// Ends like a request line of HTTP/1.x: the head is HTTP, whatever is wrong with it.
fn is_request_line(line: &[u8]) -> bool {
    let version = line.trim_ascii_end().rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'])
}

/// Path of a request target (RFC 9112 section 3.2), without query and fragment.
fn path_of(target: &str) -> Option<&str> {
    let path = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        match rest.find(['/', '?', '#']) {
            Some(at) => rest.get(at..).filter(|path| path.starts_with('/')).unwrap_or("/"),
            None => "/",
        }
    };
    path.split(['?', '#']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_upper_case_and_short() {
        let check = |name, want: Option<&str>| {
            assert_eq!(Method::new(name).as_ref().map(Method::as_str), want, "{name}");
        };
        check("GET", Some("GET"));
        check("m-search", Some("M-SEARCH"));
        check("ABCDEFGHIJKLMNOP", Some("ABCDEFGHIJKLMNOP"));
        check("ABCDEFGHIJKLMNOPQ", None);
        check("GET1", None);
        check("", None);
    }

    #[test]
    fn the_path_is_taken_from_every_form_of_target() {
        let check = |target, want| assert_eq!(path_of(target), want, "{target}");
        check("/a/b?x=/y#z", Some("/a/b"));
        check("/a#b?c", Some("/a"));
        check("/?", Some("/"));
        check("http://h/a?b", Some("/a"));
        check("http://h", Some("/"));
        check("http://h?x=/y", Some("/"));
        check("//double/x", Some("//double/x"));
        check("*", None);
        check("host:443", None);
        check("a", None);
    }

    #[test]
    fn what_is_no_head_is_named() {
        let check = |bytes: &str, want| {
            assert_eq!(parse_request(bytes.as_bytes(), &mut field_room()).err(), want, "{bytes:?}");
        };
        check("GET / HTTP/1.1\r\n\r\n", None);
        check("GET / HTTP/1.0\n\n", None);
        check("G", Some(NotAHead::Partial));
        check("GET / HTTP/1.1\r\nhost: x\r\n", Some(NotAHead::Partial));
        check("GET foo\r\n", Some(NotAHead::Foreign));
        check("GET foo", Some(NotAHead::Partial));
        check("GET / HTTP/1.1\r\nbad field: x\r\n\r\n", Some(NotAHead::Malformed));
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(NotAHead::Http2));
        check("\x16", Some(NotAHead::Partial));
        check("\x16\x03\x01\x02", Some(NotAHead::Tls));
        check(
            &format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1)),
            Some(NotAHead::Malformed),
        );
        let parse_response = |bytes: &[u8]| parse_response(bytes, &mut field_room()).map(|head| head.status);
        assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\n a").err(), Some(NotAHead::Partial));
        assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\n a\r\n").err(), Some(NotAHead::Malformed));
        assert_eq!(parse_response(b"HTTP/1.1 2x0").err(), Some(NotAHead::Partial));
        assert_eq!(parse_response(b"HTTP/1.1 2x0\n").err(), Some(NotAHead::Malformed));
        assert_eq!(parse_response(b"HTTP/2").err(), Some(NotAHead::Foreign));
        assert_eq!(parse_response(b"HT").err(), Some(NotAHead::Partial));
        assert_eq!(parse_response(b"HTTP/1.1 099 X\r\n\r\n").err(), Some(NotAHead::Malformed));
        assert!(parse_response(b"HTTP/1.1 200\r\na: b\r\n  folded\r\n\r\n").is_ok());
    }

    #[test]
    fn a_proxy_line_is_found_at_the_front() {
        assert_eq!(proxy_line(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET"), Ok(32));
        assert_eq!(proxy_line(b"PROXY TCP4"), Err(NotAHead::Partial));
        assert_eq!(proxy_line(b"POST /"), Err(NotAHead::Foreign));
        assert_eq!(proxy_line(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Err(NotAHead::Foreign));
    }
}
