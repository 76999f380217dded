//! What bodies of responses say about errors: what was wrong with a request, what went wrong in the server.
//!
//! Only statuses that can say so, only JSON, only what is there: a body that nobody recognises says nothing.

pub mod server;
pub mod tally;
pub mod validation;

use serde_json::Value;

use self::{server::ServerError, validation::Found};

/// What a response may say in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// What was wrong with the request.
    WrongRequest,
    /// What went wrong in the server.
    ServerError,
}

impl Says {
    /// None when its body is not worth keeping.
    ///
    /// Frameworks answer invalid requests with 400 or 422; a problem document (RFC 9457) may do so with any status of
    /// its class. Of server errors only 500: that is the status of an exception that nobody caught, and the only one
    /// that the in-process clients report. 502 to 504 come from gateways, or are deliberate.
    pub fn of(status: u16, content_type: &[u8]) -> Option<Self> {
        let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let is_problem = media_type.eq_ignore_ascii_case(b"application/problem+json");
        let suffix = media_type.len().checked_sub(b"+json".len()).and_then(|at| media_type.get(at..));
        let is_json = media_type.eq_ignore_ascii_case(b"application/json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"));
        match status {
            400 | 422 if is_json => Some(Self::WrongRequest),
            400..500 if is_problem => Some(Self::WrongRequest),
            500 if is_json => Some(Self::ServerError),
            _ => None,
        }
    }
}

/// What a body said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    WrongRequest(Found),
    ServerError(ServerError),
    Nothing,
}

impl Said {
    /// Reads a whole, decoded body. `has_allow`: the response has the field Allow.
    pub fn read(says: Says, status: u16, has_allow: bool, body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Self::Nothing };
        match says {
            Says::WrongRequest => {
                let found = validation::read(status, has_allow, &body);
                if found.errors.is_empty() { Self::Nothing } else { Self::WrongRequest(found) }
            }
            Says::ServerError => server::read(&body).map_or(Self::Nothing, Self::ServerError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_wanted_by_status_and_media_type() {
        let check = |status, content_type: &str, want| {
            assert_eq!(Says::of(status, content_type.as_bytes()), want, "{status} {content_type}");
        };
        check(422, "application/json", Some(Says::WrongRequest));
        check(400, "Application/JSON; charset=utf-8", Some(Says::WrongRequest));
        check(400, "application/vnd.api+json", Some(Says::WrongRequest));
        check(400, "text/html", None);
        check(400, "application/jsonp", None);
        check(400, "json", None);
        check(400, "", None);
        check(409, "application/json", None);
        check(409, "application/problem+json", Some(Says::WrongRequest));
        check(200, "application/json", None);
        check(500, "application/json", Some(Says::ServerError));
        check(500, "application/problem+json; charset=utf-8", Some(Says::ServerError));
        check(500, "text/plain", None);
        check(503, "application/json", None);
    }

    #[test]
    fn what_is_no_json_says_nothing() {
        for body in ["", "Internal Server Error", "{\"message\":", "[[[["] {
            for (says, status) in [(Says::WrongRequest, 422), (Says::ServerError, 500)] {
                assert_eq!(Said::read(says, status, true, body.as_bytes()), Said::Nothing, "{body}");
            }
        }
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(Said::read(Says::WrongRequest, 400, true, &deep), Said::Nothing);
    }
}
