//! The agent's own log, on stderr.

use std::{
    env, fmt,
    io::{self, IsTerminal as _},
};

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Format, Full, Writer},
        layer,
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
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
        .with_target("agent_ebpf", ours) // the programs themselves, through aya-log
        // They say of each error what they return, too, and we say it once.
        .with_target("kube_client::client::builder", LevelFilter::OFF)
        .with_target("kube_runtime::watcher", LevelFilter::OFF);
    let to_stderr = layer().with_writer(io::stderr).with_target(false);
    let lines = match format {
        LogFormat::Text if is_journal() => {
            to_stderr.with_ansi(false).event_format(Journal::default()).boxed()
        }
        LogFormat::Text => to_stderr.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => to_stderr.json().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Whether stderr is what systemd connected to its journal (`JOURNAL_STREAM` in systemd.exec(5)), as opposed to a file
/// or a pipe that came later.
fn is_journal() -> bool {
    let told = env::var("JOURNAL_STREAM").ok();
    let stream = told.as_deref().and_then(|told| told.split_once(':'));
    let (Some((device, inode)), Ok(stderr)) = (stream, fstat(io::stderr())) else { return false };
    (device.parse(), inode.parse()) == (Ok(stderr.st_dev), Ok(stderr.st_ino))
}

/// Lines for the journal, which knows the time itself, and takes the level from a number before the line
/// (sd-daemon(3)).
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(format::format().without_time().with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
