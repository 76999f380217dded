//! Header fields -> consumer. So far rules are headers, in order; the first that has a value decides.
//!
//! A credential is hashed before it is stored or compared, so nothing here holds one.

use std::{collections::HashMap, fmt, sync::Arc};

use hmac::{Hmac, Mac as _};
use httparse::Header;
use sha2::Sha256;

/// Longest identifier, characters; the hub's bound.
const MAX_IDENTIFIER: usize = 128;

/// Hex digits of a hashed identifier.
const HASH_DIGITS: usize = 16;

/// Separates this use of the client id from every other.
const KEY_CONTEXT: &[u8] = b"apitally-agent consumer identity v1";

/// Whether values of a header of this name are to be taken for secrets: the hub's masking patterns, `auth`,
/// `api-?key`, `secret`, `token` and `cookie`, anywhere in the name and in any case; `api_key` too.
pub fn is_sensitive_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "apikey", "api-key", "api_key", "secret", "token", "cookie"]
        .iter()
        .any(|pattern| name.contains(pattern))
}

/// The key that hashes consumers by default. It depends on the client id alone, so that a consumer is the
/// same one on every host and after every restart.
pub fn key_from_client_id(client_id: &str) -> [u8; 32] {
    let mut mac = keyed(KEY_CONTEXT);
    mac.update(client_id.as_bytes());
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// How a value becomes an identifier.
#[derive(Clone)]
pub enum Identity {
    /// As it is, cut to 128 characters.
    Plain,
    /// The first 16 hex digits of its HMAC-SHA-256.
    Hashed(Hmac<Sha256>),
}

impl Identity {
    pub fn hashed(key: &[u8; 32]) -> Self {
        Self::Hashed(keyed(key))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Hashed(_) => "Hashed",
        })
    }
}

/// Takes the consumer from a header.
#[derive(Clone, Debug)]
pub struct HeaderRule {
    name: String,
    identity: Identity,
}

impl HeaderRule {
    /// `name` in any case.
    pub fn new(name: &str, identity: Identity) -> Self {
        Self { name: name.to_ascii_lowercase(), identity }
    }
}

/// Where consumers come from: rules in order, of which the first whose header has a value decides.
#[derive(Clone, Debug, Default)]
pub struct ConsumerRules {
    pub headers: Vec<HeaderRule>,
}

impl ConsumerRules {
    /// Writes the identifier of whoever sent these fields; false when no rule matches. A value is trimmed,
    /// and an empty one is as good as none; one that is no UTF-8 is read as Latin-1.
    fn identify(&self, fields: &[Header<'_>], identifier: &mut String) -> bool {
        for rule in &self.headers {
            let value = fields
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case(&rule.name))
                .map(|field| field.value.trim_ascii())
                .find(|value| !value.is_empty());
            let Some(value) = value else { continue };
            identifier.clear();
            match &rule.identity {
                Identity::Plain => {
                    // Both have blanks that ASCII does not know.
                    match str::from_utf8(value) {
                        Ok(text) => identifier.extend(text.trim_start().chars().take(MAX_IDENTIFIER)),
                        Err(_) => {
                            let text = value.iter().map(|&byte| byte as char);
                            let text = text.skip_while(|letter| letter.is_whitespace());
                            identifier.extend(text.take(MAX_IDENTIFIER));
                        }
                    }
                    identifier.truncate(identifier.trim_end().len());
                }
                Identity::Hashed(key) => {
                    let hash = key.clone().chain_update(value).finalize().into_bytes();
                    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                    identifier.extend(
                        digits.take(HASH_DIGITS).filter_map(|digit| char::from_digit(digit.into(), 16)),
                    );
                }
            }
            if !identifier.is_empty() {
                return true;
            }
        }
        false
    }
}

/// Names a consumer of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId(u32);

/// Whom a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identified {
    /// No rule matched.
    Nobody,
    Consumer(ConsumerId),
    /// A consumer the table has no room for.
    NoRoom,
}

/// The consumers of one target. Once the table is full, new ones are turned away.
#[derive(Debug)]
pub struct Consumers {
    rules: Arc<ConsumerRules>,
    ids: HashMap<Box<str>, ConsumerId>,
    identifiers: Vec<Box<str>>,
    max: usize,
    /// Reused, so that a known consumer costs no allocation.
    identifier: String,
}

impl Consumers {
    pub fn new(rules: Arc<ConsumerRules>, max: usize) -> Self {
        Self { rules, ids: HashMap::new(), identifiers: Vec::new(), max, identifier: String::new() }
    }

    /// Identifies by other rules from here on. Consumers that are known keep their ids.
    pub fn replace(&mut self, rules: Arc<ConsumerRules>) {
        self.rules = rules;
    }

    pub fn identify(&mut self, fields: &[Header<'_>]) -> Identified {
        if !self.rules.identify(fields, &mut self.identifier) {
            return Identified::Nobody;
        }
        if let Some(&id) = self.ids.get(self.identifier.as_str()) {
            return Identified::Consumer(id);
        }
        let next = u32::try_from(self.identifiers.len()).ok().filter(|_| self.identifiers.len() < self.max);
        let Some(next) = next else { return Identified::NoRoom };
        let (id, identifier) = (ConsumerId(next), Box::<str>::from(self.identifier.as_str()));
        self.identifiers.push(identifier.clone());
        self.ids.insert(identifier, id);
        Identified::Consumer(id)
    }

    /// Consumers that are known.
    pub fn count(&self) -> usize {
        self.identifiers.len()
    }

    pub fn identifier(&self, id: ConsumerId) -> Option<&str> {
        self.identifiers.get(id.0 as usize).map(|identifier| &**identifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(rules: Vec<HeaderRule>, fields: &[(&str, &[u8])]) -> Option<String> {
        let fields: Vec<_> = fields.iter().map(|&(name, value)| Header { name, value }).collect();
        let mut consumers = Consumers::new(Arc::new(ConsumerRules { headers: rules }), 10);
        match consumers.identify(&fields) {
            Identified::Consumer(id) => consumers.identifier(id).map(str::to_owned),
            _ => None,
        }
    }

    #[test]
    fn the_first_rule_with_a_value_decides() {
        let rules = || vec![HeaderRule::new("X-A", Identity::Plain), HeaderRule::new("x-b", Identity::Plain)];
        let check = |fields: &[(&str, &[u8])], want: Option<&str>| {
            assert_eq!(identify(rules(), fields).as_deref(), want);
        };
        check(&[("X-B", b"bob"), ("x-a", b" alice ")], Some("alice"));
        check(&[("X-B", b"bob"), ("x-a", b"  ")], Some("bob"));
        check(&[("x-a", b""), ("x-a", b"second")], Some("second"));
        check(&[("x-c", b"carol")], None);
        check(&[("x-a", &[b'Z', 0xfc])], Some("Zü"));
        check(&[("x-a", &[0xa0, b'Z', 0xfc, 0xa0])], Some("Zü"));
        check(&[("x-a", "\u{3000}".as_bytes()), ("x-b", b"bob")], Some("bob"));
        check(&[("x-a", "ü".repeat(200).as_bytes())], Some("ü".repeat(128).as_str()));
    }

    #[test]
    fn a_hash_depends_on_the_key_and_is_what_hmac_says() {
        let hash = |key: [u8; 32]| {
            identify(
                vec![HeaderRule::new("x-api-key", Identity::hashed(&key))],
                &[("X-Api-Key", b" Hi There ")],
            )
        };
        let mut rfc_4231 = [0; 32];
        rfc_4231[..20].fill(0x0b); // its first test; HMAC pads keys with zeros
        assert_eq!(hash(rfc_4231).as_deref(), Some("b0344c61d8db3853"));
        let keys = [key_from_client_id("a"), key_from_client_id("b")];
        assert_ne!(hash(keys[0]), hash(keys[1]));
    }

    #[test]
    fn sensitive_names_are_the_hubs() {
        let check = |name, want| assert_eq!(is_sensitive_name(name), want, "{name}");
        check("Authorization", true);
        check("X-API-Key", true);
        check("x-apikey", true);
        check("Set-Cookie", true);
        check("client-Secret", true);
        check("X-Token", true);
        check("X-Consumer-Id", false);
        check("x-api-version", false);
    }

    #[test]
    fn a_full_table_turns_new_consumers_away() {
        let rules = ConsumerRules { headers: vec![HeaderRule::new("x-a", Identity::Plain)] };
        let mut consumers = Consumers::new(Arc::new(rules), 1);
        let first = consumers.identify(&[Header { name: "x-a", value: b"1" }]);
        assert!(matches!(first, Identified::Consumer(_)));
        assert_eq!(consumers.identify(&[Header { name: "x-a", value: b"2" }]), Identified::NoRoom);
        assert_eq!(consumers.identify(&[Header { name: "x-a", value: b"1" }]), first);
    }
}
