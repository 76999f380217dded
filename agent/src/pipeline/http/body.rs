//! Counts a body, and hands on its data: known length, chunked, or until the connection closes.

/// Longest chunk-size line, extensions included, bytes. RFC 9112 section 7.1.1 asks for a limit.
const MAX_CHUNK_LINE: u32 = 4 * 1024;

/// All trailer fields of a body together, bytes.
const MAX_TRAILERS: u32 = 16 * 1024;

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes; more than 0.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// Where a chunked body has got to (RFC 9112 section 7.1). Bare LF ends a line as CRLF does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunked {
    /// In the digits of a chunk size.
    Size { size: u64, digits: u8 },
    /// In what follows the digits; `length` bytes of it so far.
    Extension { size: u64, length: u32 },
    /// In the data of a chunk; more than 0 bytes are left.
    Data { left: u64 },
    /// In the line end after the data.
    DataEnd,
    /// In the trailer section; `empty` when nothing of the current line has come.
    Trailer { length: u32, empty: bool },
}

/// What bytes, or a gap, did to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken, framing included. What is left over comes after the body.
    pub taken: u64,
    /// Bytes of the body among them.
    pub data: u64,
    pub state: Reached,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// More is to come.
    Inside,
    /// The body is complete.
    End,
    /// Where the body ends cannot be known any more: the framing is broken, too long, or lay in a gap.
    Hidden,
}

impl Body {
    /// A chunked body at its beginning.
    pub const CHUNKED: Body = Body::Chunked(Chunked::Size { size: 0, digits: 0 });

    /// Counts `bytes` up to the end of the body. `take` gets the data among them, without the transfer coding, in
    /// one piece or more.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> Progress {
        match self {
            Body::Length(_) | Body::UntilClose => {
                let progress = self.skip(bytes.len() as u64);
                let taken = usize::try_from(progress.taken).unwrap_or(usize::MAX);
                take(bytes.get(..taken).unwrap_or(bytes));
                progress
            }
            Body::Chunked(chunked) => chunked.feed(bytes, take),
        }
    }

    /// Counts `missing` bytes nobody saw, up to the end of the body.
    pub fn skip(&mut self, missing: u64) -> Progress {
        match self {
            Body::UntilClose => Progress { taken: missing, data: missing, state: Reached::Inside },
            Body::Length(left) => {
                let taken = missing.min(*left);
                *left = left.saturating_sub(taken);
                let state = if *left == 0 { Reached::End } else { Reached::Inside };
                Progress { taken, data: taken, state }
            }
            Body::Chunked(Chunked::Data { left }) if missing <= *left => {
                *left = left.saturating_sub(missing);
                if *left == 0 {
                    *self = Body::Chunked(Chunked::DataEnd);
                }
                Progress { taken: missing, data: missing, state: Reached::Inside }
            }
            Body::Chunked(_) => Progress { taken: missing, data: 0, state: Reached::Hidden },
        }
    }

    /// Bytes that are certain to be body data, from here on.
    pub fn certain(&self) -> u64 {
        match self {
            Body::Length(left) | Body::Chunked(Chunked::Data { left }) => *left,
            Body::Chunked(_) | Body::UntilClose => 0,
        }
    }
}

impl Chunked {
    fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> Progress {
        let mut rest = bytes;
        let mut data: u64 = 0;
        let mut state = Reached::Inside;
        while state == Reached::Inside {
            if let Chunked::Data { left } = self {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                let (piece, after) = rest.split_at(step);
                take(piece);
                rest = after;
                *left = left.saturating_sub(step as u64);
                data = data.saturating_add(step as u64);
                if *left > 0 {
                    break;
                }
                *self = Chunked::DataEnd;
            }
            let Some((&byte, after)) = rest.split_first() else { break };
            rest = after;
            state = self.line_byte(byte);
        }
        Progress { taken: (bytes.len() - rest.len()) as u64, data, state }
    }

    /// One byte of framing.
    fn line_byte(&mut self, byte: u8) -> Reached {
        let next = match (*self, byte) {
            (Chunked::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or(0));
                match size.checked_mul(16).and_then(|size| size.checked_add(digit)) {
                    Some(size) if digits < 32 => Chunked::Size { size, digits: digits + 1 },
                    _ => return Reached::Hidden,
                }
            }
            (Chunked::Size { digits: 0, .. }, _) => return Reached::Hidden,
            (Chunked::Size { size, .. } | Chunked::Extension { size, .. }, b'\n') => {
                if size > 0 {
                    Chunked::Data { left: size }
                } else {
                    Chunked::Trailer { length: 0, empty: true }
                }
            }
            (Chunked::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') => {
                Chunked::Extension { size, length: 1 }
            }
            (Chunked::Size { .. }, _) => return Reached::Hidden,
            (Chunked::Extension { length, .. }, _) if length >= MAX_CHUNK_LINE => return Reached::Hidden,
            (Chunked::Extension { size, length }, _) => Chunked::Extension { size, length: length + 1 },
            (Chunked::DataEnd, b'\r') => Chunked::DataEnd,
            (Chunked::DataEnd, b'\n') => Chunked::Size { size: 0, digits: 0 },
            (Chunked::DataEnd | Chunked::Data { .. }, _) => return Reached::Hidden,
            (Chunked::Trailer { empty: true, .. }, b'\n') => return Reached::End,
            (Chunked::Trailer { length, .. }, _) if length >= MAX_TRAILERS => return Reached::Hidden,
            (Chunked::Trailer { length, empty }, b'\r') => Chunked::Trailer { length: length + 1, empty },
            (Chunked::Trailer { length, .. }, _) => {
                Chunked::Trailer { length: length + 1, empty: byte == b'\n' }
            }
        };
        *self = next;
        Reached::Inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data bytes, what is left over, and where the body got to, whole and byte by byte.
    fn check(bytes: &str, data: u64, rest: &str, state: Reached) {
        let (mut whole, mut content) = (Body::CHUNKED, Vec::new());
        let progress = whole.feed(bytes.as_bytes(), |piece| content.extend_from_slice(piece));
        let left = bytes.get(usize::try_from(progress.taken).unwrap()..).unwrap();
        assert_eq!((progress.data, left, progress.state), (data, rest, state), "{bytes:?}");

        assert_eq!(content.len() as u64, data, "{bytes:?}");

        let (mut split, mut sum, mut by_bytes) = (Body::CHUNKED, 0, Vec::new());
        for (index, byte) in bytes.bytes().enumerate() {
            let progress = split.feed(&[byte], |piece| by_bytes.extend_from_slice(piece));
            sum += progress.data;
            if progress.state != Reached::Inside {
                assert_eq!((sum, bytes.len() - index - 1, progress.state), (data, rest.len(), state));
                assert_eq!(by_bytes, content, "{bytes:?} by bytes");
                return;
            }
        }
        assert_eq!((sum, state, split), (data, Reached::Inside, whole), "{bytes:?} by bytes");
        assert_eq!(by_bytes, content, "{bytes:?} by bytes");
    }

    #[test]
    fn chunked_bodies_end_where_rfc_9112_7_1_says() {
        check("5\r\nhello\r\n0\r\n\r\n", 5, "", Reached::End);
        check("5\r\nhello\r\n0\r\n\r\nGET /", 5, "GET /", Reached::End);
        check("A\r\n0123456789\r\n2;a=b;c=\"d\"\r\nhi\r\n000\r\n\r\n", 12, "", Reached::End);
        check("5 \r\nhello\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\nrest", 5, "rest", Reached::End);
        check("5\nhello\n0\n\nrest", 5, "rest", Reached::End);
        check("5\r\nhel", 3, "", Reached::Inside);
        check("0\r\nx: 1\r\n", 0, "", Reached::Inside);
        check("hello", 0, "ello", Reached::Hidden);
        check("\r\n", 0, "\n", Reached::Hidden);
        check("5x\r\n", 0, "\r\n", Reached::Hidden);
        check("5\r\nhello!", 5, "", Reached::Hidden);
        check("11112222333344445\r\n", 0, "\r\n", Reached::Hidden);
    }

    #[test]
    fn endless_lines_are_given_up() {
        for start in ["5;", "0\r\nx: "] {
            let mut body = Body::CHUNKED;
            assert_eq!(body.feed(start.as_bytes(), |_| ()).state, Reached::Inside);
            assert_eq!(body.feed(&[b'a'; 20_000], |_| ()).state, Reached::Hidden);
        }
    }

    #[test]
    fn a_gap_inside_a_chunk_is_harmless_and_across_chunks_is_not() {
        let mut body = Body::CHUNKED;
        body.feed(b"64\r\nab", |_| ());
        assert_eq!(body.skip(97), Progress { taken: 97, data: 97, state: Reached::Inside });
        assert_eq!(body.certain(), 1);
        assert_eq!(body.skip(1), Progress { taken: 1, data: 1, state: Reached::Inside });
        assert_eq!(body.feed(b"\r\n0\r\n\r\n", |_| ()).state, Reached::End);

        let mut body = Body::CHUNKED;
        body.feed(b"64\r\nab", |_| ());
        assert_eq!(body.skip(99).state, Reached::Hidden);
    }

    #[test]
    fn data_is_handed_on_without_the_transfer_coding() {
        let check = |mut body: Body, bytes: &[u8], want: &[u8]| {
            let mut content = Vec::new();
            body.feed(bytes, |piece| content.extend_from_slice(piece));
            assert_eq!(content, want, "{}", bytes.escape_ascii());
        };
        check(Body::CHUNKED, b"5;a=b\r\nhello\r\n3\r\n\r\n!\r\n0\r\nsum: 1\r\n\r\nGET", b"hello\r\n!");
        check(Body::Length(5), b"helloGET", b"hello");
        check(Body::UntilClose, b"hello", b"hello");
    }

    #[test]
    fn a_known_length_counts_through_gaps() {
        let mut body = Body::Length(100);
        assert_eq!(body.feed(b"abc", |_| ()), Progress { taken: 3, data: 3, state: Reached::Inside });
        assert_eq!(body.skip(96), Progress { taken: 96, data: 96, state: Reached::Inside });
        assert_eq!(body.feed(b"zGET", |_| ()), Progress { taken: 1, data: 1, state: Reached::End });
    }
}
