//! One segment of a path: its spelling, and whether it looks generated.

use std::str::Bytes;

/// Hex digits from which a segment counts as generated.
const HEX_DIGITS: usize = 16;

/// Characters from which letters of both cases and digits, well mixed, count as a token: 16 of base64url are 96 bits.
const TOKEN: usize = 16;

/// Likewise, letters of one case and digits.
const TOKEN_ONE_CASE: usize = 20;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// What a segment stands for, when it looks generated. Whoever reads a report knows these names.
pub fn placeholder(segment: &str) -> Option<&'static str> {
    let bytes = segment.as_bytes();
    // Most literals are told apart by this alone.
    if !bytes.iter().any(|byte| byte.is_ascii_digit() || matches!(byte, b'@' | b'%')) {
        return None;
    }
    if is_integer(bytes) {
        Some("{id}")
    } else if is_uuid(bytes) {
        Some("{uuid}")
    } else if bytes.len() >= HEX_DIGITS
        && bytes.iter().all(u8::is_ascii_hexdigit)
        && bytes.iter().any(u8::is_ascii_digit)
    {
        Some("{hex}")
    } else if is_ulid(bytes) {
        Some("{ulid}")
    } else if is_date(bytes) {
        Some("{date}")
    } else if is_email(segment) {
        Some("{email}")
    } else if is_token(segment) {
        Some("{token}")
    } else {
        None
    }
}

/// Digits, perhaps with a sign.
fn is_integer(bytes: &[u8]) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// RFC 9562 section 4: 8-4-4-4-12 hex digits.
pub fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// 26 digits of Crockford's base 32, of which the first is at most 7: 128 bits.
fn is_ulid(bytes: &[u8]) -> bool {
    bytes.len() == 26
        && bytes.first().is_some_and(|first| matches!(first, b'0'..=b'7'))
        && bytes.iter().all(|byte| {
            byte.is_ascii_alphanumeric() && !matches!(byte.to_ascii_uppercase(), b'I' | b'L' | b'O' | b'U')
        })
}

/// ISO 8601: `2024-05`, `2024-05-17`, and a time behind `T`.
fn is_date(bytes: &[u8]) -> bool {
    let two = |tens: u8, ones: u8| {
        (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
    };
    let [y1, y2, y3, y4, b'-', m1, m2, rest @ ..] = bytes else { return false };
    let year = [y1, y2, y3, y4].into_iter().all(u8::is_ascii_digit);
    let month = two(*m1, *m2).is_some_and(|month| (1..=12).contains(&month));
    if !(year && month) {
        return false;
    }
    match rest {
        [] => true,
        [b'-', d1, d2, time @ ..] => {
            let day = two(*d1, *d2).is_some_and(|day| (1..=31).contains(&day));
            let is_time = |byte: &u8| byte.is_ascii_digit() || b":.+-Z%A".contains(byte);
            day && match time {
                [] => true,
                [b'T', time @ ..] => time.first().is_some_and(u8::is_ascii_digit) && time.iter().all(is_time),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Something, an at sign (perhaps `%40`), and a name with a point and letters at its end.
fn is_email(segment: &str) -> bool {
    let parts = segment.split_once('@').or_else(|| segment.split_once("%40"));
    let Some((local, (domain, top))) =
        parts.and_then(|(local, domain)| Some((local, domain.rsplit_once('.')?)))
    else {
        return false;
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !local.is_empty()
        && !domain.is_empty()
        && domain.bytes().all(is_name)
        && top.len() >= 2
        && top.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Letters and digits, and `-` and `_`, that follow each other as by chance. Points stand between the parts of a JWT
/// only, each of which must be long.
fn is_token(segment: &str) -> bool {
    if segment.contains('.') && !segment.split('.').all(|part| part.len() >= TOKEN) {
        return false;
    }
    let bytes = segment.trim_end_matches('=').as_bytes();
    let (mut lower, mut upper, mut digit) = (0, 0, 0);
    let mut changes = 0;
    let mut last = 0;
    for byte in bytes {
        let class = match byte {
            b'a'..=b'z' => {
                lower += 1;
                1
            }
            b'A'..=b'Z' => {
                upper += 1;
                2
            }
            b'0'..=b'9' => {
                digit += 1;
                3
            }
            // Separators prove nothing: slugs have them, too.
            b'-' | b'_' | b'.' => continue,
            _ => return false,
        };
        changes += usize::from(last != 0 && last != class);
        last = class;
    }
    let length = lower + upper + digit;
    if digit == 0 {
        return false;
    }
    // Of two letters of random base64 64 % are of different classes, of random base 36 40 %. In words with numbers
    // fewer are: 42 % of `getItemsByCategoryV2`, 17 % of `windows11pro64bitedition`.
    if lower > 0 && upper > 0 {
        length >= TOKEN && changes * 2 >= length - 1
    } else {
        bytes.len() == length && length >= TOKEN_ONE_CASE && changes * 10 >= (length - 1) * 3
    }
}

/// Appends a literal as a template has it: what is not printable ASCII, and braces, percent-encoded, and what need
/// not be percent-encoded (RFC 3986 section 6.2.2.2) not. So each spelling of a path has one template, and no path
/// looks like a placeholder.
pub fn push_literal(text: &str, template: &mut String) {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match escaped(bytes.clone()) {
                Some(value) => {
                    bytes.nth(1);
                    if is_unreserved(value) {
                        template.push(value as char);
                    } else {
                        push_escape(value, template);
                    }
                }
                None => push_escape(b'%', template),
            },
            b'{' | b'}' => push_escape(byte, template),
            _ if byte.is_ascii_graphic() => template.push(byte as char),
            _ => push_escape(byte, template),
        }
    }
}

/// Whether [`push_literal`] would leave it alone.
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'{' | b'}'))
}

/// Writes `text` without percent-encoding, but for `%2F`: an encoded slash does not part segments (RFC 3986 section
/// 2.4). Bytes that are no UTF-8 stay encoded, so that each spelling of a path comes out as one text.
pub fn decode(text: &str, decoded: &mut String) {
    decoded.clear();
    let mut bytes = std::mem::take(decoded).into_bytes();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match escaped(rest.clone()).filter(|_| byte == b'%') {
            Some(value) => {
                rest.nth(1);
                if value == b'/' {
                    bytes.extend(b"%2F");
                } else {
                    bytes.push(value);
                }
            }
            None => bytes.push(byte),
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => *decoded = text,
        Err(error) => {
            for chunk in error.as_bytes().utf8_chunks() {
                decoded.push_str(chunk.valid());
                chunk.invalid().iter().for_each(|byte| push_escape(*byte, decoded));
            }
        }
    }
}

/// The byte that the next two stand for, if they are hex digits. They are not taken.
fn escaped(mut ahead: Bytes<'_>) -> Option<u8> {
    let [high, low] = [ahead.next()?, ahead.next()?].map(|digit| (digit as char).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_escape(byte: u8, template: &mut String) {
    template.push('%');
    for digit in [byte >> 4, byte & 15] {
        template.push(HEX.get(usize::from(digit)).map_or('0', |&digit| digit as char));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_look_generated_have_a_name() {
        let check = |segment, want| assert_eq!(placeholder(segment), want, "{segment}");
        check("", None);
        check("items", None);
        check("v1", None);
        check("7", Some("{id}"));
        check("-7", Some("{id}"));
        check("-", None);
        check("9223372036854775808123", Some("{id}"));
        check("1.0", None);
        check("0b6c1b5e-6b2f-4e1c-9d2a-1f2e3d4c5b6a", Some("{uuid}"));
        check("01ARZ3NDEKTSV4RRFFQ69G5FAV", Some("{ulid}"));
        check("01arz3ndektsv4rrffq69g5fav", Some("{ulid}"));
        check("deadbeefdeadbeef1", Some("{hex}"));
        check("deadbeefdeadbeef", None);
        check("deadbeef1", None);
        check("2024-05-17", Some("{date}"));
        check("2024-05", Some("{date}"));
        check("2024-05-17T10:00:00Z", Some("{date}"));
        check("2024-05-17T10%3A00%3A00+01:00", Some("{date}"));
        check("2024-13-17", None);
        check("2024-05-32", None);
        check("2024-05-17-why-we-moved", None);
        check("alice@example.com", Some("{email}"));
        check("alice%40example.co.uk", Some("{email}"));
        check("@alice", None);
        check("alice@home", None);
        check("react@18.2.0", None);
        check("cus_NffrFeUfNV2Hib", Some("{token}"));
        check("dQw4w9WgXcQ9s6XKzkNR", Some("{token}"));
        check("dQw4w9WgXcQ", None);
        check("MTIzNDU2Nzg5MGFiY2RlZg==", Some("{token}"));
        check("cjld2cjxh0000qzrmn831i7rn", Some("{token}"));
        check(
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
            Some("{token}"),
        );
        check("OAuth2CallbackHandler", None);
        check("windows11pro64bitedition", None);
        check("jQuery-3.6.0.min.js", None);
        check("10-things-you-should-know-about-http2", None);
        check("getItemsByCategoryV2", None);
        check("%E4%BD%A0%E5%A5%BD", None);
    }

    #[test]
    fn each_spelling_of_a_literal_has_one_template() {
        let check = |text, want: &str| {
            let mut template = String::new();
            push_literal(text, &mut template);
            assert_eq!(template, want, "{text}");
            let mut again = String::new();
            push_literal(&template, &mut again);
            assert_eq!(again, template);
        };
        check("items", "items");
        check("%69tems", "items");
        check("a%20b%2f", "a%20b%2F");
        check("\u{e9}", "%C3%A9");
        check("{id}", "%7Bid%7D");
        check("100%", "100%25");
        check("%%36%31", "%2561");
        check("%e4", "%E4");
    }

    #[test]
    fn decoding_leaves_slashes_alone() {
        let check = |text, want| {
            let mut decoded = "before".to_owned();
            decode(text, &mut decoded);
            assert_eq!(decoded, want, "{text}");
        };
        check("/a%20b", "/a b");
        check("/a%2Fb%2fc", "/a%2Fb%2Fc");
        check("/caf%C3%A9", "/caf\u{e9}");
        check("/%c3%20/%C3%A9", "/%C3 /\u{e9}");
        check("/%", "/%");
        check("/%4", "/%4");
        check("/%zz", "/%zz");
    }
}
