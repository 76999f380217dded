//! What the user's table calls consumers.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
    sync::Arc,
};

use super::{
    MAX_IDENTIFIER, MAX_NAME,
    key::{Hashed, Key},
    rules::Origin,
};

/// Consumers of one table.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Names and groups by identifier. An entry is found by the identifier as it is reported, by that without the rule's
/// prefix, and by the value that a hash stands for; of all of them only keyed hashes are kept.
#[derive(Clone, Default)]
pub struct NameTable {
    entries: HashMap<Hashed, Names>,
    /// Entries that were added; identifiers of more than 128 characters have two places.
    count: usize,
    /// Each group once.
    groups: HashSet<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    name: Option<Box<str>>,
    group: Option<Arc<str>>,
}

/// Why an entry cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the identifier is empty")]
    NoIdentifier,
    #[error("there is neither a name nor a group; give at least one")]
    NoNames,
    #[error("this identifier is there already")]
    Duplicate,
    #[error("more than {MAX_ENTRIES} consumers are too many")]
    TooMany,
}

impl NameTable {
    /// Adds what a consumer is called. Blanks around are left out, and what is longer than the hub takes is cut.
    ///
    /// # Errors
    /// When the entry says nothing, is there already, or is one too many; see [`MAX_ENTRIES`].
    pub fn insert(&mut self, key: &Key, identifier: &str, name: &str, group: &str) -> Result<(), NameError> {
        let identifier = identifier.trim();
        let names =
            Names { name: short(name).map(Into::into), group: short(group).map(|group| self.intern(&group)) };
        if identifier.is_empty() {
            return Err(NameError::NoIdentifier);
        }
        if names.name.is_none() && names.group.is_none() {
            return Err(NameError::NoNames);
        }
        if self.count >= MAX_ENTRIES {
            return Err(NameError::TooMany);
        }
        // A long one may be a secret, which is hashed whole, or an identifier, which is cut.
        if let Some((end, _)) = identifier.char_indices().nth(MAX_IDENTIFIER) {
            let cut = identifier.get(..end).unwrap_or_default().trim_end();
            self.entries.entry(key.hash(cut.as_bytes())).or_insert_with(|| names.clone());
        }
        match self.entries.entry(key.hash(identifier.as_bytes())) {
            Entry::Occupied(_) => return Err(NameError::Duplicate),
            Entry::Vacant(entry) => entry.insert(names),
        };
        self.count += 1;
        Ok(())
    }

    /// Name and group of a consumer; both empty when the table does not know it.
    pub(super) fn find(&self, key: &Key, identifier: &str, origin: Origin) -> (Option<&str>, Option<&str>) {
        if self.entries.is_empty() {
            return (None, None);
        }
        let value = identifier.get(usize::from(origin.prefix)..).unwrap_or_default();
        let places = [Some(key.hash(identifier.as_bytes())), Some(key.hash(value.as_bytes())), origin.hashed];
        match places.into_iter().flatten().find_map(|place| self.entries.get(&place)) {
            Some(names) => (names.name.as_deref(), names.group.as_deref()),
            None => (None, None),
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn intern(&mut self, group: &str) -> Arc<str> {
        if let Some(known) = self.groups.get(group) {
            return Arc::clone(known);
        }
        let group: Arc<str> = group.into();
        self.groups.insert(Arc::clone(&group));
        group
    }
}

impl fmt::Debug for NameTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameTable({} consumers)", self.count)
    }
}

/// As the hub takes it; None when nothing is left.
fn short(text: &str) -> Option<String> {
    let text: String = text.trim().chars().take(MAX_NAME).collect();
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::from_client_id("a client")
    }

    fn plain(prefix: u16) -> Origin {
        Origin { prefix, hashed: None }
    }

    #[test]
    fn an_entry_is_found_by_each_form_of_its_identifier() {
        let secret = key().hash(b"s3cret");
        let check = |entry: &str, identifier: &str, origin: Origin, want: bool| {
            let mut table = NameTable::default();
            table.insert(&key(), entry, "Alice", "").unwrap();
            let found = table.find(&key(), identifier, origin) == (Some("Alice"), None);
            assert_eq!(found, want, "{identifier} by {entry}");
        };
        check("alice", "alice", plain(0), true);
        check(" alice ", "alice", plain(0), true);
        check("alice", "u:alice", plain(2), true);
        check("u:alice", "u:alice", plain(2), true);
        check("alice", "u:alice", plain(0), false);
        check("bob", "alice", plain(0), false);
        let (hash, prefixed) = (secret.to_string(), format!("key:{secret}"));
        let (bare, behind) =
            (Origin { prefix: 0, hashed: Some(secret) }, Origin { prefix: 4, hashed: Some(secret) });
        check("s3cret", &hash, bare, true);
        check("s3cret", &prefixed, behind, true);
        check(&hash, &hash, bare, true);
        check(&hash, &prefixed, behind, true);
        check(&prefixed, &prefixed, behind, true);
        check("s3cret", &hash, plain(0), false);
        let long = "x".repeat(200);
        check(&long, &long[..128], plain(0), true);
        let hashed = key().hash(long.as_bytes());
        check(&long, &hashed.to_string(), Origin { prefix: 0, hashed: Some(hashed) }, true);
    }

    #[test]
    fn entries_that_say_nothing_are_refused() {
        let mut table = NameTable::default();
        let mut insert =
            |identifier: &str, name: &str, group: &str| table.insert(&key(), identifier, name, group);
        assert_eq!(insert(" ", "a", ""), Err(NameError::NoIdentifier));
        assert_eq!(insert("a", " ", ""), Err(NameError::NoNames));
        assert_eq!(insert("a", "", "g"), Ok(()));
        assert_eq!(insert(" a", "n", "g"), Err(NameError::Duplicate));
        assert_eq!(insert("b", &"ü".repeat(70), "g"), Ok(()));
        let cut = "ü".repeat(64);
        assert_eq!(table.find(&key(), "b", plain(0)), (Some(cut.as_str()), Some("g")));
        assert_eq!((table.len(), table.groups.len()), (2, 1));
        assert_eq!(format!("{table:?}"), "NameTable(2 consumers)");
    }
}
