//! The file that `--config` names.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::{
    ConfigError, TargetSpec,
    keys::{AgentKeys, TargetKeys},
    table::{Document, FileError, Given, Table},
};

/// Longest file that is read, bytes.
const LONGEST: u64 = 1024 * 1024;

/// A configuration file, read and not yet understood.
#[derive(Debug)]
pub struct ConfigFile {
    pub agent: AgentKeys,
    /// What the top level says for all targets.
    pub defaults: TargetKeys,
    pub targets: Vec<FileTarget>,
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
        let agent = AgentKeys::take(&mut top)?;
        let agent_keys = top.known().to_vec();
        let defaults = TargetKeys::take(&mut top)?;
        top.finish(&[(&["pid", "port"], "in a table of its own, [[target]]")])?;
        let targets = targets.map(|tables| tables.value).unwrap_or_default();
        let read = |table| FileTarget::take(table, &agent_keys);
        Ok(Self { agent, defaults, targets: targets.into_iter().map(read).collect::<Result<_, _>>()? })
    }
}

impl FileTarget {
    fn take(mut table: Table<'_>, agent_keys: &[&'static str]) -> Result<Self, FileError> {
        let pid: Option<Given<u32>> = table.take("pid")?;
        let port: Option<Given<u16>> = table.take("port")?;
        let keys = TargetKeys::take(&mut table)?;
        let spec = match (pid, port) {
            (Some(pid), None) => Given { value: TargetSpec::Pid(pid.value), by: pid.by },
            (None, Some(port)) => Given { value: TargetSpec::Port(port.value), by: port.by },
            (Some(_), Some(_)) => {
                return Err(table.error("`pid` and `port` are two targets; give each a table of its own"));
            }
            // A mistyped key is said before what is missing for it.
            (None, None) => {
                let missing = table.error("it names nothing to watch; give it a `pid` or a `port`");
                table.finish(&[(agent_keys, ABOVE)])?;
                return Err(missing);
            }
        };
        table.finish(&[(agent_keys, ABOVE)])?;
        Ok(Self { spec, keys })
    }
}

const ABOVE: &str = "to the whole agent: write it above the first table";

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if length as u64 > LONGEST {
        return Err(io::Error::other(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}
