//! The agent as a user would start it. Unlike the harness of the tests it tells in the agent's own words what keeps
//! it from running.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::agent::CLIENT_ID;
use tests::fake_hub::FakeHub;
use tests::process::ending_with_us;
use tests::scratch::Scratch;

use crate::{Owned, beside_us};

const START: Duration = Duration::from_secs(20);
/// The agent promises 5 s.
const STOP: Duration = Duration::from_secs(8);

/// What the agent says became of each request it saw: `reported`, `lost`, and the causes.
pub(crate) type Ledger = BTreeMap<String, u64>;

pub(crate) struct Agent {
    child: Owned,
    log: Receiver<String>,
    said: Vec<String>,
    _state_dir: Scratch,
}

impl Agent {
    /// Ready: everything from now on is seen.
    pub(crate) fn start(pid: u32, hub: &FakeHub) -> Result<Self> {
        let state_dir = Scratch::new("demo");
        let mut command = ending_with_us(beside_us("apitally-agent")?);
        command.args(["--pid", &pid.to_string(), "--client-id", CLIENT_ID, "--env", "demo"]);
        command.args(["--hub-url", &hub.url(), "--sync-interval", "1s", "--log-format", "json"]);
        command.args(["--consumer-header", "X-Consumer", "--consumer-header", "X-API-Key"]);
        command.arg("--state-dir").arg(&*state_dir);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("APITALLY_") {
                command.env_remove(name);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = Owned(child.context("cannot start the agent")?);
        let stderr = child.0.stderr.take().expect("it is piped");
        let (sender, log) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut agent = Self { child, log, said: Vec::new(), _state_dir: state_dir };
        agent.wait_until_watching()?;
        Ok(agent)
    }

    fn wait_until_watching(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let watches = message_of(&parsed(&line)) == Some("watching");
                    self.said.push(line);
                    if watches {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the agent did not start to watch within {START:?}\n{}", self.words())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the agent ended at once:\n{}", self.words()),
            }
        }
    }

    /// Sends what is left, and ends.
    pub(crate) fn stop(mut self) -> Result<Ledger> {
        if kill_process(Pid::from_child(&self.child.0), Signal::TERM).is_err() {
            bail!("the agent ended on its own:\n{}", self.words());
        }
        // Its log ends when it does.
        let deadline = Instant::now() + STOP;
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the agent did not end on SIGTERM:\n{}", self.words())
                }
            }
        }
        let status = self.child.0.wait().context("cannot wait for the agent")?;
        if !status.success() {
            bail!("the agent ended with {status}:\n{}", self.words());
        }
        let ledger =
            self.said.iter().rev().map(|line| parsed(line)).find(|line| message_of(line) == Some("ledger"));
        let ledger = ledger.with_context(|| format!("the agent gave no account:\n{}", self.words()))?;
        let fields = ledger["fields"].as_object().expect("a line with a message has fields");
        Ok(fields
            .iter()
            .filter(|(name, _)| *name != "pid")
            .filter_map(|(name, n)| Some((name.clone(), n.as_u64()?)))
            .collect())
    }

    /// The end of the log, as a person would read it.
    fn words(&self) -> String {
        let last = &self.said[self.said.len().saturating_sub(12)..];
        let words = last.iter().map(|line| {
            let parsed = parsed(line);
            let Some(message) = message_of(&parsed) else { return format!("  {line}") };
            let fields =
                parsed["fields"].as_object().into_iter().flatten().filter(|(name, _)| *name != "message");
            let fields: String = fields.map(|(name, value)| format!(" {name}={value}")).collect();
            format!("  {message}{fields}")
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or(Value::Null)
}

fn message_of(line: &Value) -> Option<&str> {
    line["fields"]["message"].as_str()
}
