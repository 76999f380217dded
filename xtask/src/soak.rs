//! `cargo xtask soak`: the end-to-end test `soak` for as long as one likes.

use anyhow::Result;

use crate::{servers, setup, step, workspace};

/// Mixed traffic, clients that go away, servers that restart: every count exact, nothing grows.
#[derive(clap::Args)]
pub struct Args {
    /// How long the traffic lasts
    #[arg(long, default_value_t = 10)]
    minutes: u64,
}

/// # Errors
/// When we are not root, something cannot be installed, or anything does not hold.
pub fn run(args: &Args) -> Result<()> {
    workspace::require_root("soak", "since the agent loads eBPF programs")?;
    setup::run()?;
    servers::install()?;
    step::run(
        "building the agent",
        workspace::cargo().args(["build", "--package=agent", "--bin=apitally-agent"]),
    )?;
    step::run(
        &format!("soak for {} min", args.minutes),
        workspace::cargo()
            .args(["test", "--package=tests", "--test=e2e", "--", "--exact", "soak::soak", "--nocapture"])
            .env("APITALLY_AGENT_BIN", workspace::target_dir().join("debug/apitally-agent"))
            .env("APITALLY_SOAK_SECONDS", (args.minutes * 60).to_string()),
    )
}
