//! `cargo xtask fuzz`: builds the fuzz targets, runs them, and says what each has done or found.
//!
//! They are built by the compiler that builds the agent, the workspace's own: rustup's stable carries
//! AddressSanitizer's runtime, and RUSTC_BOOTSTRAP=1 lets it take the flag that links it.
//!
//! What the fuzzer learns is kept in `target/fuzz/corpus` and starts the next run; seeds and earlier findings in
//! `fuzz/` do too. A new finding is written to `target/fuzz/findings`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::{packages, step, test::Tests, workspace};

const CARGO_FUZZ_VERSION: &str = "0.13.2";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Seconds for each target in `cargo xtask test`.
const SHORT: u64 = 10;

/// Longest input, bytes: some hundred events, or a dozen exchanges.
const MAX_INPUT: u64 = 4096;
/// An input that takes longer is a finding.
const TIMEOUT_S: u64 = 10;
/// So is one that makes the whole process hold more than this, or ask for so much at once.
const MAX_RSS_MB: u64 = 512;
const MAX_MALLOC_MB: u64 = 64;

#[derive(clap::Args)]
pub struct Args {
    /// One of the targets, see fuzz/targets; all if none is given
    target: Option<String>,
    /// How long to run each
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

/// # Errors
/// When there is no such target, something cannot be installed or built, or a target finds something.
pub fn run(args: &Args) -> Result<()> {
    let mut targets = targets()?;
    if let Some(wanted) = &args.target {
        if !targets.contains(wanted) {
            bail!("there is no fuzz target `{wanted}`: it is one of {}", targets.join(", "));
        }
        targets.retain(|target| target == wanted);
    }
    let tests = run_targets(&targets, args.seconds)?;
    if tests.failed > 0 {
        bail!("{} of {} targets found something", tests.failed, targets.len());
    }
    Ok(())
}

/// Every target for a few seconds; each that finds nothing has passed.
///
/// # Errors
/// When something cannot be installed or built.
pub fn short() -> Result<Tests> {
    run_targets(&targets()?, SHORT)
}

/// Names of the targets, in order.
fn targets() -> Result<Vec<String>> {
    let dir = workspace::root().join("fuzz/targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

/// Builds all targets and runs these, as many at a time as there are processors.
fn run_targets(targets: &[String], seconds: u64) -> Result<Tests> {
    install()?;
    step::run("building the fuzz targets", &mut build())?;
    println!("fuzzing {}, {seconds} s each", targets.join(", "));
    let left = Mutex::new(targets.iter());
    let tests = Mutex::new(Tests { ok: true, ..Tests::default() });
    let work = || -> Result<()> {
        loop {
            // The lock ends with this statement.
            let Some(target) = left.lock().expect("no one panics with it").next() else { return Ok(()) };
            let outcome = fuzz(target, seconds)?;
            println!("  {target}: {outcome}");
            let mut tests = tests.lock().expect("no one panics with it");
            match outcome {
                Outcome::Nothing(_) => tests.passed += 1,
                Outcome::Finding(_) => tests.failed += 1,
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })?;
    Ok(tests.into_inner().expect("no one panicked with it"))
}

/// cargo-fuzz, and the C++ compiler for libFuzzer.
fn install() -> Result<()> {
    if workspace::on_path("c++").is_none() {
        packages::install(&["g++"])?;
    }
    let mut version = workspace::cargo();
    version.args(["fuzz", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let mut cargo = workspace::cargo();
    cargo.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked"]);
    step::run("installing cargo-fuzz", &mut cargo)
}

/// Optimised, with assertions, overflow checks and AddressSanitizer, which are cargo-fuzz's defaults.
fn build() -> Command {
    let mut cargo = workspace::cargo();
    cargo
        .args([
            "fuzz",
            "build",
            "--fuzz-dir=fuzz",
            "--features=libfuzzer",
            "--target",
            TRIPLE,
            "--target-dir",
        ])
        .arg(workspace::target_dir())
        .env("RUSTC_BOOTSTRAP", "1");
    cargo
}

/// How a run ended.
enum Outcome {
    Nothing(Statistics),
    Finding(Finding),
}

/// What the fuzzer says at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Statistics {
    executions: u64,
    /// Executions a second.
    rate: u64,
    /// Branches of the program that were taken.
    edges: u64,
    /// Inputs that led to them, or to something else that is new.
    inputs: u64,
    peak_rss_mb: u64,
}

struct Finding {
    program: PathBuf,
    /// The input; None when the fuzzer ended without writing one.
    input: Option<PathBuf>,
    target: String,
    log: PathBuf,
}

fn fuzz(target: &str, seconds: u64) -> Result<Outcome> {
    let program = workspace::target_dir().join(TRIPLE).join("release").join(target);
    let ours = workspace::target_dir().join("fuzz");
    let (corpus, findings) = (ours.join("corpus").join(target), ours.join("findings").join(target));
    let log_path = workspace::root().join(format!("target/xtask/fuzz-{target}.log"));
    for dir in [&corpus, &findings, &log_path.parent().expect("it has one").to_owned()] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let fuzz = workspace::root().join("fuzz");
    let mut kept = ["seeds", "findings"].map(|kind| fuzz.join(kind).join(target)).to_vec();
    if target == "recordings" {
        kept.push(workspace::root().join("agent/tests/recordings"));
    }
    let status = Command::new("nice")
        .args(["-n", "10"])
        .arg(&program)
        .arg(&corpus)
        .args(kept.iter().filter(|dir| dir.is_dir()))
        .arg(format!("-dict={}", fuzz.join("http.dict").display()))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={MAX_RSS_MB}"))
        .arg(format!("-malloc_limit_mb={MAX_MALLOC_MB}"))
        .args(["-use_value_profile=1", "-print_final_stats=1"])
        // What was freed is kept from being used again, up to here; the default alone is half of the bound.
        .env("ASAN_OPTIONS", "quarantine_size_mb=32:detect_odr_violation=0")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share a log")?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let said = fs::read(&log_path).with_context(|| format!("cannot read {}", log_path.display()))?;
    let said = String::from_utf8_lossy(&said);
    if status.success() {
        return Ok(Outcome::Nothing(Statistics::of(&said)));
    }
    let input =
        said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.into());
    Ok(Outcome::Finding(Finding { program, input, target: target.to_owned(), log: log_path }))
}

impl Statistics {
    /// From the lines that libFuzzer prints: `#1234 DONE cov: 98 ft: 200 corp: 12/3Kb ...` and `stat::name: value`.
    fn of(said: &str) -> Self {
        let mut statistics = Self::default();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |word: Option<&&str>| {
                word.and_then(|word| word.split('/').next()).and_then(|word| word.parse().ok()).unwrap_or(0)
            };
            match words.as_slice() {
                ["stat::number_of_executed_units:", value] => statistics.executions = number(Some(value)),
                ["stat::average_exec_per_sec:", value] => statistics.rate = number(Some(value)),
                ["stat::peak_rss_mb:", value] => statistics.peak_rss_mb = number(Some(value)),
                [first, "DONE", ..] if first.starts_with('#') => {
                    let after = |name| number(words.iter().skip_while(|word| **word != name).nth(1));
                    (statistics.edges, statistics.inputs) = (after("cov:"), after("corp:"));
                }
                _ => {}
            }
        }
        statistics
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing(Statistics { executions, rate, edges, inputs, peak_rss_mb }) => write!(
                f,
                "{executions} executions, {rate}/s, {edges} edges, {inputs} inputs, {peak_rss_mb} MB at most"
            ),
            Self::Finding(Finding { program, input: Some(input), target, log }) => write!(
                f,
                "FOUND SOMETHING, see {log}\n    again: {program} {input}\n    to keep it: \
                 cp {input} fuzz/findings/{target}/ && cargo test --package fuzz",
                log = log.display(),
                program = program.display(),
                input = input.display(),
            ),
            Self::Finding(Finding { input: None, log, .. }) => {
                write!(f, "FAILED, and left no input; all it said is in {}", log.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Statistics;

    #[test]
    fn statistics_are_read_from_what_libfuzzer_prints() {
        let said = "#8192\tpulse  cov: 7 ft: 8 corp: 1/1b exec/s: 4096 rss: 40Mb\n\
                    #9000\tDONE   cov: 77 ft: 88 corp: 12/34Kb lim: 99 exec/s: 4500 rss: 41Mb\n\
                    Done 9000 runs in 2 second(s)\n\
                    stat::number_of_executed_units: 9000\n\
                    stat::average_exec_per_sec:     4500\n\
                    stat::new_units_added:          12\n\
                    stat::peak_rss_mb:              41\n";
        let want = Statistics { executions: 9000, rate: 4500, edges: 77, inputs: 12, peak_rss_mb: 41 };
        assert_eq!(Statistics::of(said), want);
    }
}
