//! The user's rules: in which order sources are asked, and how a value becomes an identifier.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    sync::Arc,
};

use wildmatch::WildMatch;

use super::{
    MAX_IDENTIFIER, MAX_NAME,
    key::{Hashed, Key},
    names::NameTable,
    source::{Evidence, Scratch, Source, behind_scheme, is_token_byte},
};

/// Longest prefix, characters: half of an identifier.
pub const MAX_PREFIX: usize = 64;

/// Rules of one target, names and groups included: each is looked at for each request.
pub const MAX_RULES: usize = 64;

/// Patterns in an allow list; each is tried for each request. Plain values are not bounded: they cost nothing more.
pub const MAX_PATTERNS: usize = 64;

/// When an identifier is a keyed hash of the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hashing {
    /// Where the value may be a secret, see [`Source::is_secret`].
    #[default]
    Auto,
    Always,
    Never,
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("{saw:?} is not a header name; write it like X-API-Key")]
    HeaderName { saw: String },
    #[error("{saw:?} is not a cookie name: it has characters that none has")]
    CookieName { saw: String },
    #[error("{saw:?} is not an authentication scheme; write it like Bearer")]
    SchemeName { saw: String },
    #[error("the name of {what} has 1 to {max} bytes, this one has {length}")]
    Name { what: &'static str, max: usize, length: usize },
    #[error("a scheme can only be taken off the value of a header")]
    SchemeWithoutHeader,
    #[error(
        "prefix {saw:?} is too long, or has blanks in front or characters that cannot be seen; use at most {MAX_PREFIX} characters"
    )]
    Prefix { saw: String },
    #[error("an allow list needs at least one value; leave it out to allow all")]
    NothingAllowed,
    #[error(
        "an allow list may have at most {MAX_PATTERNS} patterns with * or ?, this one has {saw}; plain values may be more"
    )]
    TooManyPatterns { saw: usize },
    #[error("a forwarded address needs to know how many proxies are trusted, at least 1")]
    NoProxies,
    #[error("a name or a group is shown as it is, and this one may be a secret: take it from another header")]
    SecretName,
    #[error("{saw} rules are more than the {MAX_RULES} that one target may have")]
    TooManyRules { saw: usize },
}

/// One rule, as the user gives it.
#[derive(Clone)]
pub struct ConsumerRule {
    source: Source,
    scheme: Option<String>,
    prefix: String,
    hashing: Hashing,
    /// None allows every value.
    allow: Option<Vec<String>>,
}

impl ConsumerRule {
    pub fn new(source: Source) -> Self {
        Self { source, scheme: None, prefix: String::new(), hashing: Hashing::Auto, allow: None }
    }

    /// Takes only values behind this authentication scheme, in any case, and takes them without it: `Bearer x` and
    /// `bearer  x` are one consumer then, and the same as `x` in another header. Without this a header's whole value
    /// identifies, scheme included.
    ///
    /// # Errors
    /// When it is no scheme, or the rule is for something else than a header.
    pub fn scheme(mut self, scheme: &str) -> Result<Self, RuleError> {
        if !self.source.is_header() {
            return Err(RuleError::SchemeWithoutHeader);
        }
        let name = scheme.trim();
        if name.is_empty() || name.len() > MAX_PREFIX || !name.bytes().all(is_token_byte) {
            return Err(RuleError::SchemeName { saw: scheme.to_owned() });
        }
        self.scheme = Some(name.to_owned());
        Ok(self)
    }

    /// Stands before every identifier of this rule, hashed or not.
    ///
    /// # Errors
    /// When it has more than [`MAX_PREFIX`] characters, begins with a blank, or has control characters.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, RuleError> {
        let is_bad = prefix.chars().count() > MAX_PREFIX
            || prefix.starts_with(char::is_whitespace)
            || prefix.contains(char::is_control);
        if is_bad {
            return Err(RuleError::Prefix { saw: prefix.chars().take(2 * MAX_PREFIX).collect() });
        }
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }

    pub fn hashing(mut self, hashing: Hashing) -> Self {
        self.hashing = hashing;
        self
    }

    /// Takes only these values, as the request has them: before prefix and hash, behind the scheme. `*` stands for any
    /// number of characters, `?` for one. Where the rule hashes, plain ones are hashed at once and not kept.
    ///
    /// # Errors
    /// When there is none, or there are more than [`MAX_PATTERNS`] with `*` or `?`.
    pub fn allow<S: AsRef<str>>(mut self, values: impl IntoIterator<Item = S>) -> Result<Self, RuleError> {
        let values: Vec<String> = values
            .into_iter()
            .map(|value| value.as_ref().trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect();
        let patterns = values.iter().filter(|value| is_pattern(value)).count();
        if values.is_empty() {
            return Err(RuleError::NothingAllowed);
        }
        if patterns > MAX_PATTERNS {
            return Err(RuleError::TooManyPatterns { saw: patterns });
        }
        self.allow = Some(values);
        Ok(self)
    }

    /// Whether its identifiers are keyed hashes.
    pub fn hashes(&self) -> bool {
        match self.hashing {
            Hashing::Auto => self.source.is_secret(),
            Hashing::Always => true,
            Hashing::Never => false,
        }
    }
}

impl fmt::Debug for ConsumerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed = self.allow.as_ref().map(Vec::len);
        f.debug_struct("ConsumerRule")
            .field("source", &self.source)
            .field("scheme", &self.scheme)
            .field("prefix", &self.prefix)
            .field("hashing", &self.hashing)
            .field("allowed", &allowed)
            .finish()
    }
}

/// Where the consumers of a target come from, and what they are called.
#[derive(Clone, Debug)]
pub struct ConsumerRules {
    key: Key,
    /// In order: the first that finds an identifier decides.
    rules: Vec<Rule>,
    /// Likewise, for what is shown instead of the identifier.
    names: Vec<Source>,
    groups: Vec<Source>,
    table: Arc<NameTable>,
}

impl Default for ConsumerRules {
    /// No rules: there are no consumers.
    fn default() -> Self {
        let key = Key::from_client_id("");
        Self { rules: Vec::new(), names: Vec::new(), groups: Vec::new(), table: Arc::default(), key }
    }
}

impl ConsumerRules {
    /// # Errors
    /// When there are more than [`MAX_RULES`].
    pub fn new(key: Key, rules: Vec<ConsumerRule>) -> Result<Self, RuleError> {
        let rules: Vec<Rule> = rules.into_iter().map(|rule| Rule::new(rule, &key)).collect();
        Self { key, rules, ..Self::default() }.bounded()
    }

    /// Takes the name of a consumer from the first of these sources that has one, and the group likewise.
    ///
    /// # Errors
    /// When one of them may be a secret, or there are too many together with the rules.
    pub fn named_by(mut self, names: Vec<Source>, groups: Vec<Source>) -> Result<Self, RuleError> {
        if names.iter().chain(&groups).any(Source::is_secret) {
            return Err(RuleError::SecretName);
        }
        (self.names, self.groups) = (names, groups);
        self.bounded()
    }

    /// Takes names and groups from this table first. It must have been made with the same key.
    pub fn with_names(mut self, table: Arc<NameTable>) -> Self {
        self.table = table;
        self
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    pub fn names(&self) -> &NameTable {
        &self.table
    }

    /// Whether the kernel side must tell who is at the other end of connections.
    pub fn needs_peer(&self) -> bool {
        let sources = self.rules.iter().map(|rule| &rule.source);
        sources.chain(&self.names).chain(&self.groups).any(Source::needs_peer)
    }

    fn bounded(self) -> Result<Self, RuleError> {
        let saw = self.rules.len() + self.names.len() + self.groups.len();
        if saw > MAX_RULES { Err(RuleError::TooManyRules { saw }) } else { Ok(self) }
    }

    /// Writes the identifier of whoever sent this; None when no rule matches.
    pub(super) fn identify(
        &self,
        evidence: &Evidence<'_>,
        scratch: &mut Scratch,
        identifier: &mut String,
    ) -> Option<Origin> {
        self.rules.iter().find_map(|rule| rule.identify(evidence, &self.key, scratch, identifier))
    }

    /// Whether requests may say what their consumers are called.
    pub(super) fn has_name_sources(&self) -> bool {
        !self.names.is_empty() || !self.groups.is_empty()
    }

    /// Writes the name that a request gives its consumer; false when it gives none.
    pub(super) fn find_name(
        &self,
        evidence: &Evidence<'_>,
        scratch: &mut Scratch,
        name: &mut String,
    ) -> bool {
        find_text(&self.names, evidence, scratch, name)
    }

    pub(super) fn find_group(
        &self,
        evidence: &Evidence<'_>,
        scratch: &mut Scratch,
        group: &mut String,
    ) -> bool {
        find_text(&self.groups, evidence, scratch, group)
    }
}

fn find_text(sources: &[Source], evidence: &Evidence<'_>, scratch: &mut Scratch, text: &mut String) -> bool {
    text.clear();
    sources.iter().any(|source| {
        let value = source.find(evidence, scratch);
        value.is_some_and(|value| push_text(value, MAX_NAME, text))
    })
}

/// How an identifier was made, which is what a table of names needs to find it by what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Bytes of the prefix.
    pub prefix: u16,
    pub hashed: Option<Hashed>,
}

/// One rule, ready for use.
#[derive(Clone, Debug)]
struct Rule {
    source: Source,
    scheme: Option<String>,
    prefix: String,
    /// Characters that the prefix leaves for the value.
    room: usize,
    hashes: bool,
    allow: Option<Allowed>,
}

impl Rule {
    fn new(rule: ConsumerRule, key: &Key) -> Self {
        let hashes = rule.hashes();
        let ConsumerRule { source, scheme, prefix, allow, .. } = rule;
        let room = MAX_IDENTIFIER.saturating_sub(prefix.chars().count());
        let allow = allow.map(|values| Allowed::new(values, hashes.then_some(key)));
        Self { source, scheme, prefix, room, hashes, allow }
    }

    fn identify(
        &self,
        evidence: &Evidence<'_>,
        key: &Key,
        scratch: &mut Scratch,
        identifier: &mut String,
    ) -> Option<Origin> {
        let value = self.source.find(evidence, scratch)?;
        let value = match &self.scheme {
            Some(scheme) => behind_scheme(value, scheme)?,
            None => value,
        };
        let hashed = self.hashes.then(|| key.hash(value));
        if let Some(allow) = &self.allow
            && !allow.contains(value, hashed)
        {
            return None;
        }
        identifier.clear();
        identifier.push_str(&self.prefix);
        let has_value = match hashed {
            Some(hashed) => write!(identifier, "{hashed}").is_ok(),
            None => push_text(value, self.room, identifier),
        };
        let prefix = u16::try_from(self.prefix.len()).ok()?;
        has_value.then_some(Origin { prefix, hashed })
    }
}

/// Adds `value`, without blanks around it and cut to `max` characters; false when nothing is left. What is no UTF-8 is
/// read as Latin-1. Both have blanks that ASCII does not know.
fn push_text(value: &[u8], max: usize, text: &mut String) -> bool {
    let before = text.len();
    match str::from_utf8(value) {
        Ok(value) => text.extend(value.trim_start().chars().take(max)),
        Err(_) => {
            let value = value.iter().map(|&byte| byte as char).skip_while(|letter| letter.is_whitespace());
            text.extend(value.take(max));
        }
    }
    let added = text.get(before..).unwrap_or_default().trim_end().len();
    text.truncate(before + added);
    added > 0
}

/// An allow list.
#[derive(Clone)]
struct Allowed {
    values: Values,
    patterns: Vec<WildMatch>,
}

#[derive(Clone)]
enum Values {
    Plain(HashSet<Box<[u8]>>),
    Hashed(HashSet<Hashed>),
}

impl Allowed {
    /// `key`: that of a rule that hashes.
    fn new(values: Vec<String>, key: Option<&Key>) -> Self {
        let (patterns, values): (Vec<String>, Vec<String>) =
            values.into_iter().partition(|value| is_pattern(value));
        let values = match key {
            Some(key) => Values::Hashed(values.iter().map(|value| key.hash(value.as_bytes())).collect()),
            None => Values::Plain(values.into_iter().map(|value| value.into_bytes().into()).collect()),
        };
        Self { values, patterns: patterns.iter().map(|pattern| WildMatch::new(pattern)).collect() }
    }

    fn contains(&self, value: &[u8], hashed: Option<Hashed>) -> bool {
        let is_listed = match &self.values {
            Values::Plain(values) => values.contains(value),
            Values::Hashed(values) => hashed.is_some_and(|hashed| values.contains(&hashed)),
        };
        let text = || str::from_utf8(value).ok();
        is_listed
            || (!self.patterns.is_empty()
                && text().is_some_and(|it| self.patterns.iter().any(|is| is.matches(it))))
    }
}

/// Patterns are not shown: with a secret's beginning they show more than they need.
impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = match &self.values {
            Values::Plain(values) => values.len(),
            Values::Hashed(values) => values.len(),
        };
        write!(f, "Allowed({values} values, {} patterns)", self.patterns.len())
    }
}

fn is_pattern(value: &str) -> bool {
    value.contains(['*', '?'])
}

#[cfg(test)]
mod tests;
