//! One direction of a connection in order: bytes, or gaps of known length.
//!
//! Records carry positions, so order and loss are arithmetic here and nobody above has to think about them.

/// Where a direction has got to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    /// Position after the last byte, seen or missing; None until the first record says where it starts.
    position: Option<u64>,
}

/// What one record adds to a direction: first a gap, then bytes, then another gap; each may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance<'a> {
    /// Bytes missing before `bytes`: records that never came, or that were muted.
    pub gap: u64,
    pub bytes: &'a [u8],
    /// Bytes the record stands for and does not hold, after `bytes`.
    pub gap_after: u64,
    /// Bytes the record repeated, already dropped from `bytes`.
    pub stale: u64,
}

impl Stream {
    /// A direction whose next byte is at `position`.
    pub fn starting_at(position: u64) -> Self {
        Self { position: Some(position) }
    }

    /// Position after the last byte; 0 before the first record.
    pub fn position(&self) -> u64 {
        self.position.unwrap_or(0)
    }

    /// Position that a record at `offset` would go on from.
    pub fn next_at(&self, offset: u64) -> u64 {
        self.position.unwrap_or(offset)
    }

    /// Moves to the end of a record that begins at `offset` and stands for `original_len` bytes, of which
    /// `bytes` are the first. What lies before the current position is dropped and reported as stale.
    pub fn advance<'a>(&mut self, offset: u64, original_len: u64, bytes: &'a [u8]) -> Advance<'a> {
        let position = self.next_at(offset);
        let end = offset.saturating_add(original_len);
        if end < position {
            return Advance { stale: original_len, ..Advance::default() };
        }
        self.position = Some(end);
        let stale = position.saturating_sub(offset);
        let skip = usize::try_from(stale).unwrap_or(usize::MAX);
        let bytes = bytes.get(skip..).unwrap_or_default();
        Advance {
            gap: offset.saturating_sub(position),
            bytes,
            gap_after: original_len.saturating_sub(stale).saturating_sub(bytes.len() as u64),
            stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_gap_then_bytes_then_a_gap() {
        let check = |offset, original_len, bytes: &'static [u8], want: Advance<'static>, position| {
            let mut stream = Stream::starting_at(100);
            assert_eq!(stream.advance(offset, original_len, bytes), want);
            assert_eq!(stream.position(), position);
        };
        check(100, 3, b"abc", Advance { bytes: b"abc", ..Advance::default() }, 103);
        check(105, 3, b"abc", Advance { gap: 5, bytes: b"abc", ..Advance::default() }, 108);
        check(100, 9, b"abc", Advance { bytes: b"abc", gap_after: 6, ..Advance::default() }, 109);
        check(98, 3, b"abc", Advance { bytes: b"c", stale: 2, ..Advance::default() }, 101);
        check(90, 20, b"abc", Advance { gap_after: 10, stale: 10, ..Advance::default() }, 110);
        check(90, 3, b"abc", Advance { stale: 3, ..Advance::default() }, 100);
        check(120, 0, b"", Advance { gap: 20, ..Advance::default() }, 120);
        check(
            u64::MAX,
            5,
            b"",
            Advance { gap: u64::MAX - 100, gap_after: 5, ..Advance::default() },
            u64::MAX,
        );
    }

    #[test]
    fn the_first_record_says_where_a_direction_starts() {
        let mut stream = Stream::default();
        assert_eq!(stream.advance(70, 1, b"a"), Advance { bytes: b"a", ..Advance::default() });
        assert_eq!(stream.position(), 71);
    }
}
