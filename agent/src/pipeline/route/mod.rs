//! Path -> route. So far routes are learned: segments that look generated become `{id}` and the like.
//!
//! A template becomes a route with its first answer other than 404, so scanning for paths that do not exist
//! adds nothing. Declared routes (patterns, OpenAPI) will be asked before the learned ones, in
//! [`Routes::find`].

use std::collections::HashMap;

/// Longest template, bytes; the hub's bound.
pub const MAX_TEMPLATE: usize = 2048;

/// Bytes of templates that wait for their first answer, all together.
const MAX_CANDIDATES: usize = 4 * 1024 * 1024;

/// Hex digits from which a segment counts as generated.
const HEX_DIGITS: usize = 16;

/// Names a confirmed route of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(u32);

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Route(RouteId),
    /// A template that is no route yet.
    Candidate(Box<str>),
    /// The template exceeds [`MAX_TEMPLATE`].
    TooLong,
    /// Too many candidates are waiting for their answers.
    NoRoom,
}

/// The routes of one target. Once the table is full, templates that are not in it are turned away.
#[derive(Debug)]
pub struct Routes {
    ids: HashMap<Box<str>, RouteId>,
    templates: Vec<Box<str>>,
    max: usize,
    /// Bytes of candidates given out and not settled.
    waiting: usize,
    /// Reused, so that a known path costs no allocation.
    template: String,
}

impl Routes {
    pub fn new(max: usize) -> Self {
        Self { ids: HashMap::new(), templates: Vec::new(), max, waiting: 0, template: String::new() }
    }

    /// Looks a path up. Whoever gets a candidate hands it back to [`Routes::settle`].
    pub fn find(&mut self, path: &str) -> Found {
        if !write_template(path, &mut self.template) {
            return Found::TooLong;
        }
        if let Some(&id) = self.ids.get(self.template.as_str()) {
            return Found::Route(id);
        }
        let waiting = self.waiting.saturating_add(self.template.len());
        if waiting > MAX_CANDIDATES {
            return Found::NoRoom;
        }
        self.waiting = waiting;
        Found::Candidate(self.template.as_str().into())
    }

    /// Takes a candidate back. With [`Settle::Confirm`] it becomes a route, if the table has room; either
    /// way the answer is the route it is by now.
    pub fn settle(&mut self, candidate: Box<str>, settle: Settle) -> Option<RouteId> {
        self.waiting = self.waiting.saturating_sub(candidate.len());
        if let Some(&id) = self.ids.get(&candidate) {
            return Some(id);
        }
        if settle == Settle::Drop || self.templates.len() >= self.max {
            return None;
        }
        let id = RouteId(u32::try_from(self.templates.len()).ok()?);
        self.templates.push(candidate.clone());
        self.ids.insert(candidate, id);
        Some(id)
    }

    /// All templates, in the order in which they became routes.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|template| &**template)
    }

    pub fn template(&self, id: RouteId) -> &str {
        self.templates.get(id.0 as usize).map_or("", |template| template)
    }
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    Confirm,
    Drop,
}

/// Writes the template of `path`; false when it gets longer than [`MAX_TEMPLATE`].
fn write_template(path: &str, template: &mut String) -> bool {
    template.clear();
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            template.push('/');
        }
        match placeholder(segment) {
            Some(name) => template.push_str(name),
            None => push_literal(segment, template),
        }
        if template.len() > MAX_TEMPLATE {
            return false;
        }
    }
    true
}

/// As it was sent; what is not printable ASCII is percent-encoded.
fn push_literal(segment: &str, template: &mut String) {
    for byte in segment.bytes() {
        if template.len() > MAX_TEMPLATE {
            return;
        }
        if byte.is_ascii_graphic() {
            template.push(byte as char);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            template.push('%');
            for digit in [byte >> 4, byte & 15] {
                template.push(DIGITS.get(usize::from(digit)).map_or('0', |&digit| digit as char));
            }
        }
    }
}

/// What a segment looks like, when it looks generated.
fn placeholder(segment: &str) -> Option<&'static str> {
    let bytes = segment.as_bytes();
    // A generated segment has a digit; most literals are told apart by this alone.
    if !bytes.iter().any(u8::is_ascii_digit) {
        return None;
    }
    if bytes.iter().all(u8::is_ascii_digit) {
        Some("{id}")
    } else if is_uuid(bytes) {
        Some("{uuid}")
    } else if bytes.len() >= HEX_DIGITS && bytes.iter().all(u8::is_ascii_hexdigit) {
        Some("{hex}")
    } else if is_ulid(bytes) {
        Some("{ulid}")
    } else {
        None
    }
}

/// RFC 9562 section 4: 8-4-4-4-12 hex digits.
fn is_uuid(bytes: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_look_generated_are_replaced() {
        let check = |path, want: &str| {
            let mut template = String::new();
            assert!(write_template(path, &mut template));
            assert_eq!(template, want);
        };
        check("/", "/");
        check("/items/7", "/items/{id}");
        check("/items/7/", "/items/{id}/");
        check("/v1/items", "/v1/items");
        check("/a/0b6c1b5e-6b2f-4e1c-9d2a-1f2e3d4c5b6a/b", "/a/{uuid}/b");
        check("/a/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/a/{ulid}");
        check("/a/01arz3ndektsv4rrffq69g5fav", "/a/{ulid}");
        check("/a/deadbeefdeadbeef1", "/a/{hex}");
        check("/a/deadbeefdeadbeef", "/a/deadbeefdeadbeef");
        check("/a/deadbeef1", "/a/deadbeef1");
        check("/a%20b/é", "/a%20b/%C3%A9");
        check("/9223372036854775808123", "/{id}");
        check("//", "//");
    }

    #[test]
    fn templates_have_a_longest_length() {
        let mut routes = Routes::new(10);
        let path = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert!(matches!(routes.find(&path(MAX_TEMPLATE)), Found::Candidate(_)));
        assert_eq!(routes.find(&path(MAX_TEMPLATE + 1)), Found::TooLong);
        assert!(matches!(routes.find(&format!("/{}", "1".repeat(5000))), Found::Candidate(_)));
    }

    #[test]
    fn a_template_is_a_route_once_confirmed_and_while_there_is_room() {
        let mut routes = Routes::new(1);
        let Found::Candidate(first) = routes.find("/a/1") else { panic!("known already") };
        let Found::Candidate(second) = routes.find("/a/2") else { panic!("known already") };
        assert_eq!(routes.settle(first, Settle::Drop), None);
        let id = routes.settle(second, Settle::Confirm).unwrap();
        assert_eq!(routes.find("/a/3"), Found::Route(id));
        assert_eq!(routes.template(id), "/a/{id}");
        let Found::Candidate(other) = routes.find("/b") else { panic!("known already") };
        assert_eq!(routes.settle(other, Settle::Confirm), None);
        assert_eq!(routes.waiting, 0);
    }

    #[test]
    fn waiting_candidates_are_bounded() {
        let mut routes = Routes::new(10);
        let long = format!("/{}", "a".repeat(2000));
        let given = (0..10_000).filter(|_| matches!(routes.find(&long), Found::Candidate(_))).count();
        assert_eq!(given, MAX_CANDIDATES / 2001);
    }
}
