//! A message as it lies on disk: a head of fixed length and the body, with a checksum over both.

use std::time::Duration;

use uuid::Uuid;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use super::clock::Moment;

/// What kind of message it is; each way out has its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(pub u8);

/// What tells a message from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub kind: Kind,
    /// Its identity towards whoever takes it.
    pub message: Uuid,
    /// Whose it is: the instance.
    pub source: Uuid,
    pub made: Moment,
}

/// A message that is kept until somebody takes it. Made once, so every try to deliver it is the same, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub label: Label,
    pub body: Vec<u8>,
}

/// How far an account was settled once this message was on disk; see [`super::account::Account`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub life: Uuid,
    pub exchanges: u64,
}

/// Why a file is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it is of another kind or version")]
    Foreign,
    #[error("it was not written to its end")]
    Torn,
    #[error("its checksum does not fit")]
    Checksum,
}

const MAGIC: [u8; 8] = *b"apspool1";
/// Of the file, where what the checksum covers begins.
const COVERED: usize = 12;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    /// CRC-32 of everything behind it.
    checksum: U32,
    /// Bytes.
    body_len: U32,
    made_wall_us: U64,
    made_since_boot_us: U64,
    settled_exchanges: U64,
    made_boot: [u8; 16],
    message: [u8; 16],
    source: [u8; 16],
    settled_life: [u8; 16],
    kind: u8,
    zero: [u8; 7],
}

/// Bytes before the body.
pub const HEAD_LEN: usize = size_of::<Head>();
const _: () = assert!(HEAD_LEN == 112);

/// The bytes that come before the body. None when the body is longer than the format can say.
pub fn head(entry: &Entry, settled: Settled) -> Option<Vec<u8>> {
    let Label { kind, message, source, made } = entry.label;
    let mut head = Head {
        magic: MAGIC,
        checksum: U32::ZERO,
        body_len: U32::new(u32::try_from(entry.body.len()).ok()?),
        made_wall_us: micros(made.wall),
        made_since_boot_us: micros(made.since_boot),
        settled_exchanges: U64::new(settled.exchanges),
        made_boot: made.boot.into_bytes(),
        message: message.into_bytes(),
        source: source.into_bytes(),
        settled_life: settled.life.into_bytes(),
        kind: kind.0,
        zero: [0; 7],
    };
    head.checksum = U32::new(checksum(&head.as_bytes()[COVERED..], &entry.body));
    Some(head.as_bytes().to_vec())
}

/// The message in a file.
///
/// # Errors
/// When the file holds anything but one whole message.
pub fn decode(mut file: Vec<u8>) -> Result<(Entry, Settled), Damage> {
    let magic = file.get(..MAGIC.len()).ok_or(Damage::Torn)?;
    if magic != MAGIC {
        return Err(if magic == [0; 8] { Damage::Torn } else { Damage::Foreign });
    }
    let (head, body) = Head::ref_from_prefix(&file).map_err(|_| Damage::Torn)?;
    if body.len() != head.body_len.get() as usize {
        return Err(Damage::Torn);
    }
    if head.checksum.get() != checksum(&head.as_bytes()[COVERED..], body) {
        return Err(Damage::Checksum);
    }
    let made = Moment {
        wall: Duration::from_micros(head.made_wall_us.get()),
        boot: Uuid::from_bytes(head.made_boot),
        since_boot: Duration::from_micros(head.made_since_boot_us.get()),
    };
    let settled =
        Settled { life: Uuid::from_bytes(head.settled_life), exchanges: head.settled_exchanges.get() };
    let (message, source) = (Uuid::from_bytes(head.message), Uuid::from_bytes(head.source));
    let label = Label { kind: Kind(head.kind), message, source, made };
    file.drain(..HEAD_LEN);
    Ok((Entry { label, body: file }, settled))
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

fn micros(time: Duration) -> U64 {
    U64::new(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let made = Moment {
            wall: Duration::from_micros(1_795_326_892_030_051),
            boot: Uuid::from_u128(3),
            since_boot: Duration::from_micros(4),
        };
        let (message, source) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let label = Label { kind: Kind(2), message, source, made };
        Entry { label, body: b"{\"requests\": []}".to_vec() }
    }

    const SETTLED: Settled = Settled { life: Uuid::from_u128(5), exchanges: 6 };

    fn file() -> Vec<u8> {
        let mut file = head(&entry(), SETTLED).unwrap();
        file.extend(entry().body);
        file
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(decode(file()), Ok((entry(), SETTLED)));
    }

    #[test]
    fn cut_at_any_length_it_is_torn() {
        for len in 0..file().len() {
            assert_eq!(decode(file()[..len].to_vec()), Err(Damage::Torn), "cut to {len} bytes");
        }
        let mut longer = file();
        longer.push(b'}');
        assert_eq!(decode(longer), Err(Damage::Torn));
    }

    #[test]
    fn no_bit_can_change_unnoticed() {
        for bit in 0..file().len() * 8 {
            let mut file = file();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(file).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn pages_that_never_reached_the_disk_are_zeros() {
        assert_eq!(decode(vec![0; 4096]), Err(Damage::Torn));
        assert_eq!(decode(b"#!/bin/sh\n".to_vec()), Err(Damage::Foreign));
    }
}
