//! Details of an exchange while it is open: heads as they come, bodies as far as they are wanted.

use core::net::SocketAddr;

use httparse::Header;

use super::{
    Body, Keep, MAX_BODY, Message,
    budget::{Budget, Held},
};
use crate::pipeline::{
    errors::Says,
    http::{
        framing::Framing,
        head::{RequestHead, ResponseHead},
    },
};

/// What is kept of one exchange: at most two heads of [`crate::pipeline::http::head::MAX_HEAD`] bytes and two bodies of
/// [`MAX_BODY`], all of it out of the budget.
#[derive(Debug)]
pub struct Details {
    held: Held,
    /// The whole exchange is kept, not only what its response says of errors.
    is_whole: bool,
    /// What the response may say of errors, where that is wanted.
    says: Option<Says>,
    /// Its body is wanted for what it is, too.
    keeps_response_body: bool,
    client: Option<SocketAddr>,
    /// What the request line asks for.
    target: String,
    request: Fields,
    request_body: Collector,
    response: Fields,
    response_body: Collector,
}

type Fields = Vec<(String, Vec<u8>)>;

/// There is no room in the budget: what was kept of the exchange is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What is left of details when the exchange is over.
#[derive(Debug)]
pub struct Kept {
    /// The whole exchange is kept, not only what its response says of errors.
    pub is_whole: bool,
    /// What the response may say of errors, where that is wanted.
    pub says: Option<Says>,
    /// Its body is wanted for what it is, too.
    pub keeps_response_body: bool,
    /// The other end of the connection, where it is known.
    pub client: Option<SocketAddr>,
    pub target: String,
    pub request: Message,
    pub response: Message,
    /// The memory of all this.
    pub held: Held,
}

impl Details {
    /// Those of a request whose head is complete.
    ///
    /// # Errors
    /// When there is no room for the head.
    pub fn of_request(
        head: &RequestHead<'_>,
        framing: Framing,
        client: Option<SocketAddr>,
        keep: &Keep,
        budget: &Budget,
    ) -> Result<Self, NoRoom> {
        let size = size_of::<Self>() + head.target.len() + fields_size(head.fields);
        let wanted = keep.request_bodies && keep.takes_type(content_type(head.fields));
        Ok(Self {
            held: budget.hold(size).ok_or(NoRoom)?,
            is_whole: true,
            says: None,
            keeps_response_body: false,
            client,
            target: head.target.to_owned(),
            request: fields(head.fields),
            request_body: Collector::new(wanted, framing),
            response: Fields::new(),
            response_body: Collector::Unwanted,
        })
    }

    /// Those of a response that may say something of errors, where no more than that is kept. None when it may not.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn of_errors(
        head: &ResponseHead<'_>,
        framing: Framing,
        keep: &Keep,
        budget: &Budget,
    ) -> Result<Option<Self>, NoRoom> {
        let Some(says) = keep.says(head) else { return Ok(None) };
        let read: Vec<Header<'_>> = head.fields.iter().filter(|field| is_read(field.name)).copied().collect();
        Ok(Some(Self {
            held: budget.hold(size_of::<Self>() + fields_size(&read)).ok_or(NoRoom)?,
            is_whole: false,
            says: Some(says),
            keeps_response_body: false,
            client: None,
            target: String::new(),
            request: Fields::new(),
            request_body: Collector::Unwanted,
            response: fields(&read),
            response_body: Collector::new(true, framing),
        }))
    }

    /// The head of the final response is complete.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn add_response(
        &mut self,
        head: &ResponseHead<'_>,
        framing: Framing,
        keep: &Keep,
    ) -> Result<(), NoRoom> {
        if !self.held.grow(fields_size(head.fields)) {
            return Err(NoRoom);
        }
        self.response = fields(head.fields);
        self.keeps_response_body = keep.response_bodies && keep.takes_type(content_type(head.fields));
        self.says = keep.says(head);
        self.response_body = Collector::new(self.keeps_response_body || self.says.is_some(), framing);
        Ok(())
    }

    /// More of the request's body.
    ///
    /// # Errors
    /// When it is wanted and there is no room for it.
    pub fn add_request_data(&mut self, data: &[u8]) -> Result<(), NoRoom> {
        self.request_body.add(data, &mut self.held)
    }

    /// More of the response's body.
    ///
    /// # Errors
    /// When it is wanted and there is no room for it.
    pub fn add_response_data(&mut self, data: &[u8]) -> Result<(), NoRoom> {
        self.response_body.add(data, &mut self.held)
    }

    /// Bytes of the request's body are missing.
    pub fn miss_request_data(&mut self) {
        self.request_body.give_up(&mut self.held);
    }

    /// Bytes of the response's body are missing.
    pub fn miss_response_data(&mut self) {
        self.response_body.give_up(&mut self.held);
    }

    /// More of the request's body is wanted.
    pub fn wants_request_data(&self) -> bool {
        self.request_body.is_collecting()
    }

    /// More of the response's body is wanted.
    pub fn wants_response_data(&self) -> bool {
        self.response_body.is_collecting()
    }

    /// The exchange is over; did its bodies come to their ends?
    pub fn finish(self, request_is_whole: bool, response_is_whole: bool) -> Kept {
        Kept {
            is_whole: self.is_whole,
            says: self.says,
            keeps_response_body: self.keeps_response_body,
            client: self.client,
            target: self.target,
            request: Message { fields: self.request, body: self.request_body.finish(request_is_whole) },
            response: Message { fields: self.response, body: self.response_body.finish(response_is_whole) },
            held: self.held,
        }
    }

    /// Memory that it takes, counted anew: what it holds of the budget.
    pub fn size(&self) -> usize {
        let size = |fields: &Fields| -> usize {
            fields.iter().map(|(name, value)| FIELD_SIZE + name.len() + value.len()).sum()
        };
        let bodies = self.request_body.capacity() + self.response_body.capacity();
        size_of::<Self>() + self.target.len() + size(&self.request) + size(&self.response) + bodies
    }
}

/// Whether errors in a body cannot be read without this field.
fn is_read(name: &str) -> bool {
    ["content-encoding", "allow"].iter().any(|read| name.eq_ignore_ascii_case(read))
}

/// One field in memory besides its bytes: its place in the list, and two allocations.
const FIELD_SIZE: usize = size_of::<(String, Vec<u8>)>() + 2 * 16;

fn fields_size(fields: &[Header<'_>]) -> usize {
    fields.iter().map(|field| FIELD_SIZE + field.name.len() + field.value.len()).sum()
}

fn fields(fields: &[Header<'_>]) -> Fields {
    fields.iter().map(|field| (field.name.to_owned(), field.value.to_owned())).collect()
}

/// The first Content-Type, as it was spelled; empty when there is none.
fn content_type<'a>(fields: &[Header<'a>]) -> &'a [u8] {
    let named = fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-type"));
    named.map_or(&[], |field| field.value.trim_ascii())
}

impl Keep {
    /// What a response may say of errors, where that is kept.
    fn says(&self, head: &ResponseHead<'_>) -> Option<Says> {
        let says = || Says::of(head.status, content_type(head.fields));
        self.errors.then(says).flatten()
    }

    /// Whether bodies of a content type are kept.
    fn takes_type(&self, content_type: &[u8]) -> bool {
        self.content_types.iter().any(|start| {
            content_type.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start.as_bytes()))
        })
    }
}

/// A body on its way. Memory grows with what has come, not with what is announced.
#[derive(Debug)]
enum Collector {
    /// There is none, or nobody wants it.
    Unwanted,
    Collecting(Vec<u8>),
    /// More than [`MAX_BODY`].
    TooLarge,
    /// Some of it is missing.
    Incomplete,
}

impl Collector {
    fn new(wanted: bool, framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) | Framing::Tunnel => Self::Unwanted,
            _ if !wanted => Self::Unwanted,
            Framing::Length(length) if length > MAX_BODY as u64 => Self::TooLarge,
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => Self::Collecting(Vec::new()),
        }
    }

    fn add(&mut self, data: &[u8], held: &mut Held) -> Result<(), NoRoom> {
        let Self::Collecting(bytes) = self else { return Ok(()) };
        let length = bytes.len().saturating_add(data.len());
        if length > MAX_BODY {
            held.shrink(bytes.capacity());
            *self = Self::TooLarge;
            return Ok(());
        }
        let capacity = bytes.capacity();
        if length > capacity {
            let wanted = length.max((2 * capacity).min(MAX_BODY));
            if !held.grow(wanted - capacity) {
                return Err(NoRoom);
            }
            bytes.reserve_exact(wanted - bytes.len());
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    fn give_up(&mut self, held: &mut Held) {
        if let Self::Collecting(bytes) = self {
            held.shrink(bytes.capacity());
            *self = Self::Incomplete;
        }
    }

    fn is_collecting(&self) -> bool {
        matches!(self, Self::Collecting(_))
    }

    fn capacity(&self) -> usize {
        if let Self::Collecting(bytes) = self { bytes.capacity() } else { 0 }
    }

    fn finish(self, is_whole: bool) -> Body {
        match self {
            Self::Unwanted => Body::None,
            Self::TooLarge => Body::TooLarge,
            Self::Collecting(bytes) if is_whole && bytes.is_empty() => Body::None,
            Self::Collecting(bytes) if is_whole => Body::Whole(bytes),
            Self::Collecting(_) | Self::Incomplete => Body::Incomplete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(framing: Framing, pieces: &[usize]) -> (Collector, usize) {
        let budget = Budget::new(1 << 20);
        let mut held = budget.hold(0).unwrap();
        let mut body = Collector::new(true, framing);
        for piece in pieces {
            body.add(&vec![b'x'; *piece], &mut held).unwrap();
        }
        let bytes = held.bytes();
        assert_eq!(bytes, body.capacity());
        (body, bytes)
    }

    #[test]
    fn the_bound_is_the_last_body_that_is_kept() {
        let check = |framing, pieces: &[usize], want: Body| {
            assert_eq!(collect(framing, pieces).0.finish(true), want, "{framing:?} {pieces:?}");
        };
        let whole = |length| Body::Whole(vec![b'x'; length]);
        check(Framing::Length(MAX_BODY as u64), &[MAX_BODY], whole(MAX_BODY));
        check(Framing::Chunked, &[1, MAX_BODY - 1], whole(MAX_BODY));
        check(Framing::Chunked, &[1, MAX_BODY], Body::TooLarge);
        check(Framing::UntilClose, &[MAX_BODY, 1, 1], Body::TooLarge);
        check(Framing::Length(MAX_BODY as u64 + 1), &[], Body::TooLarge);
        check(Framing::Chunked, &[], Body::None);
        check(Framing::Length(0), &[], Body::None);
        check(Framing::None, &[], Body::None);
    }

    #[test]
    fn memory_grows_with_what_came_and_is_given_back_at_the_bound() {
        assert_eq!(collect(Framing::Length(40_000), &[]).1, 0);
        assert_eq!(collect(Framing::Length(40_000), &[300]).1, 300);
        assert_eq!(collect(Framing::Chunked, &[300, 1]).1, 600);
        assert!(collect(Framing::Chunked, &[1; MAX_BODY]).1 <= MAX_BODY);
        assert_eq!(collect(Framing::Chunked, &[MAX_BODY, 1]).1, 0);
    }

    #[test]
    fn content_types_are_told_by_their_beginning_in_any_case() {
        let content_types = vec!["application/json".to_owned(), "text/plain".to_owned()];
        let keep = Keep { content_types, ..Keep::default() };
        let check = |value: &str, want| assert_eq!(keep.takes_type(value.as_bytes()), want, "{value}");
        check("application/json", true);
        check("Application/JSON; charset=utf-8", true);
        check("text/plain", true);
        check("text/html", false);
        check("application/js", false);
        check("", false);
    }
}
