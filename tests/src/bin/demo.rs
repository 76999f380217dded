//! `cargo xtask demo`: the main job without an account. A sample API, a hub of our own, the real agent between
//! them through the kernel, and some seconds of traffic; then what the hub was told, next to what the clients know.
//!
//! With `--pid` it watches a process that already runs, for a while, and drives no traffic.
#![allow(clippy::print_stdout, reason = "a demonstration is for looking at")]

#[path = "demo/agent.rs"]
mod agent;
#[path = "demo/report.rs"]
mod report;
#[path = "demo/traffic.rs"]
mod traffic;

use std::io::{BufRead, BufReader, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tests::client::Address;
use tests::eventually::let_pass;
use tests::fake_hub::{FakeHub, Kind};
use tests::process::ending_with_us;

use crate::agent::Agent;
use crate::report::Report;

#[derive(Parser)]
#[command(about = "Watches a sample API, or a process of yours, and shows what Apitally would get")]
struct Args {
    /// Watch this process instead of the sample API, and drive no traffic
    #[arg(long)]
    pid: Option<u32>,
    /// How long to watch; default 5 with the sample API, 15 with --pid
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let shown = match args.pid {
        None => watch_sample_api(Duration::from_secs(args.seconds.unwrap_or(5))),
        Some(pid) => watch_process(pid, Duration::from_secs(args.seconds.unwrap_or(15))),
    };
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every request that was sent is accounted for.
fn watch_sample_api(span: Duration) -> Result<bool> {
    let api = SampleApi::start()?;
    println!("sample API:  http://{} (pid {})", api.addr, api.child.0.id());
    let hub = FakeHub::start();
    println!("local hub:   {}", hub.url());
    let agent = Agent::start(api.child.0.id(), &hub)?;
    println!("agent:       watching {} through the kernel\n", api.child.0.id());

    let progress = Progress::start("driving traffic", span);
    let sent = traffic::drive(&Address::Tcp(api.addr), span, |requests| progress.show(requests))?;
    progress.done();
    let ledger = agent.stop()?;
    drop(api);

    let report = Report::new(&hub, &ledger);
    println!("{}", report.table());
    let (accounts, all_found) = report.accounting(&sent);
    println!("{accounts}");
    println!("{}", report.message());
    println!("{}", report::next_steps(None));
    Ok(all_found)
}

fn watch_process(pid: u32, span: Duration) -> Result<bool> {
    let hub = FakeHub::start();
    let agent = Agent::start(pid, &hub)?;
    println!("agent: watching {pid} through the kernel for {} s; now send it requests\n", span.as_secs());
    let progress = Progress::start("watching", span);
    let until = Instant::now() + span;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            break;
        }
        let_pass(left.min(Duration::from_millis(250)));
        progress.show(hub.totals().count());
    }
    progress.done();
    let ledger = agent.stop()?;
    let report = Report::new(&hub, &ledger);
    if hub.received_of(Kind::Sync).is_empty() {
        bail!("the agent reported nothing, not even that it lives");
    }
    println!("{}", report.table());
    println!("{}", report.ledger_line());
    println!("{}", report.message());
    println!("{}", report::next_steps(Some(pid)));
    Ok(true)
}

/// A process that does not outlive us.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct SampleApi {
    child: Owned,
    addr: SocketAddr,
}

impl SampleApi {
    fn start() -> Result<Self> {
        let mut command = ending_with_us(beside_us("sample-api")?);
        command.args(["--port", "0"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = Owned(child.context("cannot start the sample API")?);
        let mut line = String::new();
        let stdout = child.0.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).context("cannot read what the sample API prints")?;
        let addr = line.trim().strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
        let addr = addr.with_context(|| format!("the sample API did not start, it said {line:?}"))?;
        Ok(Self { child, addr })
    }
}

/// A program that was built together with this one.
fn beside_us(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find our own path")?.with_file_name(program);
    if !path.exists() {
        bail!("{} is missing: `cargo xtask demo` builds it", path.display());
    }
    Ok(path)
}

/// A bar on a terminal; elsewhere one line at the start and one at the end.
struct Progress {
    bar: ProgressBar,
    what: &'static str,
    started: Instant,
    requests: std::cell::Cell<u64>,
}

impl Progress {
    fn start(what: &'static str, span: Duration) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} {bar:40.cyan/dim} {msg}")
                .expect("the template is right");
            let length = u64::try_from(span.as_millis()).expect("a demo lasts no aeons");
            ProgressBar::new(length).with_style(style).with_prefix(what)
        } else {
            println!("{what} for {} s ...", span.as_secs());
            ProgressBar::hidden()
        };
        Self { bar, what, started: Instant::now(), requests: 0.into() }
    }

    fn show(&self, requests: u64) {
        self.requests.set(requests);
        self.bar.set_position(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(format!("{requests} requests"));
    }

    fn done(self) {
        self.bar.finish_and_clear();
        println!(
            "{}: {} requests in {:.1} s\n",
            self.what,
            self.requests.get(),
            self.started.elapsed().as_secs_f32()
        );
    }
}
