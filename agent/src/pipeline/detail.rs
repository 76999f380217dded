//! What is kept of an exchange beyond its counts, where somebody wants it: the request log, spans.
//!
//! Everything here is as it was on the wire, secrets included. It lives in memory only; whoever takes it masks it
//! before it is written or sent anywhere.

pub mod budget;
pub mod collect;

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use super::{
    Ktime,
    coding::{self, NotDecoded},
    http::head::Method,
};

/// Which parts are worth keeping. With the default nothing is, and no memory is used. What finds no room in
/// [`super::Limits::max_details`] is dropped with all that was kept of its exchange, which is counted all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Whole exchanges, for [`super::Pipeline::take_logged`].
    pub exchanges: bool,
    /// Bodies of requests, and of responses, of the exchanges that are kept.
    pub request_bodies: bool,
    pub response_bodies: bool,
    /// Content types of which bodies are kept: beginnings of the header's value, in lower case.
    pub content_types: Vec<String>,
    /// Bodies of responses that may say what was wrong: see [`super::counters::Counts::validation_errors`] and
    /// `server_errors`.
    pub errors: bool,
}

/// Longest body that is kept, bytes as they were on the wire without the transfer coding; the hub's bound.
pub const MAX_BODY: usize = 50_000;

/// One exchange that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// When the request's head was complete.
    pub head_received: Ktime,
    /// When the first byte of the final response was handed to the kernel, and the last.
    pub first_byte: Ktime,
    pub last_byte: Ktime,
    /// As it is counted.
    pub response_time: Duration,
    /// None for one that the hub does not take.
    pub method: Option<Method>,
    /// Template; None when the path matched none.
    pub route: Option<String>,
    pub consumer: Option<String>,
    pub status: u16,
    /// Body bytes; None when unknown.
    pub request_size: Option<u64>,
    pub response_size: Option<u64>,
    /// The other end of the connection; None on a Unix socket, or where it was not seen.
    pub client: Option<SocketAddr>,
    /// What the request line asks for, query included.
    pub target: String,
    pub request: Message,
    pub response: Message,
}

/// Fields and body of a request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// In order, names as they were spelled.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Body,
}

impl Keep {
    /// Whether anything at all is kept.
    pub fn anything(&self) -> bool {
        self.exchanges || self.errors
    }
}

impl Message {
    /// The first value under this name, in any case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// The whole body without its content codings; None when there is none, or it is not whole.
    ///
    /// # Errors
    /// When it cannot be decoded, see [`NotDecoded`].
    pub fn decoded(&self) -> Option<Result<Cow<'_, [u8]>, NotDecoded>> {
        let Body::Whole(body) = &self.body else { return None };
        let fields = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
        let values: Vec<&[u8]> = fields.map(|(_, value)| value.as_slice()).collect();
        Some(coding::decode(body, &values.join(&b',')))
    }
}

/// A body as it was on the wire, without the transfer coding and with the content coding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Not kept, or there is none, or it is empty.
    #[default]
    None,
    Whole(Vec<u8>),
    /// More than [`MAX_BODY`].
    TooLarge,
    /// Some of it was not seen, or not sent.
    Incomplete,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_of_several_fields_are_one_list() {
        let field = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let fields =
            vec![field("Content-Encoding", "identity"), field("content-encoding", "identity, nonsense")];
        let mut message = Message { fields, body: Body::Whole(b"text".to_vec()) };
        assert_eq!(message.decoded(), Some(Err(NotDecoded::UnknownCoding)));
        message.fields.pop();
        assert_eq!(message.decoded(), Some(Ok(Cow::Borrowed(b"text".as_slice()))));
        message.body = Body::Incomplete;
        assert_eq!(message.decoded(), None);
    }
}
