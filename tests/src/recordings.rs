//! Recorded taps of the servers of the table, and what the client knew of the same traffic.

use std::path::PathBuf;

use crate::app::workspace;

/// Where they are.
pub fn dir() -> PathBuf {
    workspace().join("agent/tests/recordings")
}

/// What the kernel side delivered.
pub fn tap(name: &str) -> PathBuf {
    dir().join(format!("{name}.tap"))
}

/// The client's account, in the words of a `sync` message.
pub fn truth(name: &str) -> PathBuf {
    dir().join(format!("{name}.json"))
}
