//! `cargo xtask e2e`: the agent on kernels that this machine does not run.
//!
//! Each of them boots in QEMU and runs the program `guest` of the crate `tests`, which drives the traffic, judges, and
//! says in one line what came of it.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::kernels::{self, Kernel, Series};
use crate::{qemu, setup, step, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Kernels to run on; all when left out
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<Series>,
}

/// # Errors
/// When something cannot be installed, fetched or built, or the agent counted wrong on one of the kernels.
pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    step::run(
        "building the agent",
        workspace::cargo().args(["build", "--package=agent", "--bin=apitally-agent"]),
    )?;
    step::run("building the guest", workspace::cargo().args(["build", "--package=tests", "--bin=guest"]))?;
    let series = if args.kernel.is_empty() { Series::value_variants() } else { &args.kernel };
    let outcomes = run_on(series)?;
    if outcomes.iter().all(Outcome::is_exact) {
        Ok(())
    } else {
        bail!("the counts were not exact everywhere")
    }
}

/// Runs what was built on each of these kernels, and prints a table.
///
/// # Errors
/// When something cannot be installed or fetched, or was not built. A kernel on which anything else goes wrong has its row.
pub fn run_on(series: &[Series]) -> Result<Vec<Outcome>> {
    qemu::install()?;
    let kernels = series.iter().map(|series| kernels::fetch(*series)).collect::<Result<Vec<_>>>()?;
    let built = workspace::target_dir().join("debug");
    let initramfs = qemu::initramfs(&[&built.join("apitally-agent"), &built.join("guest")])?;
    let outcomes: Vec<Outcome> = kernels.into_iter().map(|kernel| Outcome::of(kernel, &initramfs)).collect();
    print_table(&outcomes);
    Ok(outcomes)
}

/// What came of one kernel.
#[derive(Debug)]
pub struct Outcome {
    kernel: Kernel,
    /// None when the guest did not get to its end.
    result: Option<GuestResult>,
    took: Duration,
}

/// How the guest begins its last line.
const RESULT: &str = "guest result: ";
/// How it begins its first one. A kernel that ends before it has tripped over the emulator (QEMU 7.2 now and then
/// gets an `iret` of an early boot wrong), since nothing of ours has run until then, and boots again.
const STARTED: &str = "guest: Linux";
const ATTEMPTS: usize = 3;
/// What is shown of a console on which there was no result, or a wrong one.
const SHOWN: usize = 40;

impl Outcome {
    fn of(kernel: Kernel, initramfs: &Path) -> Self {
        let started = Instant::now();
        let what = format!("Linux {} in QEMU", kernel.series.name());
        let mut console = Vec::new();
        for attempt in 1..=ATTEMPTS {
            match qemu::boot(&what, &kernel.image, initramfs) {
                Ok(lines) => console = lines,
                Err(error) => eprintln!("error: {error:#}"),
            }
            if console.iter().any(|line| line.starts_with(STARTED)) {
                break;
            }
            println!("  Linux {} did not get to its first process, attempt {attempt}", kernel.series.name());
        }
        let result = console.iter().rev().find_map(|line| GuestResult::parse(line));
        let outcome = Self { kernel, result, took: started.elapsed() };
        if !outcome.is_exact() {
            for line in &console[console.len().saturating_sub(SHOWN)..] {
                eprintln!("    {line}");
            }
            eprintln!("  all it said is in {}", step::log_path(&what).display());
        }
        outcome
    }

    pub fn is_exact(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.calls.exact && result.flood.exact)
    }
}

/// The guest's last line: `guest result: kernel=.. program=.. calls-sent=.. .. flood-exact=yes`.
#[derive(Debug, PartialEq, Eq)]
struct GuestResult {
    kernel: String,
    program: String,
    calls: Part,
    flood: Part,
}

/// Requests of one part of the suite.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    sent: u64,
    reported: u64,
    lost: u64,
    /// Runs of the agent's programs that the kernel left out.
    skipped: u64,
    exact: bool,
}

impl GuestResult {
    fn parse(line: &str) -> Option<Self> {
        let fields = line.strip_prefix(RESULT)?.split_whitespace().map(|field| field.split_once('='));
        let fields: HashMap<&str, &str> = fields.collect::<Option<_>>()?;
        let text = |name: &str| fields.get(name).map(|&text| text.to_owned());
        let part = |name: &str| {
            let number = |what: &str| text(&format!("{name}-{what}"))?.parse().ok();
            Some(Part {
                sent: number("sent")?,
                reported: number("reported")?,
                lost: number("lost")?,
                skipped: number("skipped")?,
                exact: text(&format!("{name}-exact"))? == "yes",
            })
        };
        let (calls, flood) = (part("calls")?, part("flood")?);
        Some(Self { kernel: text("kernel")?, program: text("program")?, calls, flood })
    }
}

/// Heads of the table, and whether a column is of numbers.
const COLUMNS: [(&str, bool); 13] = [
    ("series", false),
    ("kernel", false),
    ("package", false),
    ("program", false),
    ("calls", true),
    ("reported", true),
    ("lost", true),
    ("flood", true),
    ("reported", true),
    ("lost", true),
    ("skipped", true),
    ("counts", false),
    ("s", true),
];

type Row = [String; COLUMNS.len()];

fn print_table(outcomes: &[Outcome]) {
    let heads = COLUMNS.map(|(head, _)| head.to_owned());
    let rows: Vec<Row> = [heads].into_iter().chain(outcomes.iter().map(Outcome::row)).collect();
    println!();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
            if COLUMNS[column].1 { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  "));
    }
}

impl Outcome {
    /// A line of the table; dashes where the guest did not get to its end.
    fn row(&self) -> Row {
        let mut row = COLUMNS.map(|_| "-".to_owned());
        row[0] = self.kernel.series.name();
        row[2].clone_from(&self.kernel.version);
        row[12] = format!("{:.0}", self.took.as_secs_f32());
        let Some(GuestResult { kernel, program, calls, flood }) = &self.result else {
            row[11] = "no result".to_owned();
            return row;
        };
        if !kernel.starts_with(&format!("{}.", row[0])) {
            row[0] += " and newer";
        }
        row[1].clone_from(kernel);
        row[3].clone_from(program);
        let numbers = [calls.sent, calls.reported, calls.lost, flood.sent, flood.reported, flood.lost];
        let numbers = numbers.into_iter().chain([calls.skipped + flood.skipped]);
        row[4..].iter_mut().zip(numbers).for_each(|(cell, number)| *cell = number.to_string());
        let exact = if self.is_exact() { "exact" } else { "wrong" };
        row[11] = exact.to_owned();
        row
    }
}
