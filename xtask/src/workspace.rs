//! Where things are, who we are, and cargo as if the user had typed it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where the real servers of the end-to-end tests are installed; their harness looks here too.
pub fn servers_dir() -> PathBuf {
    root().join("target/servers")
}

pub fn ebpf_manifest() -> PathBuf {
    root().join("agent-ebpf/Cargo.toml")
}

/// `cargo` in the workspace, without what `cargo run` told us about ourselves: build scripts watch some of those
/// variables, and would run again whenever xtask and the user take turns.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name == "LD_LIBRARY_PATH"
                || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        }) {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// # Errors
/// When we are not root; says how to become it for this command.
pub fn require_root(task: &str, why: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("`cargo xtask {task}` needs root, {why}: run `sudo -E env \"PATH=$PATH\" cargo xtask {task}`")
}

/// The program of this name that a shell would start.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
