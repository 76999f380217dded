//! Tables of a configuration file, read key by key.
//!
//! Every error names the place, what is there, and what should be. Which keys there are is said once: by the code
//! that takes them.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::kubernetes::pod::PREFIX;

/// A place in a file: columns are counted in characters; both begin with 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<Path>,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A value, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    pub value: T,
    pub by: Origin,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    CommandLine,
    /// This variable.
    Environment(String),
    File(Place),
    /// What a pod says of itself.
    Annotation,
    /// The label of a pod by this name.
    Label(String),
}

impl Origin {
    /// Where it is to be looked for: `--env`, `APITALLY_ENV`, `agent.toml:3:7`.
    pub fn place(&self, key: &str) -> String {
        match self {
            Self::CommandLine => format!("--{}", key.replace('_', "-")),
            Self::Environment(variable) => variable.clone(),
            Self::File(place) => place.to_string(),
            Self::Label(name) => format!("label {name}"),
            Self::Annotation => format!("annotation {PREFIX}{}", key.replace('_', "-")),
        }
    }
}

impl<T> Given<T> {
    /// A key as it is called where the value was given: `--sync-interval`, `sync_interval`.
    pub fn name(&self, key: &str) -> String {
        match self.by {
            Origin::CommandLine | Origin::Environment(_) | Origin::Annotation | Origin::Label(_) => {
                self.by.place(key)
            }
            Origin::File(_) => format!("`{key}`"),
        }
    }
}

/// What is wrong with a file's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct FileError {
    pub place: Place,
    pub problem: String,
}

/// The text of a file.
#[derive(Clone, Copy, Debug)]
pub struct Document<'d> {
    pub path: &'d Path,
    pub text: &'d str,
}

impl<'d> Document<'d> {
    /// # Errors
    /// What is no TOML.
    pub fn parse(self) -> Result<Table<'d>, FileError> {
        match DeTable::parse(self.text) {
            Ok(table) => Ok(Table {
                document: self,
                name: String::new(),
                place: self.place(table.span()),
                entries: table.into_inner(),
                known: Vec::new(),
            }),
            Err(error) => Err(FileError {
                place: self.place(error.span().unwrap_or_default()),
                problem: format!("this is no TOML: {}", error.message().replace('\n', "; ")),
            }),
        }
    }

    fn place(self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Place {
            file: self.path.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// Characters of a wrong value that are shown.
const SHOWN: usize = 60;

/// A table of which keys are being taken.
#[derive(Debug)]
pub struct Table<'d> {
    document: Document<'d>,
    /// Its header, `[a]` or `[[a.b]]`; empty at the top level.
    name: String,
    pub place: Place,
    /// What nobody has taken yet.
    entries: DeTable<'d>,
    /// The keys that were asked for, there or not.
    known: Vec<&'static str>,
}

impl<'d> Table<'d> {
    /// The value of a key; None when it is not there.
    ///
    /// # Errors
    /// When it is no `T`.
    pub fn take<T: Value>(&mut self, key: &'static str) -> Result<Option<Given<T>>, FileError> {
        let Some(found) = self.entry(key) else { return Ok(None) };
        self.read(key, &found).map(Some)
    }

    /// Where the file lies.
    pub fn directory(&self) -> &'d Path {
        self.document.path.parent().unwrap_or(Path::new(""))
    }

    /// A path; one that is not absolute begins where the file lies.
    ///
    /// # Errors
    /// When it is no path.
    pub fn take_path(&mut self, key: &'static str) -> Result<Option<Given<PathBuf>>, FileError> {
        let beside = self.directory();
        let path: Option<Given<PathBuf>> = self.take(key)?;
        Ok(path.map(|path| Given { value: beside.join(path.value), ..path }))
    }

    /// The table `[key]`; None when it is not there.
    ///
    /// # Errors
    /// When it is no table.
    pub fn take_table(&mut self, key: &'static str) -> Result<Option<Table<'d>>, FileError> {
        let Some(found) = self.entry(key) else { return Ok(None) };
        let name = format!("[{}]", self.path_of(key));
        self.table(key, name, found).map(Some)
    }

    /// The tables of a list, `[[key]]`; none when it is not there.
    ///
    /// # Errors
    /// When it is no list of tables.
    pub fn take_tables(&mut self, key: &'static str) -> Result<Option<Given<Vec<Table<'d>>>>, FileError> {
        let Some(found) = self.entry(key) else { return Ok(None) };
        let (place, span) = (self.document.place(found.span()), found.span());
        let name = format!("[[{}]]", self.path_of(key));
        match found.into_inner() {
            DeValue::Array(list) => {
                let tables = list.into_iter().map(|element| self.table(key, name.clone(), element));
                Ok(Some(Given { value: tables.collect::<Result<_, _>>()?, by: Origin::File(place) }))
            }
            other => {
                Err(self.wrong(key, &Spanned::new(span, other), &format!("a list of tables, {name}"), false))
            }
        }
    }

    /// The keys that were asked for so far.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Ends the table: whatever nobody took is unknown.
    ///
    /// `elsewhere` names keys of another table and where they belong.
    ///
    /// # Errors
    /// The first unknown key, with the one that was probably meant.
    pub fn finish(self, elsewhere: &[(&[&str], &str)]) -> Result<(), FileError> {
        let unknown = self.entries.keys().min_by_key(|key| key.span().start);
        let Some(unknown) = unknown else { return Ok(()) };
        let key: &str = unknown.get_ref();
        let nearest = nearest(key, &self.known);
        let belongs = elsewhere.iter().find(|(keys, _)| keys.contains(&key));
        let advice = match (nearest, belongs) {
            (_, Some((_, place))) => format!("it belongs {place}"),
            (Some(known), None) => format!("did you mean `{known}`?"),
            (None, None) => format!("known are {}", listed(&self.known)),
        };
        Err(FileError {
            place: self.document.place(unknown.span()),
            problem: format!("unknown key `{}` {}; {advice}", shown(key), self.whereabouts()),
        })
    }

    /// An error about this table as a whole.
    pub fn error(&self, problem: &str) -> FileError {
        FileError { place: self.place.clone(), problem: format!("{}: {problem}", self.name) }
    }

    fn entry(&mut self, key: &'static str) -> Option<Spanned<DeValue<'d>>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    fn table(&self, key: &str, name: String, found: Spanned<DeValue<'d>>) -> Result<Table<'d>, FileError> {
        let span = found.span();
        match found.into_inner() {
            DeValue::Table(entries) => Ok(Table {
                document: self.document,
                name,
                place: self.document.place(span),
                entries,
                known: Vec::new(),
            }),
            other => Err(self.wrong(key, &Spanned::new(span, other), &format!("a table, {name}"), false)),
        }
    }

    fn read<T: Value>(&self, key: &str, found: &Spanned<DeValue<'d>>) -> Result<Given<T>, FileError> {
        match T::read(found.get_ref()) {
            Some(value) => Ok(Given { value, by: Origin::File(self.document.place(found.span())) }),
            None => Err(self.wrong(key, found, T::WANTED, T::SECRET)),
        }
    }

    fn wrong(&self, key: &str, found: &Spanned<DeValue<'_>>, wanted: &str, secret: bool) -> FileError {
        let kind = match found.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let text = self.document.text.get(found.span()).unwrap_or_default();
        let saw = if secret || found.get_ref().is_table() || found.get_ref().is_array() {
            kind.to_owned()
        } else {
            format!("{kind}, {}", shown(text))
        };
        FileError {
            place: self.document.place(found.span()),
            problem: format!("`{key}` {} is {saw}; it must be {wanted}", self.whereabouts()),
        }
    }

    fn whereabouts(&self) -> String {
        if self.name.is_empty() { "at the top level".to_owned() } else { format!("in {}", self.name) }
    }

    /// A key of this table as headers of tables write it.
    fn path_of(&self, key: &str) -> String {
        let outer = self.name.trim_matches(['[', ']']);
        if outer.is_empty() { key.to_owned() } else { format!("{outer}.{key}") }
    }
}

/// What a key may hold.
pub trait Value: Sized {
    /// What is right, with an example; follows "must be".
    const WANTED: &'static str;
    /// A wrong one is not shown.
    const SECRET: bool = false;

    fn read(value: &DeValue<'_>) -> Option<Self>;
}

impl Value for String {
    const WANTED: &'static str = "a string in quotes";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Value for PathBuf {
    const WANTED: &'static str = "a path in quotes";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().filter(|path| !path.is_empty()).map(Self::from)
    }
}

impl Value for bool {
    const WANTED: &'static str = "true or false";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Value for u16 {
    const WANTED: &'static str = "a port from 1 to 65535, such as 8000";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        integer(value).filter(|port| *port > 0)
    }
}

impl Value for u32 {
    const WANTED: &'static str = "a whole number from 0 to 4294967295";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        integer(value)
    }
}

impl Value for u64 {
    const WANTED: &'static str = "a whole number, such as 50000000";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        integer(value)
    }
}

impl Value for Vec<u16> {
    const WANTED: &'static str = "a list of ports from 1 to 65535, such as [8000]";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| u16::read(item.get_ref())).collect()
    }
}

impl Value for Duration {
    const WANTED: &'static str = "a span of time in quotes, such as \"10s\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

fn integer<T: TryFrom<u64>>(value: &DeValue<'_>) -> Option<T> {
    let digits = value.as_integer()?;
    u64::from_str_radix(digits.as_str(), digits.radix()).ok()?.try_into().ok()
}

/// The one of `known` that was probably meant by `key`.
pub fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_lowercase();
    let distances = known.iter().map(|known| (strsim::osa_distance(known, &key), *known));
    let near = distances.filter(|(distance, known)| *distance <= (known.len() / 3).max(1));
    near.min().map(|(_, known)| known)
}

/// A stranger's text, short and without what a terminal might obey.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

fn listed(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
