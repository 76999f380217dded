//! The agent as its users run it: the binary, its command line, its log, its signals.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::eventually::eventually;
use crate::fake_hub::FakeHub;
use crate::process::{cpu_time, resident_bytes, signal, signal_to, wait_for};
use crate::scratch::Scratch;
use crate::totals::Totals;

/// Any UUID does for a hub of ours.
pub const CLIENT_ID: &str = "8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c";
/// Likewise any token of this form.
pub const WRITE_TOKEN: &str = "apt_A1b2C3d4E5f6G7h8I9j0K1l2";

/// Start-up takes well under a second; a machine under load may take its time all the same.
const START: Duration = Duration::from_secs(20);
/// What the agent promises between SIGTERM and its end.
const STOP: Duration = Duration::from_secs(5);
/// What it says when it has read its configuration again.
const RELOADED: [&str; 2] =
    ["configuration read again", "the configuration cannot be used, going on with the one before"];
/// What it says when it watches a process, and when it waits for one.
const WATCHING: &str = "watching";
const WAITING: &str = "nothing of it is there yet, it will be watched when it is";
/// Lines of the log that a failing test prints; the last ones have the ledger.
const SHOWN: usize = 200;

/// An agent that runs. Killed when dropped; a failing test prints its log.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: Arc<Lines>,
    messages: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
    watching_after: Duration,
    state_dir: Arc<Scratch>,
}

/// The command line of an [`Agent`]. Without a hub to report to it runs dry and prints its messages.
#[derive(Debug)]
pub struct AgentBuilder {
    targets: Vec<String>,
    through: Vec<String>,
    /// A file or other words say to whom it reports.
    is_configured: bool,
    hub: Option<String>,
    sync_interval: Option<String>,
    log_level: &'static str,
    max_cpu: Option<&'static str>,
    /// What it says when it has begun.
    ready: &'static str,
    args: Vec<String>,
    state_dir: Arc<Scratch>,
    /// Whether its status socket is beside its state.
    is_apart: bool,
}

/// What is left of an agent that has ended.
#[derive(Debug)]
pub struct Stopped {
    pub status: ExitStatus,
    pub log: Vec<LogLine>,
    /// What it printed, one JSON object a line: `{"kind": .., "target": .., "message": ..}`.
    pub messages: Vec<Value>,
}

/// One line on standard error.
#[derive(Clone, Debug)]
pub struct LogLine {
    pub text: String,
    /// `Null` when the line is not JSON.
    parsed: Value,
}

/// The agent's account of what became of every exchange it saw, or of the tap's of every byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger(pub BTreeMap<String, u64>);

impl Agent {
    /// Watches a process and its children.
    pub fn watching(pid: u32) -> AgentBuilder {
        AgentBuilder::new(["--pid".to_owned(), pid.to_string()])
    }

    /// Watches whoever listens on a port.
    pub fn watching_port(port: u16) -> AgentBuilder {
        AgentBuilder::new(["--port".to_owned(), port.to_string()])
    }

    /// Watches what these words of its command line say.
    pub fn looking_for(words: &[&str]) -> AgentBuilder {
        AgentBuilder::new(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    /// Watches what a configuration file says, and reports to whom it says.
    pub fn configured_by(file: &Path) -> AgentBuilder {
        let words = ["--config".to_owned(), file.to_str().expect("paths of tests are UTF-8").to_owned()];
        AgentBuilder { is_configured: true, sync_interval: None, ..AgentBuilder::new(words) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From the start of the process to the line that says it watches.
    pub fn watching_after(&self) -> Duration {
        self.watching_after
    }

    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.pid())
    }

    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid())
    }

    /// What it says of itself when asked, as a program gets it.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn status(&self) -> Value {
        let all = status_in(&self.runtime_dir());
        let agents = all["agents"].as_array().expect("a list of agents");
        let own = agents.iter().find(|agent| agent["pid"] == self.pid());
        own.unwrap_or_else(|| panic!("no status of {} in {all}", self.pid())).clone()
    }

    /// Where it serves metrics.
    ///
    /// # Panics
    /// When it does not.
    pub fn metrics(&self) -> SocketAddr {
        let address = eventually("the agent serves metrics", START, || {
            let log = self.log();
            let line = log.iter().find(|line| line.message() == Some("metrics are served"))?;
            Some(line.field("address")?.as_str()?.to_owned())
        });
        address.parse().expect("it is an address")
    }

    /// Where its status socket is.
    pub fn runtime_dir(&self) -> PathBuf {
        runtime_dir(&self.state_dir)
    }

    /// Ends the agent without giving it a chance to do anything about it.
    pub fn kill(self) {
        drop(self);
    }

    pub fn log(&self) -> Vec<LogLine> {
        self.log.so_far()
    }

    /// Waits until it has said that it watches this process.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn eventually_watches(&self, pid: u32) {
        eventually(&format!("the agent watches process {pid}"), START, || {
            let log = self.log();
            let watches = |line: &LogLine| {
                line.message() == Some(WATCHING) && line.field("pid").is_some_and(|field| *field == pid)
            };
            log.iter().any(watches).then_some(())
        });
    }

    /// Waits until it has said this so many times.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn eventually_says(&self, message: &str, times: usize) {
        eventually(&format!("the agent says {message:?} {times} times"), START, || {
            let said = self.log().iter().filter(|line| line.message() == Some(message)).count();
            (said >= times).then_some(())
        });
    }

    /// The account as it was last logged; that of one target, when it watches several.
    pub fn latest_ledger(&self) -> Option<Ledger> {
        let log = self.log();
        log.iter().rev().find(|line| line.message() == Some("ledger")).map(LogLine::numbers)
    }

    /// Asks the agent to read its configuration again, and waits until it has; what it then logged.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn reload(&self) -> LogLine {
        let answers = |log: Vec<LogLine>| {
            let is_answer = |line: &LogLine| line.message().is_some_and(|text| RELOADED.contains(&text));
            log.into_iter().filter(is_answer).collect::<Vec<_>>()
        };
        let before = answers(self.log()).len();
        signal_to(self.pid(), Signal::HUP);
        eventually("the agent reads its configuration again", START, || {
            answers(self.log()).into_iter().nth(before)
        })
    }

    /// Asks the agent to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end in time, or with another exit code than 0.
    pub fn stop(mut self) -> Stopped {
        signal(&mut self.child, Signal::TERM);
        self.ended("SIGTERM")
    }

    /// Waits until the agent ends by itself.
    ///
    /// # Panics
    /// When it does not end in time, or with another exit code than 0.
    pub fn wait(mut self) -> Stopped {
        self.ended("the end of its target")
    }

    fn ended(&mut self, cause: &str) -> Stopped {
        let asked = Instant::now();
        let status = wait_for(&mut self.child, STOP + STOP);
        assert!(asked.elapsed() < STOP, "the agent took {:?} to end after {cause}", asked.elapsed());
        assert!(status.success(), "the agent ended with {status} after {cause}");
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader of the agent's output does not panic");
        }
        let messages = self.messages.so_far().into_iter().map(|line| line.parsed).collect();
        Stopped { status, log: self.log.take(), messages }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        print_if_panicking(&self.log.so_far());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        print_if_panicking(&self.log);
    }
}

fn print_if_panicking(log: &[LogLine]) {
    if !std::thread::panicking() || log.is_empty() {
        return;
    }
    let (left_out, last) = log.split_at(log.len().saturating_sub(SHOWN));
    eprintln!("--- log of the agent, without the first {} lines", left_out.len());
    for line in last {
        eprintln!("{}", line.text);
    }
}

impl AgentBuilder {
    fn new(targets: impl Into<Vec<String>>) -> Self {
        Self {
            targets: targets.into(),
            through: Vec::new(),
            is_configured: false,
            hub: None,
            sync_interval: Some("500ms".to_owned()),
            log_level: "debug",
            max_cpu: Some("1000"),
            ready: WATCHING,
            args: Vec::new(),
            state_dir: Arc::new(Scratch::new("state")),
            is_apart: true,
        }
    }

    pub fn reporting_to(self, hub: &FakeHub) -> Self {
        self.reporting_to_url(&hub.url())
    }

    pub fn reporting_to_url(mut self, url: &str) -> Self {
        self.hub = Some(url.to_owned());
        self
    }

    /// By OTLP, as Apitally takes it.
    pub fn reporting_by_otlp_to(self, hub: &FakeHub) -> Self {
        let words = ["--write-token", WRITE_TOKEN, "--otlp-endpoint", &hub.url()];
        words.into_iter().fold(Self { is_configured: true, ..self }, Self::arg)
    }

    /// Its target is yet to come: it is started when it waits for that.
    pub fn before_its_target(mut self) -> Self {
        self.ready = WAITING;
        self
    }

    /// Serves metrics, on a port that [`Agent::metrics`] tells.
    pub fn serving_metrics(self) -> Self {
        self.arg("--metrics-listen").arg("0")
    }

    /// Reports to nobody, not even to stdout: metrics are all there is.
    pub fn for_metrics_alone(self) -> Self {
        Self { is_configured: true, ..self }.serving_metrics()
    }

    /// Started by another program, which becomes the agent: its words come before the agent's own.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub fn sync_interval(mut self, interval: &str) -> Self {
        self.sync_interval = Some(interval.to_owned());
        self
    }

    /// Sends as often as the hub's protocol says, as it does for users.
    pub fn on_the_usual_schedule(mut self) -> Self {
        self.sync_interval = None;
        self
    }

    /// Logs what it logs for users, and not every line it has.
    pub fn with_the_usual_log(mut self) -> Self {
        self.log_level = "info";
        self
    }

    /// Keeps its state where another agent did.
    pub fn state_dir(mut self, dir: &Arc<Scratch>) -> Self {
        self.state_dir = Arc::clone(dir);
        self
    }

    /// Its status socket is where it is by default, where [`Agent::status`] does not look for it.
    pub fn in_the_usual_runtime_dir(self) -> Self {
        Self { is_apart: false, ..self }
    }

    pub fn consumer_header(self, name: &str) -> Self {
        self.arg("--consumer-header").arg(name)
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// What the agent may take of a core, percent, or None for what it takes itself to be allowed. More than there is
    /// otherwise: on a machine that others use too, a test would be about that.
    pub fn max_cpu(mut self, percent: Option<&'static str>) -> Self {
        self.max_cpu = percent;
        self
    }

    /// Starts the agent and waits until it watches.
    ///
    /// # Panics
    /// When it does not in time, or when there is no binary.
    pub fn start(self) -> Agent {
        let mut words = self.through.iter().map(Into::into).chain([binary().into_os_string()]);
        let mut command = Command::new(words.next().expect("the agent is one of them"));
        command.args(words);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.args(&self.targets).args(["--log-format", "json", "--log-level", self.log_level]);
        command.arg("--state-dir").arg(&**self.state_dir);
        if self.is_apart {
            command.arg("--runtime-dir").arg(runtime_dir(&self.state_dir));
        }
        match &self.hub {
            Some(url) => command.args(["--client-id", CLIENT_ID, "--hub-url", url]),
            None if self.is_configured => &mut command,
            None => command.arg("--dry-run"),
        };
        if let Some(interval) = &self.sync_interval {
            command.args(["--sync-interval", interval]);
        }
        if let Some(percent) = self.max_cpu {
            command.args(["--max-cpu", percent]);
        }
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());

        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (log, log_reader) = Lines::of(child.stderr.take().expect("it is piped"));
        let (messages, message_reader) = Lines::of(child.stdout.take().expect("it is piped"));
        let readers = vec![log_reader, message_reader];
        let mut agent = Agent {
            child,
            log,
            messages,
            readers,
            watching_after: Duration::MAX,
            state_dir: Arc::clone(&self.state_dir),
        };
        let watching = eventually("the agent watches", START, || {
            let exited = agent.child.try_wait().expect("it is our child");
            assert!(exited.is_none(), "the agent ended at once, {exited:?}");
            agent.log.first(self.ready)
        });
        agent.watching_after = watching.duration_since(started);
        agent
    }
}

/// Beside the state, so that agents which share one are found together.
fn runtime_dir(state_dir: &Scratch) -> PathBuf {
    state_dir.join("run")
}

/// What `apitally-agent status --json` prints.
///
/// # Panics
/// When no agent answers in that directory.
pub fn status_in(runtime_dir: &Path) -> Value {
    let mut command = Command::new(binary());
    let output = command.args(["status", "--json", "--runtime-dir"]).arg(runtime_dir).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the status is JSON")
}

fn is_ours(variable: &std::ffi::OsStr) -> bool {
    variable.to_string_lossy().starts_with("APITALLY_")
}

/// The agent to test: `APITALLY_AGENT_BIN`, else the one built beside the test program.
///
/// # Panics
/// When there is none, saying how to build it.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("APITALLY_AGENT_BIN") {
        let path = PathBuf::from(path);
        assert!(path.exists(), "APITALLY_AGENT_BIN is {}, which does not exist", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/e2e-0123456789abcdef
    let profile = test.ancestors().nth(2).expect("cargo puts tests two directories deep");
    let path = profile.join("apitally-agent");
    assert!(
        path.exists(),
        "{} is missing; build it with `cargo build --bin apitally-agent`, or let `cargo xtask test` do it",
        path.display()
    );
    path
}

impl Stopped {
    /// The last ledger that the agent logged.
    ///
    /// # Panics
    /// When it logged none.
    pub fn ledger(&self) -> Ledger {
        self.last("ledger")
    }

    /// The last ledger of each target.
    pub fn ledgers(&self) -> Vec<Ledger> {
        let of_targets = self.log.iter().filter(|line| line.message() == Some("ledger"));
        of_targets.filter(|line| line.level() == Some("INFO")).map(LogLine::numbers).collect()
    }

    /// What the kernel side says of its own work.
    ///
    /// # Panics
    /// When it was not logged.
    pub fn tap(&self) -> Ledger {
        self.last("tap")
    }

    /// What the kernel side gave up, by reason; reasons that did not occur are left out.
    ///
    /// # Panics
    /// When it was not logged.
    pub fn given_up(&self) -> Ledger {
        let line = self.log.iter().rev().find(|line| line.message() == Some("tap"));
        let text =
            line.and_then(|line| line.field("given_up")?.as_str()).expect("the tap's account is logged");
        let reasons = text.split_ascii_whitespace().filter_map(|reason| reason.split_once('='));
        Ledger(reasons.filter_map(|(reason, count)| Some((reason.to_owned(), count.parse().ok()?))).collect())
    }

    /// What was counted, from the messages that were printed instead of being sent.
    pub fn totals(&self) -> Totals {
        Totals::of_syncs(self.messages_of("sync"))
    }

    /// Printed messages of one kind.
    pub fn messages_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        let of_kind = self.messages.iter().filter(move |message| message["kind"] == kind);
        of_kind.map(|message| &message["message"])
    }

    fn last(&self, message: &str) -> Ledger {
        let line = self.log.iter().rev().find(|line| line.message() == Some(message));
        line.unwrap_or_else(|| panic!("the agent logged no line {message:?}")).numbers()
    }
}

impl Ledger {
    /// A field; zero where the agent does not mention it.
    pub fn get(&self, field: &str) -> u64 {
        self.0.get(field).copied().unwrap_or(0)
    }

    /// Requests that the agent has seen. Each was reported or lost to a named cause.
    ///
    /// # Panics
    /// When that does not add up.
    pub fn seen(&self) -> u64 {
        let seen = self.get("seen");
        assert_eq!(seen, self.get("reported") + self.get("lost"), "{self}");
        seen
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.0.iter().filter(|(_, value)| **value > 0);
        fields.enumerate().try_for_each(|(index, (name, value))| {
            write!(f, "{}{name} {value}", if index > 0 { ", " } else { "" })
        })
    }
}

impl LogLine {
    fn of(text: String) -> Self {
        let parsed = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { text, parsed }
    }

    pub fn message(&self) -> Option<&str> {
        self.field("message")?.as_str()
    }

    pub fn level(&self) -> Option<&str> {
        self.parsed["level"].as_str()
    }

    pub fn field(&self, name: &str) -> Option<&Value> {
        self.parsed["fields"].get(name)
    }

    fn numbers(&self) -> Ledger {
        let fields = self.parsed["fields"].as_object().expect("a line with a message has fields");
        let numbers = fields.iter().filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
        Ledger(numbers.collect())
    }
}

/// Lines of a pipe, read as they come.
#[derive(Debug, Default)]
struct Lines {
    lines: Mutex<Vec<(Instant, LogLine)>>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                writer.lock().push((Instant::now(), LogLine::of(line)));
            }
        });
        (lines, reader)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, LogLine)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn so_far(&self) -> Vec<LogLine> {
        self.lock().iter().map(|(_, line)| line.clone()).collect()
    }

    fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut *self.lock()).into_iter().map(|(_, line)| line).collect()
    }

    /// When the first line with this message came.
    fn first(&self, message: &str) -> Option<Instant> {
        self.lock().iter().find(|(_, line)| line.message() == Some(message)).map(|(when, _)| *when)
    }
}
