//! `cargo xtask demo`: builds the agent and its demonstration, and runs that.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, step, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Watch this process instead of the sample API, and drive no traffic
    #[arg(long)]
    pid: Option<u32>,
    /// How long to watch; default 5 with the sample API, 15 with --pid
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
}

/// # Errors
/// When we are not root, something cannot be installed or built, or the demonstration does not work out.
pub fn run(args: &Args) -> Result<()> {
    workspace::require_root("demo", "to load eBPF programs")?;
    if let Some(pid) = args.pid
        && !PathBuf::from(format!("/proc/{pid}")).exists()
    {
        bail!("there is no process {pid}: `ss -ltnp` lists servers with their pids");
    }
    setup::run()?;
    step::run(
        "building the agent and the demo",
        workspace::cargo().args(["build", "--release"]).args([
            "--package=agent",
            "--package=tests",
            "--bin=apitally-agent",
            "--bin=sample-api",
            "--bin=demo",
        ]),
    )?;
    let mut demo = Command::new(workspace::target_dir().join("release/demo"));
    if let Some(pid) = args.pid {
        demo.arg("--pid").arg(pid.to_string());
    }
    if let Some(seconds) = args.seconds {
        demo.arg("--seconds").arg(seconds.to_string());
    }
    let status = demo.status().context("cannot start the demo")?;
    if !status.success() {
        bail!("the demo ended with {status}");
    }
    Ok(())
}
