//! The file that `--config` names.

use std::{
    convert::Infallible,
    fmt::Display,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::{
    ConfigError, TargetSpec,
    keys::{AgentKeys, TargetKeys},
    kubernetes::KubernetesKeys,
    table::{Document, FileError, Given, Origin, Table, Value},
};
use crate::probe::{cgroup::UnitName, container::ContainerName, program::ExeGlob};

/// Longest file that is read, bytes.
const LONGEST: u64 = 1024 * 1024;

/// A configuration file, read and not yet understood.
#[derive(Debug)]
pub struct ConfigFile {
    pub agent: AgentKeys,
    /// What the top level says for all targets.
    pub defaults: TargetKeys,
    pub targets: Vec<FileTarget>,
    /// The table `[kubernetes]`; pods are watched when it is there, whatever is in it.
    pub kubernetes: Option<KubernetesKeys>,
}

/// A `[[target]]` table.
#[derive(Debug)]
pub struct FileTarget {
    pub spec: Given<TargetSpec>,
    pub keys: TargetKeys,
}

impl ConfigFile {
    /// # Errors
    /// When it cannot be read, is no TOML, or has keys or types that it should not have. Whether the values can be
    /// used is another question.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
        let text = read(path).map_err(unreadable)?;
        Ok(Self::parse(Document { path, text: &text })?)
    }

    fn parse(document: Document<'_>) -> Result<Self, FileError> {
        let mut top = document.parse()?;
        let targets = top.take_tables("target")?;
        let kubernetes = top.take_table("kubernetes")?;
        let agent = AgentKeys::take(&mut top)?;
        let agent_keys = top.known().to_vec();
        let defaults = TargetKeys::take(&mut top)?;
        top.finish(&[(&FINDERS, "in a table of its own, [[target]]")])?;
        let targets = targets.map(|tables| tables.value).unwrap_or_default();
        let read = |table| FileTarget::take(table, &agent_keys);
        let kubernetes = kubernetes.map(|table| KubernetesKeys::take(table, &agent_keys)).transpose()?;
        Ok(Self {
            agent,
            defaults,
            kubernetes,
            targets: targets.into_iter().map(read).collect::<Result<_, _>>()?,
        })
    }
}

impl FileTarget {
    fn take(mut table: Table<'_>, agent_keys: &[&'static str]) -> Result<Self, FileError> {
        let specs = [
            take_spec(&mut table, "pid", |pid| Ok::<_, Infallible>(TargetSpec::Pid(pid)))?,
            take_spec(&mut table, "port", |port| Ok::<_, Infallible>(TargetSpec::Port(port)))?,
            take_spec(&mut table, "exe", |text: String| ExeGlob::parse(&text).map(TargetSpec::Exe))?,
            take_spec(&mut table, "unit", |text: String| UnitName::parse(&text).map(TargetSpec::Unit))?,
            take_spec(&mut table, "container", |text: String| {
                ContainerName::parse(&text).map(TargetSpec::Container)
            })?,
        ];
        let keys = TargetKeys::take(&mut table)?;
        let given = || FINDERS.iter().zip(&specs).filter(|(_, spec)| spec.is_some()).map(|(key, _)| *key);
        if let (Some(first), Some(second)) = (given().next(), given().nth(1)) {
            let problem = format!("`{first}` and `{second}` are two targets; give each a table of its own");
            return Err(table.error(&problem));
        }
        let Some(spec) = specs.into_iter().flatten().next() else {
            // A mistyped key is said before what is missing for it.
            let missing = table.error(
                "it names nothing to watch; give it a `pid`, a `port`, an `exe`, a `unit` or a `container`",
            );
            table.finish(&[(agent_keys, ABOVE)])?;
            return Err(missing);
        };
        table.finish(&[(agent_keys, ABOVE)])?;
        Ok(Self { spec, keys })
    }
}

/// The keys that name a target.
const FINDERS: [&str; 5] = ["pid", "port", "exe", "unit", "container"];

fn take_spec<T: Value, E: Display>(
    table: &mut Table<'_>,
    key: &'static str,
    parse: impl FnOnce(T) -> Result<TargetSpec, E>,
) -> Result<Option<Given<TargetSpec>>, FileError> {
    let Some(given) = table.take::<T>(key)? else { return Ok(None) };
    let by = given.by;
    match parse(given.value) {
        Ok(value) => Ok(Some(Given { value, by })),
        Err(error) => {
            let place = if let Origin::File(place) = by { place } else { table.place.clone() };
            Err(FileError { place, problem: format!("`{key}`: {error}") })
        }
    }
}

/// Where keys of the agent belong that stand in a table.
pub const ABOVE: &str = "to the whole agent: write it above the first table";

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if length as u64 > LONGEST {
        return Err(io::Error::other(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}
