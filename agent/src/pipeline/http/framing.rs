//! How long is this body? RFC 9112 section 6.3.

use super::head::Method;

/// What delimits a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes; 0 is a body of known size nothing.
    Length(u64),
    Chunked,
    /// Responses only: whatever comes until the connection closes.
    UntilClose,
    /// No HTTP follows: CONNECT granted, or 101.
    Tunnel,
}

/// The fields contradict each other, so nobody can say where the message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction;

/// What the fields of a head say about its body. Fed field by field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyFields {
    length: Option<u64>,
    length_is_wrong: bool,
    transfer_encoding: Option<Coding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// The last transfer coding is chunked.
    Chunked,
    Other,
}

impl BodyFields {
    /// Takes in one field; those that do not matter are ignored.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("content-length") {
            // One field may hold a list, section 6.3 rule 5; equal members count as one.
            for member in value.split(|&byte| byte == b',') {
                match (parse_length(member.trim_ascii()), self.length) {
                    (None, _) => self.length_is_wrong = true,
                    (Some(new), Some(old)) if new != old => self.length_is_wrong = true,
                    (new, _) => self.length = new,
                }
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let last = value.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii).find(|it| !it.is_empty());
            self.transfer_encoding = Some(match last {
                Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                _ => Coding::Other,
            });
        }
    }

    /// How the body of a request is delimited. A request that has neither field has no body.
    ///
    /// # Errors
    /// Lengths that differ or are no numbers, or a transfer coding other than chunked at the end.
    pub fn of_request(&self) -> Result<Framing, Contradiction> {
        match (self.transfer_encoding, self.length) {
            (Some(Coding::Chunked), _) => Ok(Framing::Chunked),
            (Some(Coding::Other), _) => Err(Contradiction),
            (None, _) if self.length_is_wrong => Err(Contradiction),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::None),
        }
    }

    /// How the body of a response is delimited, which depends on what it answers; None is read as GET.
    ///
    /// # Errors
    /// Lengths that differ or are no numbers.
    pub fn of_response(&self, method: Option<Method>, status: u16) -> Result<Framing, Contradiction> {
        let method = method.map_or(Method::GET, |method| method);
        match (status, self.transfer_encoding, self.length) {
            (101, ..) => Ok(Framing::Tunnel),
            (200..300, ..) if method == Method::CONNECT => Ok(Framing::Tunnel),
            (100..200 | 204 | 304, ..) => Ok(Framing::None),
            _ if method == Method::HEAD => Ok(Framing::None),
            (_, Some(Coding::Chunked), _) => Ok(Framing::Chunked),
            (_, Some(Coding::Other), _) => Ok(Framing::UntilClose),
            _ if self.length_is_wrong => Err(Contradiction),
            (_, None, Some(length)) => Ok(Framing::Length(length)),
            (_, None, None) => Ok(Framing::UntilClose),
        }
    }
}

fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &str) -> BodyFields {
        let mut fields = BodyFields::default();
        for line in lines.split('\n').filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            fields.add(name.trim(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn body_length_follows_rfc_9112_6_3() {
        let check = |method: &str, status, lines, want| {
            assert_eq!(
                fields(lines).of_response(Method::new(method), status),
                want,
                "{method} {status} {lines}"
            );
        };
        //    request    status  response fields                    body
        check("GET", 200, "content-length: 5", Ok(Framing::Length(5)));
        check("GET", 200, "Content-Length: 0", Ok(Framing::Length(0)));
        check("HEAD", 200, "content-length: 5", Ok(Framing::None));
        check("HEAD", 200, "transfer-encoding: chunked", Ok(Framing::None));
        check("GET", 304, "content-length: 5", Ok(Framing::None));
        check("GET", 204, "transfer-encoding: chunked", Ok(Framing::None));
        check("GET", 103, "content-length: 5", Ok(Framing::None));
        check("GET", 101, "content-length: 5", Ok(Framing::Tunnel));
        check("CONNECT", 200, "content-length: 5", Ok(Framing::Tunnel));
        check("CONNECT", 407, "content-length: 5", Ok(Framing::Length(5)));
        check("GET", 200, "transfer-encoding: chunked", Ok(Framing::Chunked));
        check("GET", 200, "transfer-encoding: gzip, Chunked", Ok(Framing::Chunked));
        check("GET", 200, "transfer-encoding: gzip\ntransfer-encoding: chunked", Ok(Framing::Chunked));
        check("GET", 200, "transfer-encoding: chunked, gzip", Ok(Framing::UntilClose));
        check("GET", 200, "transfer-encoding: chunked\ncontent-length: 5", Ok(Framing::Chunked));
        check("GET", 200, "", Ok(Framing::UntilClose));
        check("GET", 200, "content-length: 5\ncontent-length: 5", Ok(Framing::Length(5)));
        check("GET", 200, "content-length: 5, 5", Ok(Framing::Length(5)));
        check("GET", 200, "content-length: 5\ncontent-length: 6", Err(Contradiction));
        check("GET", 200, "content-length: 5,6", Err(Contradiction));
        check("GET", 200, "content-length: -5", Err(Contradiction));
        check("GET", 200, "content-length:", Err(Contradiction));
        check("GET", 200, "content-length: 99999999999999999999", Err(Contradiction));
    }

    #[test]
    fn request_body_length_follows_rfc_9112_6_3() {
        let check = |lines, want| assert_eq!(fields(lines).of_request(), want, "{lines}");
        check("", Ok(Framing::None));
        check("content-length: 0", Ok(Framing::Length(0)));
        check("content-length: 7", Ok(Framing::Length(7)));
        check("content-length: +7", Err(Contradiction));
        check("content-length: 7\ncontent-length: 8", Err(Contradiction));
        check("transfer-encoding: chunked\ncontent-length: x", Ok(Framing::Chunked));
        check("transfer-encoding: chunked, gzip", Err(Contradiction));
        check("transfer-encoding: identity", Err(Contradiction));
    }
}
