//! `apitally-agent status`: what the agents that run here say of themselves.
//!
//! Every agent listens on a Unix socket of its own in the runtime directory. Whoever may connect gets one JSON
//! document ([`report`]) and the end of the stream. Nothing is read from a client, so there is nothing to parse
//! and nothing to ask for.

pub mod client;
pub mod report;
pub mod serve;
mod text;

use std::path::{Path, PathBuf};

/// Name of the socket of the agent with this process id.
fn socket_path(dir: &Path, pid: u32) -> PathBuf {
    dir.join(format!("{pid}.sock"))
}

/// Sockets of agents in a directory and the process ids they are named after, in order.
fn sockets(dir: &Path) -> std::io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_socket = path.extension().is_some_and(|extension| extension == "sock");
        let pid = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (true, Some(pid)) = (is_socket, pid) {
            found.push((pid, path));
        }
    }
    found.sort();
    Ok(found)
}

/// A character that does nothing but show: process names and the like are written by strangers, and a terminal
/// obeys more than ESC (the C1 controls, and those that turn the direction of text).
pub fn is_harmless(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric())
}
