//! One measurement each: a server under load with or without the agent, the kernel's time per program, a system call of
//! a process that nobody watches.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tests::agent::{Agent, Ledger, Stopped};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::process::ending_with_us;

use crate::load::{self, Seen};
use crate::subject::{Official, Server, Subject};

/// The processors: one for the server, one for the load. The agent goes where the kernel puts it.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    pub server: usize,
    pub load: usize,
}

/// Who else is there while a server is under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Company {
    Nobody,
    /// The agent, watching the server.
    Agent,
    /// The agent, watching a process that does nothing.
    AgentElsewhere,
    /// No agent: the server reports by itself.
    Official(Official),
}

/// What one run of a server under load came to.
#[derive(Clone, Debug)]
pub struct Run {
    pub seen: Seen,
    /// CPU time of the server in the run.
    pub server_cpu: Duration,
    pub agent: Option<AgentRun>,
}

/// The agent's part in it.
#[derive(Clone, Debug)]
pub struct AgentRun {
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub reported: u64,
    /// What it lost, and what the kernel side gave up, by cause; nothing that is zero.
    pub lost: BTreeMap<String, u64>,
}

/// So that no run measures how a server warms up, seconds.
const WARM_UP: u64 = 1;
/// Few, so that they are all open in that time.
const WARM_UP_CONNECTIONS: usize = 32;

impl Company {
    /// All that a server can be measured in.
    pub fn of(subject: Subject) -> Vec<Self> {
        let mut all = vec![Self::Nobody, Self::Agent, Self::AgentElsewhere];
        if subject.has_official_client() {
            all.extend([Self::Official(Official::Hub), Self::Official(Official::Otlp)]);
        }
        all
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "alone",
            Self::Agent => "agent",
            Self::AgentElsewhere => "agent elsewhere",
            Self::Official(Official::Hub) => "official 0.25",
            Self::Official(Official::Otlp) => "official 1.0",
        }
    }
}

/// Everything a server takes.
pub fn full(subject: Subject, company: Company, cpus: Cpus, connections: usize, seconds: u64) -> Run {
    run(subject, company, cpus, |server| {
        load::full(subject, server.address(), cpus.load, connections, seconds)
    })
}

/// A rate below that, by ourselves.
pub fn steady(subject: Subject, company: Company, cpus: Cpus, rate: f64, seconds: u64) -> Run {
    run(subject, company, cpus, |server| {
        // Who waits for the processor measures that, and nothing of the server.
        let (_here, _first) = (Pinned::to(cpus.load), machine::first_in_line());
        load::steady(subject, server.address(), rate, seconds)
    })
}

fn run(subject: Subject, company: Company, cpus: Cpus, load: impl FnOnce(&Server) -> Seen) -> Run {
    let hub = FakeHub::start();
    let official = match company {
        Company::Official(client) => Some((client, &hub)),
        _ => None,
    };
    let server = subject.start(cpus.server, official);
    load::full(subject, server.address(), cpus.load, WARM_UP_CONNECTIONS, WARM_UP);
    let idle = Idle::start();
    let agent = match company {
        Company::Agent => Some(watch(server.pid(), &hub)),
        Company::AgentElsewhere => Some(watch(idle.0.id(), &hub)),
        Company::Nobody | Company::Official(_) => None,
    };
    let before = (server.cpu_time(), agent.as_ref().map(Agent::cpu_time));
    let seen = load(&server);
    let server_cpu = server.cpu_time() - before.0;
    let agent = agent.map(|agent| {
        let resident_bytes = agent.resident_bytes();
        let pid = agent.pid();
        let began = before.1.unwrap_or_default();
        // What waits in the ring buffer is work of this run.
        tests::eventually::let_pass(Duration::from_millis(600));
        let cpu = tests::process::cpu_time(pid) - began;
        let stopped = agent.stop();
        AgentRun { cpu, resident_bytes, reported: stopped.ledger().get("reported"), lost: lost(&stopped) }
    });
    Run { seen, server_cpu, agent }
}

fn watch(pid: u32, hub: &FakeHub) -> Agent {
    Agent::watching(pid).reporting_to(hub).on_the_usual_schedule().with_the_usual_log().max_cpu(None).start()
}

/// Fields of the ledger that say nothing of a loss.
const NO_LOSSES: [&str; 8] =
    ["seen", "reported", "lost", "pid", "connections", "bytes_seen", "bytes_captured", "bytes_muted"];

fn lost(stopped: &Stopped) -> BTreeMap<String, u64> {
    let Ledger(ledger) = stopped.ledger();
    let Ledger(given_up) = stopped.given_up();
    let is_loss = |name: &str, count: u64| count > 0 && !NO_LOSSES.contains(&name);
    let losses = ledger.into_iter().filter(|(name, count)| is_loss(name, *count));
    losses.chain(given_up.into_iter().filter(|(_, count)| *count > 0)).collect()
}

/// A process that does nothing.
struct Idle(Child);

impl Idle {
    fn start() -> Self {
        let mut command = ending_with_us("sleep");
        Self(command.arg("3600").stdin(Stdio::null()).spawn().expect("sleep can be started"))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This process on one processor, as long as it lives.
struct Pinned(String);

impl Pinned {
    fn to(cpu: usize) -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("we run");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let before = allowed.expect("we run on some").trim().to_owned();
        pin(&cpu.to_string());
        Self(before)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        pin(&self.0);
    }
}

fn pin(cpus: &str) {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cpus, &std::process::id().to_string()]);
    let done = command.stdout(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "{command:?}");
}

/// Time in the kernel per request by program, nanoseconds; measuring it makes each run longer.
pub fn kernel_time(
    subject: Subject,
    company: Company,
    cpus: Cpus,
    connections: usize,
    seconds: u64,
) -> BTreeMap<String, f64> {
    let hub = FakeHub::start();
    let server = subject.start(cpus.server, None);
    load::full(subject, server.address(), cpus.load, WARM_UP_CONNECTIONS, WARM_UP);
    let idle = Idle::start();
    let agent = watch(if company == Company::Agent { server.pid() } else { idle.0.id() }, &hub);
    let _statistics = Statistics::on();
    let before = run_times(agent.pid());
    let seen = load::full(subject, server.address(), cpus.load, connections, seconds);
    let spent = run_times(agent.pid()).into_iter().map(|(program, ns)| {
        let spent = ns - before.get(&program).copied().unwrap_or(0);
        (program, spent as f64 / seen.requests as f64)
    });
    spent.collect()
}

/// Time in each eBPF program that a process holds, nanoseconds, by where it is attached.
fn run_times(pid: u32) -> BTreeMap<String, u64> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the agent runs").flatten();
    let infos: Vec<String> = infos.filter_map(|info| fs::read_to_string(info.path()).ok()).collect();
    let field = |info: &str, name: &str| -> Option<String> {
        info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    };
    let times = infos.iter().filter_map(|info| {
        let (id, ns) = (field(info, "prog_id")?, field(info, "run_time_ns")?);
        let link = infos
            .iter()
            .find(|link| field(link, "prog_id").as_ref() == Some(&id) && link.contains("tp_name:"));
        let name = link.and_then(|link| field(link, "tp_name")).unwrap_or_else(|| format!("program {id}"));
        Some((name, ns.parse().ok()?))
    });
    times.collect()
}

/// The kernel counts the time that programs run, as long as this lives.
struct Statistics(String);

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Statistics {
    fn on() -> Self {
        let before = fs::read_to_string(STATISTICS).expect("Linux 5.8 and newer count the time of programs");
        fs::write(STATISTICS, "1").expect("root may switch it on");
        Self(before)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, self.0.trim());
    }
}

/// A system call of a process that nobody watches, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct CallTimes {
    /// One that does next to nothing.
    pub getppid: f64,
    /// Reading and writing a byte by turns.
    pub read_write: f64,
}

/// Those of this process, with the agent on another one or without any.
pub fn call_times(with_agent: bool, cpus: Cpus) -> CallTimes {
    const CALLS: u32 = 1_000_000;
    let (hub, idle) = (FakeHub::start(), Idle::start());
    let _agent = with_agent.then(|| watch(idle.0.id(), &hub));
    let _here = Pinned::to(cpus.server);
    let each = |since: Instant, calls: u32| since.elapsed().as_nanos() as f64 / f64::from(calls);
    let since = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(rustix::process::getppid());
    }
    let getppid = each(since, CALLS);
    let (mut near, mut far) = UnixStream::pair().expect("two sockets");
    let since = Instant::now();
    for _ in 0..CALLS / 4 {
        near.write_all(b"x").expect("there is room");
        far.read_exact(&mut [0]).expect("a byte is there");
    }
    CallTimes { getppid, read_write: each(since, CALLS / 2) }
}
