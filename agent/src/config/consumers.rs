//! Keys that say who calls, and what they mean.

use std::{fmt, path::PathBuf, sync::Arc};

use clap::ValueEnum as _;
use toml::de::DeValue;

use super::{
    ConfigError, ValueError,
    keys::{Origins, origin},
    table::{FileError, Given, Origin, Table, Value},
};
use crate::{
    cli::{ConsumerHash, CountArgs},
    consumer_files::{self, KeyFile, NamesFile},
    pipeline::consumer::{
        CertificatePart, ConsumerRule, ConsumerRules, Forwarding, Hashing, Key, RuleError, Source,
    },
};

/// What was given about consumers.
#[derive(Clone, Debug, Default)]
pub struct ConsumerKeys {
    rules: Option<Given<Vec<RuleKeys>>>,
    hash: Option<Given<ConsumerHash>>,
    names: Option<Given<Vec<SourceKeys>>>,
    groups: Option<Given<Vec<SourceKeys>>>,
    file: Option<Given<PathBuf>>,
    key_file: Option<Given<PathBuf>>,
}

/// A rule: where it looks, and what it makes of what it finds.
#[derive(Clone, Debug)]
struct RuleKeys {
    source: SourceKeys,
    scheme: Option<Given<String>>,
    prefix: Option<Given<String>>,
    hash: Option<Given<ConsumerHash>>,
    allow: Option<Given<Allowed>>,
}

/// A place in a request.
#[derive(Clone, Debug)]
struct SourceKeys {
    /// The key that says which kind of place it is; its value is the name there, if it has one.
    kind: &'static str,
    name: Given<String>,
    /// The header that it is in, where that is not the usual one.
    header: Option<Given<String>>,
    proxies: Option<Given<u16>>,
}

/// Values that count. They may be secrets.
#[derive(Clone)]
struct Allowed(Vec<String>);

impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0.len())
    }
}

const KINDS: [&str; 6] = ["header", "jwt", "cookie", "query", "client_cert", "address"];
const BASIC_USER: &str = "basic_user";

/// What consumers are found by.
#[derive(Debug)]
pub struct Consumers {
    pub rules: ConsumerRules,
    /// Where their names are kept, if in a file.
    pub names: Option<NamesFile>,
    /// The file with the key of hashed identifiers, when any user of this host can read it.
    pub open_key: Option<PathBuf>,
    /// Whether identifiers leave as hashes whose key is made from the credential.
    pub by_credential: bool,
}

impl ConsumerKeys {
    pub fn origins(&self) -> Origins {
        let all = [
            origin("consumers", self.rules.as_ref()),
            origin("consumer_hash", self.hash.as_ref()),
            origin("consumer_names", self.names.as_ref()),
            origin("consumer_groups", self.groups.as_ref()),
            origin("consumer_file", self.file.as_ref()),
            origin("consumer_key_file", self.key_file.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }

    pub fn of_flags(args: &CountArgs) -> Self {
        let by_flag = |value: &String| Given { value: value.clone(), by: Origin::CommandLine };
        Self {
            hash: args.consumer_hash.map(|value| Given { value, by: Origin::CommandLine }),
            ..Self::of_headers(args.consumer_header.iter().map(by_flag))
        }
    }

    /// Rules that look into these headers, all given in the same place.
    pub fn of_headers(names: impl Iterator<Item = Given<String>>) -> Self {
        let rule = |name| RuleKeys {
            source: SourceKeys { kind: "header", name, header: None, proxies: None },
            scheme: None,
            prefix: None,
            hash: None,
            allow: None,
        };
        let rules: Vec<RuleKeys> = names.map(rule).collect();
        let by = rules.first().map(|rule| rule.source.name.by.clone());
        Self { rules: by.map(|by| Given { value: rules, by }), ..Self::default() }
    }

    pub fn take(table: &mut Table<'_>) -> Result<Self, FileError> {
        Ok(Self {
            rules: take_each(table, "consumers", RuleKeys::take)?,
            hash: table.take("consumer_hash")?,
            names: take_each(table, "consumer_names", SourceKeys::take_alone)?,
            groups: take_each(table, "consumer_groups", SourceKeys::take_alone)?,
            file: table.take_path("consumer_file")?,
            key_file: table.take_path("consumer_key_file")?,
        })
    }

    /// Its own values, and those of `fallback` where it has none.
    pub fn or(self, fallback: Self) -> Self {
        Self {
            rules: self.rules.or(fallback.rules),
            hash: self.hash.or(fallback.hash),
            names: self.names.or(fallback.names),
            groups: self.groups.or(fallback.groups),
            file: self.file.or(fallback.file),
            key_file: self.key_file.or(fallback.key_file),
        }
    }

    /// `credential` tells the app from others; the key of hashed identities comes from it unless there is a file with
    /// one, so that a consumer is the same one on every host. A collector has none.
    ///
    /// # Errors
    /// The first value or file that cannot be used; a rule that hashes when there is nothing to make a key from.
    pub fn understand(&self, credential: Option<&str>) -> Result<Consumers, ConfigError> {
        let read_key =
            |path: &Given<PathBuf>| KeyFile::read(&path.value).map_err(|error| about_file(path, error));
        let key_file = self.key_file.as_ref().map(read_key).transpose()?;
        let is_open = key_file.as_ref().is_some_and(|file| file.is_world_readable);
        let has_key = key_file.is_some() || credential.is_some();
        // Without one it serves to find names alone, which stays between us and the file.
        let default = || Key::from_client_id(credential.unwrap_or_default());
        let key = key_file.map_or_else(default, |file| file.key);
        let mut by_credential = false;
        let rules = list(self.rules.as_ref()).map(|rule| {
            let understood = rule.understand(self.hash.as_ref())?;
            by_credential |= understood.hashes() && self.key_file.is_none();
            if understood.hashes() && !has_key { Err(rule.source.without_key()) } else { Ok(understood) }
        });
        let rules = ConsumerRules::new(key, rules.collect::<Result<_, _>>()?);
        let mut rules = rules.map_err(|error| self.about_all(self.rules.as_ref(), "consumers", error))?;
        let sources = |given| list(given).map(SourceKeys::understand).collect::<Result<Vec<_>, _>>();
        let (names, groups) = (sources(self.names.as_ref())?, sources(self.groups.as_ref())?);
        let given = self.names.as_ref().or(self.groups.as_ref());
        rules =
            rules.named_by(names, groups).map_err(|error| self.about_all(given, "consumer_names", error))?;
        let open = |path: &Given<PathBuf>| {
            NamesFile::open(&path.value, rules.key()).map_err(|error| about_file(path, error))
        };
        let (names, table) = self.file.as_ref().map(open).transpose()?.unzip();
        if let Some(table) = table {
            rules = rules.with_names(Arc::new(table));
        }
        let open_key = self.key_file.as_ref().filter(|_| is_open).map(|path| path.value.clone());
        Ok(Consumers { rules, names, open_key, by_credential })
    }

    fn about_all<T>(&self, given: Option<&Given<T>>, key: &str, error: RuleError) -> ConfigError {
        match given {
            Some(given) => ConfigError::about(given, ValueError::Consumer { name: given.name(key), error }),
            None => ConfigError::Value(ValueError::Consumer { name: key.to_owned(), error }),
        }
    }
}

impl RuleKeys {
    fn take(mut table: Table<'_>) -> Result<Self, FileError> {
        let source = SourceKeys::take(&mut table)?;
        let keys = (table.take("scheme")?, table.take("prefix")?, table.take("hash")?, table.take("allow")?);
        let missing = SourceKeys::missing(&table);
        table.finish(&[])?;
        let (scheme, prefix, hash, allow) = keys;
        Ok(Self { source: source.ok_or(missing)?, scheme, prefix, hash, allow })
    }

    fn understand(&self, usual: Option<&Given<ConsumerHash>>) -> Result<ConsumerRule, ConfigError> {
        let hashing = match self.hash.as_ref().or(usual).map(|given| given.value) {
            None | Some(ConsumerHash::Auto) => Hashing::Auto,
            Some(ConsumerHash::Always) => Hashing::Always,
            Some(ConsumerHash::Never) => Hashing::Never,
        };
        let mut rule = ConsumerRule::new(self.source.understand()?).hashing(hashing);
        if let Some(scheme) = &self.scheme {
            rule = rule.scheme(&scheme.value).map_err(|error| about(scheme, "scheme", error))?;
        }
        if let Some(prefix) = &self.prefix {
            rule = rule.prefix(&prefix.value).map_err(|error| about(prefix, "prefix", error))?;
        }
        if let Some(allow) = &self.allow {
            rule = rule.allow(&allow.value.0).map_err(|error| about(allow, "allow", error))?;
        }
        Ok(rule)
    }
}

impl SourceKeys {
    /// None when the table names no place.
    fn take(table: &mut Table<'_>) -> Result<Option<Self>, FileError> {
        let mut found = Vec::new();
        for kind in KINDS {
            found.extend(table.take::<String>(kind)?.map(|name| (kind, name)));
        }
        if let Some(basic) = table.take::<Yes>(BASIC_USER)? {
            found.push((BASIC_USER, Given { value: String::new(), by: basic.by }));
        }
        let (header, proxies) = (table.take("in")?, table.take("proxies")?);
        if found.len() > 1 {
            let kinds = found.iter().map(|(kind, _)| format!("`{kind}`")).collect::<Vec<_>>().join(" and ");
            return Err(
                table.error(&format!("{kinds} are different places to look; give each its own entry"))
            );
        }
        let Some((kind, name)) = found.pop() else { return Ok(None) };
        if header.is_some() && !matches!(kind, "jwt" | "client_cert") {
            return Err(table.error("`in` goes with `jwt` and `client_cert` alone"));
        }
        if proxies.is_some() && kind != "address" {
            return Err(table.error("`proxies` goes with `address` alone"));
        }
        Ok(Some(Self { kind, name, header, proxies }))
    }

    /// A table that says nothing else.
    fn take_alone(mut table: Table<'_>) -> Result<Self, FileError> {
        let source = Self::take(&mut table)?;
        let missing = Self::missing(&table);
        table.finish(&[])?;
        source.ok_or(missing)
    }

    fn missing(table: &Table<'_>) -> FileError {
        let kinds = KINDS.map(|kind| format!("`{kind}`")).join(", ");
        table.error(&format!("it names no place to look; give it {kinds} or `{BASIC_USER}`"))
    }

    fn understand(&self) -> Result<Source, ConfigError> {
        let name = self.name.value.as_str();
        let header = self.header.as_ref().map(|header| header.value.as_str());
        let source = match (self.kind, header) {
            ("header", _) => Source::header(name),
            ("jwt", None) => Source::jwt_claim(name),
            ("jwt", Some(header)) => Source::jwt_claim_in(header, name),
            ("cookie", _) => Source::cookie(name),
            ("query", _) => Source::query(name),
            ("client_cert", None) => Ok(Source::forwarded_certificate(part_of_certificate(name))),
            ("client_cert", Some(header)) => Source::distinguished_name(header, name),
            ("address", _) => return self.address(),
            _ => Ok(Source::basic_user()),
        };
        source.map_err(|error| about(&self.name, self.key(), error))
    }

    /// What names the place, as it is called where that was given.
    fn key(&self) -> &'static str {
        match self.name.by {
            Origin::CommandLine | Origin::Environment(_) | Origin::Annotation | Origin::Label(_) => {
                "consumer_header"
            }
            Origin::File(_) => self.kind,
        }
    }

    fn without_key(&self) -> ConfigError {
        ConfigError::about(&self.name, ValueError::NoConsumerKey { name: self.name.name(self.key()) })
    }

    fn address(&self) -> Result<Source, ConfigError> {
        let proxies = self.proxies.as_ref().map_or(0, |proxies| proxies.value);
        match Forwarding::of_header(&self.name.value) {
            Some(by) => Source::forwarded_address(by, proxies.into())
                .map_err(|error| about(&self.name, "address", error)),
            None if self.name.value == "peer" && self.proxies.is_none() => Ok(Source::peer_address()),
            None => {
                let saw = self.name.value.clone();
                Err(ConfigError::about(&self.name, ValueError::Address { saw }))
            }
        }
    }
}

/// As rules call it: an attribute of the subject's name, unless it is one of four words.
fn part_of_certificate(name: &str) -> CertificatePart {
    match name {
        "subject" => CertificatePart::Subject,
        "uri" => CertificatePart::Uri,
        "dns" => CertificatePart::Dns,
        "hash" => CertificatePart::Hash,
        attribute => CertificatePart::Attribute(attribute.to_owned()),
    }
}

fn about<T>(given: &Given<T>, key: &str, error: RuleError) -> ConfigError {
    ConfigError::about(given, ValueError::Consumer { name: given.name(key), error })
}

fn about_file(path: &Given<PathBuf>, error: consumer_files::FileError) -> ConfigError {
    ConfigError::about(path, ValueError::ConsumerFile(error.into()))
}

fn list<T>(given: Option<&Given<Vec<T>>>) -> impl Iterator<Item = &T> {
    given.into_iter().flat_map(|given| &given.value)
}

fn take_each<T>(
    table: &mut Table<'_>,
    key: &'static str,
    take: impl Fn(Table<'_>) -> Result<T, FileError>,
) -> Result<Option<Given<Vec<T>>>, FileError> {
    let Some(tables) = table.take_tables(key)? else { return Ok(None) };
    let taken = tables.value.into_iter().map(take).collect::<Result<_, _>>()?;
    Ok(Some(Given { value: taken, by: tables.by }))
}

impl Value for Allowed {
    const WANTED: &'static str = "a list of strings in quotes";
    const SECRET: bool = true;

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_array()?
            .iter()
            .map(|element| String::read(element.get_ref()))
            .collect::<Option<_>>()
            .map(Self)
    }
}

/// A key that is there or not.
struct Yes;

impl Value for Yes {
    const WANTED: &'static str = "true, or left out";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        (value.as_bool() == Some(true)).then_some(Self)
    }
}

impl Value for ConsumerHash {
    const WANTED: &'static str = "\"auto\", \"always\" or \"never\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::from_str(value.as_str()?, false).ok()
    }
}
