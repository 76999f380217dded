//! The command: asks every agent whose socket is in the runtime directory.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tracing::warn;

use super::{is_harmless, report::AgentStatus, sockets, text};
use crate::exit::{Exit, Failure};

/// An agent answers within milliseconds; one on a busy machine may take its time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, bytes.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(
        "no agent answers in {}: none runs, or it was given another --runtime-dir; its log says `no status socket` \
         when it could not make one",
        dir.display()
    )]
    NoAgent { dir: PathBuf },
    #[error("not permitted to ask in {}: only root and the agent's own user are; run it with sudo", dir.display())]
    NotPermitted { dir: PathBuf },
    #[error("cannot look into {}: {error}; name the agent's directory with --runtime-dir", dir.display())]
    Directory { dir: PathBuf, error: io::Error },
}

impl StatusError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoAgent { .. } => Exit::Unavailable,
            Self::NotPermitted { .. } => Exit::NoPermission,
            Self::Directory { .. } => Exit::NoInput,
        }
    }
}

/// How the answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    /// `{"agents": [..]}`
    Json,
}

/// Prints what the agents in `dir` say.
///
/// # Errors
/// When none answers, or none that we may ask.
pub fn run(dir: &Path, form: Form) -> Result<Exit, Failure> {
    let answers = ask_all(dir)?;
    let printed = match form {
        Form::Json => {
            let text = serde_json::to_string_pretty(&json!({ "agents": answers }));
            escape_json(&text.expect("a JSON value is JSON")) + "\n"
        }
        Form::Text => {
            let mut texts = Vec::new();
            for answer in answers {
                match serde_json::from_value::<AgentStatus>(answer) {
                    Ok(status) => texts.push(text::of(&status)),
                    Err(error) => {
                        warn!(%error, "an agent of another version answers in other words; try --json");
                    }
                }
            }
            texts.join("\n")
        }
    };
    let mut out = io::stdout().lock();
    let printed = out.write_all(printed.as_bytes()).and_then(|()| out.flush());
    printed.map(|()| Exit::Ok).map_err(|error| Failure::Io { doing: "print the status", error })
}

/// What each agent says, in the order of their process ids.
fn ask_all(dir: &Path) -> Result<Vec<Value>, StatusError> {
    let owned = || dir.to_owned();
    let sockets = sockets(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StatusError::NoAgent { dir: owned() },
        io::ErrorKind::PermissionDenied => StatusError::NotPermitted { dir: owned() },
        _ => StatusError::Directory { dir: owned(), error },
    })?;
    let (mut answers, mut refused) = (Vec::new(), false);
    for (pid, path) in sockets {
        match ask(&path) {
            Ok(answer) => answers.push(answer),
            Err(error) => match error.kind() {
                // Of an agent that was killed; whoever may remove it does.
                io::ErrorKind::ConnectionRefused => drop(fs::remove_file(&path)),
                // Ended just now.
                io::ErrorKind::NotFound => {}
                io::ErrorKind::PermissionDenied => refused = true,
                _ => warn!(pid, %error, "an agent gave no answer"),
            },
        }
    }
    match (answers.is_empty(), refused) {
        (false, _) => Ok(answers),
        (true, true) => Err(StatusError::NotPermitted { dir: owned() }),
        (true, false) => Err(StatusError::NoAgent { dir: owned() }),
    }
}

fn ask(path: &Path) -> io::Result<Value> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Writes what a terminal might obey as JSON's own escapes; outside of strings there is no such character.
fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || is_harmless(c) {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped += &format!("\\u{unit:04x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_means_the_same_and_does_nothing_to_a_terminal() {
        let value = json!({ "name": "a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}ü\u{1f600}\"\\\n" });
        let escaped = escape_json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), value);
        assert!(escaped.chars().all(|c| c == '\n' || is_harmless(c)), "{escaped}");
        assert!(escaped.contains('ü'));
    }
}
