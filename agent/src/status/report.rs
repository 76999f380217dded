//! What an agent says of itself. The names are promised in docs/status.md; fields are added, never renamed.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// One agent, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub version: String,
    pub pid: u32,
    pub uptime_s: f64,
    /// As `uname -r` prints it.
    pub kernel: String,
    /// eBPF programs that are attached.
    pub programs: Vec<String>,
    /// What the agent itself costs.
    pub resources: Resources,
    /// How much it looks at to stay within its bounds.
    #[serde(default)]
    pub capture: CaptureStatus,
    /// Where metrics are served; None when they are not.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    pub tap: Tap,
    /// The first of `hubs`.
    pub hub: Option<Hub>,
    /// One for each environment of each app that targets report to; none with `--dry-run`, and without a client id.
    pub hubs: Vec<Hub>,
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub resident_bytes: u64,
    pub cpu_s: f64,
    pub open_fds: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// 0 when everything is looked at; the more, the less.
    pub level: u64,
    /// How long it has been that.
    pub since_s: f64,
    /// Copied from the beginning of a system call, at most.
    pub bytes_per_call: u64,
    /// Share of the connections that are looked at. The exchanges of the others are `sampled_out` in the ledger.
    pub connections_percent: f64,
    /// CPU time of the agent within the last second or so, of one core.
    pub cpu_percent: f64,
    pub max_cpu_percent: u32,
    pub max_memory_bytes: u64,
}

/// The kernel side, for all targets together, since it was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tap {
    pub records: u64,
    pub bytes_seen: u64,
    pub bytes_captured: u64,
    pub bytes_muted: u64,
    /// Runs of our programs that the kernel left out: what they would have seen is in no ledger.
    pub missed_runs: u64,
    /// What was given up, by reason.
    pub dropped: Counts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hub {
    pub url: String,
    pub env: String,
    /// False once the hub has said that it does not know the client id.
    pub running: bool,
    /// Messages that wait, the one being sent included.
    pub queued: u64,
    /// Their bodies.
    pub queued_bytes: u64,
    pub delivered: u64,
    /// Messages given up, by reason.
    pub dropped: Counts,
    /// Tries that failed, by reason; some of them for the same message.
    #[serde(default)]
    pub failures: Counts,
    /// None before the first.
    pub last_answer: Option<LastAnswer>,
    pub spool: Spool,
    /// How long the hub wants no log files yet; None when it does.
    pub logs_paused_s: Option<f64>,
}

/// Where messages wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spool {
    /// Messages that would not survive the end of the agent; the others are on disk.
    pub in_memory: u64,
    /// Messages of earlier runs that were found at the start.
    pub recovered: u64,
    /// Files that were no messages any more.
    pub damaged: u64,
    /// Files that do not belong there.
    pub foreign: u64,
    /// Why messages cannot be kept on disk; None when they can.
    pub degraded: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastAnswer {
    /// The hub took the message.
    pub delivered: bool,
    /// What it said, or why it did not.
    pub outcome: String,
    pub age_s: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// As it was asked for, such as `--port 8000`, or the container of a pod that it is.
    pub spec: String,
    /// The process it is known by.
    pub pid: u32,
    pub name: String,
    pub alive: bool,
    /// Processes that are watched now.
    pub processes: Vec<u32>,
    /// Percent, three decimals, rounded down; None before there was anything to report.
    pub coverage: Option<f64>,
    /// `seen`, `reported`, `lost` and each cause, as in the line `ledger` of the log.
    pub ledger: Counts,
    /// What was noticed beside the exchanges: bytes, gaps, heads, connections that were let go.
    pub notes: Counts,
    /// Connections known now.
    pub connections: u64,
    /// Exchanges that wait for the end of their response.
    pub open_exchanges: u64,
    pub routes: Routes,
    pub consumers: Consumers,
    /// Since the last message was made; None before the first.
    pub last_sync_age_s: Option<f64>,
    /// None while the target is gone.
    pub next_sync_in_s: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    pub count: u64,
    /// Those of them that were learned.
    #[serde(default)]
    pub learned: u64,
    /// Of those that are learned.
    pub limit: u64,
    /// All of them; templates are cut to [`MAX_TEMPLATE`] characters.
    pub list: Vec<Route>,
}

/// Characters of a template that are shown.
pub const MAX_TEMPLATE: usize = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub template: String,
    /// `declared`, in the configuration; `openapi`, in a document; `learned`, from paths that were answered.
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consumers {
    pub count: u64,
    pub limit: u64,
}
