//! `cargo xtask bench`: builds what is measured and what measures it, and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{packages, servers, setup, step, workspace};

/// What the agent costs servers under load, beside official clients: docs/performance.md and its charts.
#[derive(clap::Args)]
pub struct Args {
    /// Servers to measure: nginx, nginx-1k, axum, fastapi, ninja; without any, all of them
    servers: Vec<String>,
    /// How often each way of running is measured
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// How long each time
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Measure although others are using the machine, and write below target/bench instead of docs
    #[arg(long)]
    busy: bool,
}

/// # Errors
/// When we are not root, something cannot be installed or built, the machine is busy, or a server cannot be measured.
pub fn run(args: &Args) -> Result<()> {
    workspace::require_root("bench", "to load eBPF programs")?;
    setup::run()?;
    servers::install()?;
    if !Path::new("/usr/bin/wrk").exists() && workspace::on_path("wrk").is_none() {
        packages::install(&["wrk"])?;
    }
    step::run(
        "building the agent, and what measures it",
        workspace::cargo().args(["build", "--release"]).args([
            "--package=agent",
            "--package=tests",
            "--bin=apitally-agent",
            "--bin=axum-app",
            "--bin=bench",
        ]),
    )?;
    let built = workspace::target_dir().join("release");
    let out = workspace::root().join(if args.busy { "target/bench" } else { "docs" });
    let mut bench = Command::new(built.join("bench"));
    bench.args(&args.servers).arg("--out").arg(out).env("APITALLY_AGENT_BIN", built.join("apitally-agent"));
    bench.args(["--rounds", &args.rounds.to_string(), "--seconds", &args.seconds.to_string()]);
    if args.busy {
        bench.arg("--busy");
    }
    let status = bench.status().context("cannot start the measurement")?;
    if !status.success() {
        bail!("the measurement ended with {status}");
    }
    Ok(())
}
