//! `cargo xtask record`: records the servers anew, and writes docs/tested.md.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{servers, setup, step, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Servers to record, as the files in agent/tests/recordings are called; without any, all of them
    names: Vec<String>,
}

/// # Errors
/// When we are not root, something cannot be installed or built, or the agent counts anything else than the client.
pub fn run(args: &Args) -> Result<()> {
    workspace::require_root("record", "to load eBPF programs")?;
    setup::run()?;
    servers::install()?;
    step::run(
        "building the agent and the recorder",
        workspace::cargo().args(["build", "--package=agent", "--package=tests", "--bins"]),
    )?;
    let built = workspace::target_dir().join("debug");
    let mut record = Command::new(built.join("record"));
    record.args(&args.names).env("APITALLY_AGENT_BIN", built.join("apitally-agent"));
    let status = record.status().context("cannot start the recorder")?;
    if !status.success() {
        bail!("the recorder ended with {status}");
    }
    Ok(())
}
