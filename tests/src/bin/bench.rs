//! `cargo xtask bench`: what the agent costs, beside what the server costs alone and what an official client costs.
//!
//! The ways of running are taken in turns, round after round, so that what else the machine does falls on all of them;
//! what is compared is always of one round. Writes `docs/performance.md`, its charts, and the figures of each run.
#![allow(clippy::print_stdout, reason = "says to whoever started it how far it is")]

#[path = "bench/chart.rs"]
mod chart;
#[path = "bench/load.rs"]
mod load;
#[path = "bench/measure.rs"]
mod measure;
#[path = "bench/report.rs"]
mod report;
#[path = "bench/results.rs"]
mod results;
#[path = "bench/subject.rs"]
mod subject;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use tests::machine;

use crate::measure::{Company, Cpus};
use crate::results::{Results, Setting};
use crate::subject::Subject;

#[derive(Parser)]
#[command(about = "Measures what the agent costs")]
struct Args {
    /// Servers to measure: nginx, nginx-1k, axum, fastapi, ninja; without any, all of them
    #[arg(value_parser = subject)]
    servers: Vec<Subject>,
    /// How often each way of running is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// How long each time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where to write the page and what belongs to it
    #[arg(long, default_value = "docs")]
    out: PathBuf,
    /// Measure although others are using the machine: the page says so
    #[arg(long)]
    busy: bool,
}

/// Of the servers under full load.
const CONNECTIONS: usize = 32;
/// Of the runs that show what connections cost.
const CROWDS: [usize; 3] = [10, 1000, 10_000];
/// Than other runs.
const CROWD_TIMES_LONGER: u64 = 3;
/// Descriptors for the largest of them, and some to spare.
const DESCRIPTORS: u64 = 16_384;
/// Runnable processes that are none of ours, on average over the last minute: with more, times are somebody else's.
const QUIET: f64 = 0.5;

fn main() {
    let args = Args::parse();
    let load = load_average();
    assert!(
        args.busy || load <= QUIET,
        "others use this machine (load average {load}, {QUIET} at most): wait until they are done, or say --busy"
    );
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(cpus >= 2, "there is one processor; the server and the load need one each");
    let cpus = Cpus { server: 1, load: 0 };
    allow_descriptors();
    let _machine = machine::alone();

    let began = Instant::now();
    let servers = if args.servers.is_empty() { Subject::ALL.to_vec() } else { args.servers.clone() };
    let mut results = Results::new(Setting {
        rounds: args.rounds,
        seconds: args.seconds,
        connections: CONNECTIONS,
        cpus,
        load_average: load,
    });
    for round in 1..=args.rounds {
        for &server in &servers {
            for company in Company::of(server) {
                let run = measure::full(server, company, cpus, CONNECTIONS, args.seconds);
                println!("{round}: {}, {}: {:.0} requests/s", server.name(), company.name(), run.seen.rate());
                results.add_full(server, company, run);
            }
        }
    }
    if servers.contains(&Subject::Nginx) {
        measure_extremes(&mut results, &args, cpus);
    }
    for &server in servers.iter().filter(|server| matches!(server, Subject::Nginx | Subject::NginxKilobyte)) {
        println!("time in the kernel: {}", server.name());
        for company in [Company::Agent, Company::AgentElsewhere] {
            let times = measure::kernel_time(server, company, cpus, CONNECTIONS, args.seconds);
            results.kernel_time.insert((server, company), times);
        }
    }
    for with_agent in (0..args.rounds).flat_map(|_| [false, true]) {
        results.add_call_times(with_agent, measure::call_times(with_agent, cpus));
    }
    results.took = began.elapsed();
    let written =
        report::write(&results, &args.out).unwrap_or_else(|error| panic!("{}: {error}", args.out.display()));
    println!("{}", report::table(&results));
    println!("{} after {} s", written.display(), results.took.as_secs());
}

/// nginx at half of what it takes, and with few and many connections.
fn measure_extremes(results: &mut Results, args: &Args, cpus: Cpus) {
    let half = results.rate(Subject::Nginx, Company::Nobody) / 2.0;
    for _ in 0..args.rounds {
        for company in [Company::Nobody, Company::Agent] {
            let run = measure::steady(Subject::Nginx, company, cpus, half, args.seconds);
            println!("half of the rate, {}: p99 {} us", company.name(), run.seen.p99.as_micros());
            results.add_steady(company, run);
        }
    }
    for connections in CROWDS {
        // To open so many takes a while.
        let seconds = CROWD_TIMES_LONGER * args.seconds;
        let run = measure::full(Subject::Nginx, Company::Agent, cpus, connections, seconds);
        println!("{connections} connections: {:.0} requests/s", run.seen.rate());
        results.add_crowd(connections, run);
    }
}

fn subject(name: &str) -> Result<Subject, String> {
    let known = || Subject::ALL.iter().map(|subject| subject.name()).collect::<Vec<_>>().join(", ");
    let found = Subject::ALL.into_iter().find(|subject| subject.name() == name);
    found.ok_or_else(|| format!("there is no server of this name; there are {}", known()))
}

/// Over the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").expect("Linux says how busy it is");
    text.split(' ').next().and_then(|load| load.parse().ok()).expect("the first word is a number")
}

/// For us and all that we start.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    assert!(
        most.is_none_or(|most| most >= DESCRIPTORS),
        "we may open {most:?} files, and {DESCRIPTORS} are needed: `ulimit -Hn {DESCRIPTORS}`"
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: most })
        .expect("it is below the most");
}

/// Seconds as a number, for ratios.
fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}
