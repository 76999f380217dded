//! What a target runs: its language, server and framework, as far as files and /proc say it beyond doubt.
//!
//! Evidence is looked for from strong to weak, and the first kind that names a framework decides, if it names just one:
//! what the server was told to run imports it; the app's manifest asks for it; it is the only one installed. Nothing of
//! the target is run, nothing of it is written. Whatever is read is a stranger's: see [`root`].

mod go;
mod node;
mod python;
mod root;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use tracing::debug;

use self::root::Root;

/// What a target runs. What was not found is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// The hub's name for the framework, like `python:django`.
    pub client: Option<String>,
    /// Versions by component: `python`, `uvicorn`, ...
    pub components: BTreeMap<String, String>,
}

/// A file system that never answers keeps us waiting for this long. Usually it takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// What starts a server may be a shell; its workers are all alike.
const MOST_PROCESSES: usize = 8;
/// Of a command line and of an environment, bytes.
const LONGEST_TEXT: usize = 128 * 1024;

/// Looks at the processes of a target until one of them says what framework it runs; else it is the first that says
/// anything. Empty when there is nothing to be found, or not in time.
pub fn detect(pids: &[u32]) -> Software {
    let started = Instant::now();
    let pids: Vec<u32> = pids.iter().copied().take(MOST_PROCESSES).collect();
    let (found, finding) = mpsc::sync_channel(1);
    let look = move || {
        // Nobody waits any more when it took too long.
        let _ = found.send(of_processes(&pids));
    };
    let looking = thread::Builder::new().name("software".to_owned()).spawn(look);
    let found = looking.ok().and_then(|_| finding.recv_timeout(PATIENCE).ok());
    debug!(?found, took = ?started.elapsed(), "software of the target");
    found.unwrap_or_default()
}

fn of_processes(pids: &[u32]) -> Software {
    let mut first = Software::default();
    for pid in pids {
        let Some(found) = Facts::of(*pid).and_then(|facts| software(&facts)) else { continue };
        if found.client.is_some() {
            return found;
        }
        if first == Software::default() {
            first = found;
        }
    }
    first
}

/// What /proc says about a process; paths as the process itself sees them.
struct Facts {
    root: Root,
    exe: PathBuf,
    args: Vec<String>,
    /// Of its environment when it was started, the variables that say where things are.
    variables: BTreeMap<String, String>,
    cwd: PathBuf,
    /// Files that are mapped into its memory.
    mapped: BTreeSet<PathBuf>,
}

/// Secrets are in other variables, and are let go at once.
const VARIABLES: [&str; 5] =
    ["DJANGO_SETTINGS_MODULE", "FLASK_APP", "NODE_PATH", "PYTHONPATH", "VIRTUAL_ENV"];

impl Facts {
    fn of(pid: u32) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let maps = process.maps().ok().into_iter().flatten();
        let mapped = maps.filter_map(|map| match map.pathname {
            procfs::process::MMapPath::Path(path) => Some(path),
            _ => None,
        });
        let mut variables = words(&format!("/proc/{pid}/environ"));
        variables.retain(|variable| VARIABLES.iter().any(|name| variable.starts_with(&format!("{name}="))));
        let variables = variables.iter().filter_map(|variable| variable.split_once('='));
        Some(Self {
            root: Root::of(pid)?,
            exe: process.exe().ok()?,
            args: words(&format!("/proc/{pid}/cmdline")),
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            cwd: process.cwd().ok()?,
            mapped: mapped.collect(),
        })
    }

    /// Name of the program, without the path.
    fn program(&self) -> &str {
        file_name(&self.exe)
    }

    /// A path on the command line or in the environment, which may be relative.
    fn path(&self, path: &str) -> PathBuf {
        self.cwd.join(path)
    }
}

fn software(facts: &Facts) -> Option<Software> {
    let program = facts.program();
    if program.starts_with("python") || program.starts_with("pypy") {
        Some(python::software(facts))
    } else if matches!(program, "node" | "nodejs") {
        Some(node::software(facts))
    } else if program == "java" {
        Some(java(facts))
    } else {
        go::software(facts)
    }
}

/// A JDK says in a file of its own which one it is. What runs in it lies in archives, which we do not unpack.
fn java(facts: &Facts) -> Software {
    let home = facts.exe.ancestors().nth(2).unwrap_or(Path::new("/"));
    let release = facts.root.text(&home.join("release")).unwrap_or_default();
    let version = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="));
    let version = version.map(|version| version.trim_matches('"').to_owned());
    Software {
        client: None,
        components: version.map(|version| ("java".to_owned(), version)).into_iter().collect(),
    }
}

/// The only element, if it is the only one.
fn only<T>(found: impl IntoIterator<Item = T>) -> Option<T> {
    let mut found = found.into_iter();
    found.next().filter(|_| found.next().is_none())
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// A version as it goes into a message: short, and of the characters that versions are made of.
fn version(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".+-_!~".contains(c);
    (1..=64).contains(&text.len()).then_some(())?;
    (text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(fits)).then(|| text.to_owned())
}

/// A file of words that end in zero bytes.
fn words(path: &str) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let words =
        bytes[..bytes.len().min(LONGEST_TEXT)].split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

#[cfg(test)]
mod tests;
