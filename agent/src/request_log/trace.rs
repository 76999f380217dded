//! Whose trace a request belongs to, as it says itself (W3C Trace Context, section 3.2).

use crate::pipeline::detail::Message;

/// What `traceparent` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hex digits, lower case, not all zero.
    pub trace_id: String,
    /// Likewise 16: the caller's span.
    pub parent_id: String,
    /// Whether the caller may have recorded it.
    pub sampled: bool,
}

impl TraceContext {
    /// None when there is no such field, more than one, or one that is not valid.
    pub fn of(request: &Message) -> Option<Self> {
        let mut values = request.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
        let (Some((_, value)), None) = (values.next(), values.next()) else { return None };
        let value = str::from_utf8(value).ok()?.trim_ascii();
        let mut parts = value.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let parent_id = hex(parts.next()?, 16)?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may say more behind that.
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        let zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        if !known || zero(trace_id) || zero(parent_id) {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Some(Self { trace_id: trace_id.to_owned(), parent_id: parent_id.to_owned(), sampled })
    }
}

fn hex(text: &str, digits: usize) -> Option<&str> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_log::fixtures::logged;

    #[test]
    fn only_what_is_valid_counts() {
        let trace = |fields: &str| {
            let exchange = logged(&format!("GET / HTTP/1.1\r\n{fields}\r\n"), "HTTP/1.1 200 OK\r\n\r\n");
            TraceContext::of(&exchange.request)
        };
        let found =
            trace("Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n").unwrap();
        assert_eq!(found.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(found.parent_id, "00f067aa0ba902b7");
        assert!(found.sampled);
        assert!(
            trace("traceparent: cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more\r\n").is_some()
        );
        for invalid in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "",
        ] {
            assert_eq!(trace(&format!("traceparent: {invalid}\r\n")), None, "{invalid}");
        }
        assert_eq!(trace(""), None);
        let twice = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n".repeat(2);
        assert_eq!(trace(&twice), None);
    }
}
