//! The agent's own log, on stderr.

use std::io::{self, IsTerminal as _};

use tracing::Level;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::cli::{LogFormat, LogLevel};

/// Starts the log. The level is ours; libraries speak from `warn` on, since their debug lines may hold
/// what passed through them.
pub fn start(level: LogLevel, format: LogFormat) {
    let ours = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let filter = Targets::new()
        .with_default(ours.min(Level::WARN))
        .with_target("agent", ours)
        .with_target("apitally_agent", ours)
        .with_target("agent_ebpf", ours); // the programs themselves, through aya-log
    let lines = match format {
        LogFormat::Text => fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => fmt::layer().with_writer(io::stderr).json().with_target(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
