//! Heads of requests and responses: what is one does not depend on how much of it has come, and says about
//! its body what RFC 9112 section 6.3 says.

use agent::pipeline::http::{
    framing::{Contradiction, Framing},
    head::{Method, NotAHead, RESPONSE_PREFIX, field_room, parse_request, parse_response, proxy_line},
};

/// Reads every beginning of `input` as a head.
pub fn check(input: &[u8]) {
    check_beginnings(input, request);
    check_beginnings(input, response);
    check_beginnings(input, proxy_line);
    check_refusal(input, request);
    check_refusal(&[RESPONSE_PREFIX, input].concat(), response);
}

/// A head is refused at the end of a line, or among its first bytes: the parser of a direction looks at no other time.
fn check_refusal(input: &[u8], parse: fn(&[u8]) -> Result<usize, NotAHead>) {
    let mut parts = (0..=input.len()).map(|length| &input[..length]);
    if let Some(refused) = parts.find(|part| parse(part) != Err(NotAHead::Partial)) {
        let is_looked_at = refused.ends_with(b"\n") || refused.len() <= RESPONSE_PREFIX.len();
        assert!(is_looked_at, "{:?}", refused.escape_ascii().to_string());
    }
}

/// While it is partial it stays so; the first other answer is the last.
fn check_beginnings(input: &[u8], parse: fn(&[u8]) -> Result<usize, NotAHead>) {
    let whole = parse(input);
    for length in 0..input.len() {
        let part = parse(&input[..length]);
        if part != Err(NotAHead::Partial) {
            assert_eq!(part, whole, "after {length} of {} bytes", input.len());
        }
        if let Ok(end) = whole {
            assert_eq!(part.is_ok(), length >= end);
        }
    }
}

fn request(bytes: &[u8]) -> Result<usize, NotAHead> {
    let mut room = field_room();
    let head = parse_request(bytes, &mut room)?;
    let lines = Lines::of(&bytes[..head.length]);
    assert_eq!(head.body.of_request(), lines.request_framing());
    let name = lines.start.split(' ').next().unwrap_or_default();
    let taken = (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
    assert_eq!(head.method.as_ref().map(Method::as_str), taken.then(|| name.to_ascii_uppercase()).as_deref());
    if let Some(path) = head.path {
        assert!(path.starts_with('/') && !path.contains(['?', '#', ' ', '\r', '\n']), "{path:?}");
        assert!(path == "/" || String::from_utf8_lossy(bytes).contains(path), "{path:?}");
    }
    Ok(head.length)
}

fn response(bytes: &[u8]) -> Result<usize, NotAHead> {
    let mut room = field_room();
    let head = parse_response(bytes, &mut room)?;
    let lines = Lines::of(&bytes[..head.length]);
    assert_eq!(lines.start.get(9..12), Some(head.status.to_string().as_str()));
    for method in [None, Some(Method::GET), Some(Method::HEAD), Some(Method::CONNECT)] {
        assert_eq!(head.body.of_response(method, head.status), lines.response_framing(method, head.status));
    }
    Ok(head.length)
}

/// A head taken apart in the most obvious way.
struct Lines {
    start: String,
    /// Names in lower case, values trimmed.
    fields: Vec<(String, String)>,
}

impl Lines {
    fn of(head: &[u8]) -> Self {
        // Byte for byte, so that positions stay what they are.
        let text: String = head.iter().map(|&byte| byte as char).collect();
        let mut lines = text.trim_start_matches(['\r', '\n']).split('\n');
        let start = lines.next().unwrap_or_default().trim_end_matches('\r').to_owned();
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines.map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty()) {
            if line.starts_with([' ', '\t']) {
                // The obsolete folding of section 5.2.
                if let Some((_, value)) = fields.last_mut() {
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim_end().to_ascii_lowercase(), value.to_owned()));
            }
        }
        Self { start, fields }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let name = name.to_owned();
        self.fields.iter().filter(move |field| field.0 == name).map(|field| field.1.trim_ascii())
    }

    /// None without Transfer-Encoding; else whether chunked is the last coding.
    fn is_chunked(&self) -> Option<bool> {
        let last = self.values("transfer-encoding").last()?;
        let last = last.split(',').map(str::trim_ascii).rfind(|coding| !coding.is_empty());
        Some(last.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")))
    }

    /// None without Content-Length.
    fn length(&self) -> Option<Result<u64, Contradiction>> {
        let members: Vec<&str> =
            self.values("content-length").flat_map(|value| value.split(',')).map(str::trim_ascii).collect();
        let lengths: Option<Vec<u64>> = members
            .iter()
            .map(|member| {
                let digits = !member.is_empty() && member.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| member.parse().ok()).flatten()
            })
            .collect();
        let first = *members.first().map(|_| lengths.as_deref().and_then(<[u64]>::first))?.unwrap_or(&0);
        let agree = lengths.is_some_and(|lengths| lengths.iter().all(|length| *length == first));
        Some(if agree { Ok(first) } else { Err(Contradiction) })
    }

    fn request_framing(&self) -> Result<Framing, Contradiction> {
        match self.is_chunked() {
            Some(true) => Ok(Framing::Chunked),
            Some(false) => Err(Contradiction),
            None => self.length().map_or(Ok(Framing::None), |length| length.map(Framing::Length)),
        }
    }

    fn response_framing(&self, method: Option<Method>, status: u16) -> Result<Framing, Contradiction> {
        if status == 101 || (method == Some(Method::CONNECT) && status / 100 == 2) {
            return Ok(Framing::Tunnel);
        }
        if status / 100 == 1 || status == 204 || status == 304 || method == Some(Method::HEAD) {
            return Ok(Framing::None);
        }
        match self.is_chunked() {
            Some(true) => Ok(Framing::Chunked),
            Some(false) => Ok(Framing::UntilClose),
            None => self.length().map_or(Ok(Framing::UntilClose), |length| length.map(Framing::Length)),
        }
    }
}
