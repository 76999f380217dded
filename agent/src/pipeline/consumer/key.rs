//! The keyed hash that stands for a secret: HMAC-SHA-256 (RFC 2104, FIPS 180-4).

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Hex digits of a hashed identifier.
pub const HASH_DIGITS: usize = 16;

/// Shortest key that may be given, bytes: as many as the hash is long. What is shorter could be guessed more easily
/// than the hash could be hit.
pub const MIN_KEY: usize = 16;

/// Separates this use of the client id from every other.
const CONTEXT: &[u8] = b"apitally-agent consumer identity v1";

/// Patterns of the hub for headers that are masked, without case. `api-?key` is two of them; `api_key` is ours.
const SENSITIVE_HEADERS: [&str; 7] = ["auth", "apikey", "api-key", "api_key", "secret", "token", "cookie"];

/// Likewise for query parameters.
const SENSITIVE_PARAMETERS: [&str; 8] =
    ["auth", "apikey", "api-key", "api_key", "secret", "token", "password", "pwd"];

/// Whether values of a header of this name are to be taken for secrets: the hub's masking patterns, anywhere in the
/// name and in any case.
pub fn is_sensitive_name(name: &str) -> bool {
    contains_any(name, &SENSITIVE_HEADERS)
}

/// Likewise for a query parameter.
pub fn is_sensitive_parameter(name: &str) -> bool {
    contains_any(name, &SENSITIVE_PARAMETERS)
}

fn contains_any(name: &str, patterns: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    patterns.iter().any(|pattern| name.contains(pattern))
}

/// What a secret is hashed with. It is prepared once, so that a hash costs two blocks of SHA-256 for a short secret.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key has {length} bytes, without blanks around it; it needs at least {MIN_KEY}")]
pub struct KeyError {
    pub length: usize,
}

impl Key {
    /// The default key. It depends on the client id alone, so that a consumer is the same one on every host and
    /// after every restart.
    pub fn from_client_id(client_id: &str) -> Self {
        let key = keyed(CONTEXT).chain_update(client_id.as_bytes()).finalize().into_bytes();
        Self(keyed(&key))
    }

    /// A key of the user's, blanks and line ends around it left out.
    ///
    /// # Errors
    /// When it is shorter than [`MIN_KEY`].
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        let secret = secret.trim_ascii();
        if secret.len() < MIN_KEY { Err(KeyError { length: secret.len() }) } else { Ok(Self(keyed(secret))) }
    }

    /// What stands for a value.
    pub fn hash(&self, value: &[u8]) -> Hashed {
        let hash: [u8; 32] = self.0.clone().chain_update(value).finalize().into_bytes().into();
        let (first, _) = hash.split_at(8);
        Hashed(first.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// The first 64 bits of a keyed hash. Shown as [`HASH_DIGITS`] hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hashed(u64);

impl Hashed {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(digits: &str) -> Option<Self> {
        let known =
            digits.len() == HASH_DIGITS && digits.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        known.then(|| u64::from_str_radix(digits, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_hmac_says() {
        // RFC 4231, test cases 1, 3 and 6: keys of 20 bytes, and one that is longer than a block.
        let check = |key: &[u8], data: &[u8], want| {
            let hashed = Key::from_secret(key).unwrap().hash(data);
            assert_eq!(hashed.to_string(), want);
            assert_eq!(Hashed::parse(want), Some(hashed));
        };
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db3853");
        check(&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46");
        check(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f");
    }

    #[test]
    fn a_client_id_gives_the_same_key_for_good() {
        let hash = |client_id| Key::from_client_id(client_id).hash(b"secret").to_string();
        // Must never change: consumers would become other consumers.
        assert_eq!(hash("76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9"), "8beb15cbe79b09c2");
        assert_ne!(hash("a"), hash("b"));
    }

    #[test]
    fn a_key_is_not_short_and_never_shown() {
        assert_eq!(Key::from_secret(b" 15 bytes of key\n").unwrap_err().length, 15);
        let key = Key::from_secret(b" sixteen bytes ok\n").unwrap();
        assert_eq!(key.hash(b"x"), Key::from_secret(b"sixteen bytes ok").unwrap().hash(b"x"));
        assert_eq!(format!("{key:?}"), "Key(***)");
    }

    #[test]
    fn what_is_no_hash_is_not_taken_for_one() {
        for digits in ["", "b0344c61d8db385", "b0344c61d8db38533", "B0344C61D8DB3853", "+0344c61d8db3853"] {
            assert_eq!(Hashed::parse(digits), None, "{digits}");
        }
    }

    #[test]
    fn sensitive_names_are_the_hubs() {
        let check = |name, header, parameter| {
            assert_eq!(
                (is_sensitive_name(name), is_sensitive_parameter(name)),
                (header, parameter),
                "{name}"
            );
        };
        check("Authorization", true, true);
        check("X-API-Key", true, true);
        check("x-apikey", true, true);
        check("Set-Cookie", true, false);
        check("client-Secret", true, true);
        check("X-Token", true, true);
        check("oldPassword", false, true);
        check("pwd", false, true);
        check("X-Consumer-Id", false, false);
        check("x-api-version", false, false);
    }
}
