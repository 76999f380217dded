//! What runs in the virtual machines of `cargo xtask e2e`: a server that uses every system call that moves bytes on a
//! socket, clients that know what they sent, the agent between them, and a verdict.
//!
//! It also runs on an ordinary machine, as root, with `APITALLY_AGENT_BIN` naming the agent.
#![allow(clippy::print_stdout, reason = "its output is the result")]

#[path = "guest/calls.rs"]
mod calls;
#[path = "guest/requests.rs"]
mod requests;
#[path = "guest/server.rs"]
mod server;
#[path = "guest/suite.rs"]
mod suite;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tests::agent::{Agent, AgentBuilder, Stopped};
use tests::eventually::eventually;
use tests::process::ProcessGroup;
use tests::scratch::Scratch;
use tests::totals::{Totals, differences};

use crate::server::Places;
use crate::suite::{Account, Early, Server};

/// The emulator takes its time.
const READY: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Serve in a directory until killed
    Serve { dir: PathBuf },
}

fn main() -> Result<ExitCode> {
    match Args::parse().task {
        Some(Task::Serve { dir }) => server::serve(&dir).map(|()| ExitCode::SUCCESS),
        None => judge(),
    }
}

/// Runs everything and prints, in one line for a program to read, what came of it.
fn judge() -> Result<ExitCode> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    println!("guest: Linux {kernel}");
    let dir = Scratch::new("guest");
    let program = std::env::current_exe().context("cannot find ourselves")?;
    let server = start_server(&program, &dir)?;
    let places = eventually("the server is ready", READY, || Places::of(&dir));
    let target = Server { places: &places, dir: &dir };

    let early = Early::open(&target);
    let agent = start(Agent::watching(server.pid()));
    let began = Instant::now();
    let account = suite::run(&target, early, has_bpf_loop(&kernel));
    println!("guest: {} requests in {:.1} s", account.sent(), began.elapsed().as_secs_f32());
    let calls = Verdict::of(&account, agent);

    // It has the records about clients, too; without them the programs take another path.
    let file = dir.join("agent.toml");
    fs::write(&file, "consumers = [{ address = \"peer\" }]\n").context("cannot write the configuration")?;
    let file = file.to_str().context("the directory's name is no UTF-8")?;
    // Its server comes after it, and is found by its program.
    let (late_dir, latecomer) = (Scratch::new("late"), dir.join("latecomer"));
    fs::copy(&program, &latecomer).context("cannot copy ourselves")?;
    let looking = Agent::looking_for(&["--exe", latecomer.to_str().context("its name is no UTF-8")?]);
    let agent = looking.before_its_target().arg("--config").arg(file).start();
    let server = start_server(&latecomer, &late_dir)?;
    let places = eventually("the late server is ready", READY, || Places::of(&late_dir));
    agent.eventually_watches(server.pid());
    let target = Server { places: &places, dir: &late_dir };
    let began = Instant::now();
    let account = suite::flood(&target);
    println!("guest: a flood of {} requests in {:.1} s", account.sent(), began.elapsed().as_secs_f32());
    let flood = Verdict::of(&account, agent);

    print!("{}{}", calls.findings, flood.findings);
    println!(
        "guest result: kernel={kernel} program={} {} {}",
        calls.program,
        calls.in_words("calls"),
        flood.in_words("flood")
    );
    Ok(if calls.is_exact() && flood.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start_server(program: &Path, dir: &Path) -> Result<ProcessGroup> {
    let leader = Command::new(program).arg("serve").arg(dir).process_group(0).spawn();
    Ok(ProcessGroup::of(leader.context("cannot start the server")?))
}

fn start(agent: AgentBuilder) -> Agent {
    let agent = agent.start();
    println!("guest: the agent watches after {:.1} s", agent.watching_after().as_secs_f32());
    agent
}

/// Whether the kernel walks many buffers: from Linux 5.17 on.
fn has_bpf_loop(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(17))
}

/// What the agent made of an account.
struct Verdict {
    sent: u64,
    reported: u64,
    lost: u64,
    /// Runs of the agent's programs that the kernel left out.
    skipped: u64,
    /// The program on the end of system calls.
    program: String,
    /// What is not as it should be, a line each.
    findings: String,
}

impl Verdict {
    fn of(account: &Account, agent: Agent) -> Self {
        let (skipped, cpu_time) = (skipped_runs(agent.pid()), agent.cpu_time());
        let stopped = agent.stop();
        let mut findings = differences(
            &Totals::of(&account.exchanges).untimed(|_| true),
            &stopped.totals().untimed(|_| true),
        );
        let ledger = stopped.ledger();
        let mut expect = |what: &str, expected: u64, found: u64| {
            if expected != found {
                let _ = writeln!(findings, "{what}: {expected} expected, {found} found");
            }
        };
        expect("seen", account.sent(), ledger.seen());
        expect("lost", account.lost.values().sum(), ledger.get("lost"));
        for (cause, count) in &account.lost {
            expect(cause, *count, ledger.get(cause));
        }
        println!("guest: the agent took {:.1} s of CPU", cpu_time.as_secs_f32());
        println!("guest: ledger: {ledger}");
        println!("guest: tap: {}", stopped.tap());
        for line in stopped.log.iter().filter(|line| matches!(line.level(), Some("WARN" | "ERROR"))) {
            println!("guest: {}", line.text);
        }
        Self {
            sent: account.sent(),
            reported: ledger.get("reported"),
            lost: ledger.get("lost"),
            skipped,
            program: program_on_sys_exit(&stopped),
            findings,
        }
    }

    fn is_exact(&self) -> bool {
        self.findings.is_empty()
    }

    fn in_words(&self, part: &str) -> String {
        let exact = if self.is_exact() { "yes" } else { "no" };
        format!(
            "{part}-sent={} {part}-reported={} {part}-lost={} {part}-skipped={} {part}-exact={exact}",
            self.sent, self.reported, self.lost, self.skipped
        )
    }
}

fn program_on_sys_exit(stopped: &Stopped) -> String {
    let line = stopped.log.iter().find(|line| line.message() == Some("programs attached"));
    let program = line.and_then(|line| line.field("sys_exit")).and_then(serde_json::Value::as_str);
    program.unwrap_or("unknown").to_owned()
}

/// From what the kernel shows of a process's descriptors; 0 before Linux 5.12, which does not count them.
fn skipped_runs(pid: u32) -> u64 {
    let infos = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo"));
    let infos = infos.expect("the agent runs").flatten();
    let texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    let runs = texts.filter_map(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
        line.trim().parse::<u64>().ok()
    });
    runs.sum()
}
