//! The page, its charts, and the figures of each run beside it.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::chart::{self, Bar, Group};
use crate::load::wrk_words;
use crate::measure::{CallTimes, Company, Run};
use crate::results::{Results, Spread};
use crate::seconds;
use crate::subject::{Official, Subject};

/// What a figure is to keep to.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

/// Writes all of it below `out`; the page's path.
///
/// # Errors
/// When a file cannot be written.
pub fn write(results: &Results, out: &Path) -> io::Result<PathBuf> {
    let beside = out.join("performance");
    fs::create_dir_all(&beside)?;
    fs::write(beside.join("figures.json"), format!("{:#}\n", results.to_json()))?;
    for (name, title, figure, unit) in CHARTS {
        fs::write(beside.join(format!("{name}.svg")), draw(results, title, figure, unit))?;
    }
    let page = out.join("performance.md");
    fs::write(&page, self::page(results))?;
    Ok(page)
}

type Figure = fn(&Run) -> f64;

/// File, title, figure, and its unit; of each the median is drawn as a share of what the server does alone.
const CHARTS: [(&str, &str, Figure, &str); 3] = [
    ("throughput", "Requests per second, in percent of the server's alone", |run| run.seen.rate(), "/s"),
    (
        "p99",
        "p99 of the response time, in percent of the server's alone",
        |run| seconds(run.seen.p99) * 1e3,
        " ms",
    ),
    ("cpu", "CPU time per request, agent included, in percent of the server's alone", Run::cpu_in_all, " us"),
];

const WAYS: [Company; 5] = [
    Company::Nobody,
    Company::Agent,
    Company::AgentElsewhere,
    Company::Official(Official::Hub),
    Company::Official(Official::Otlp),
];

fn draw(results: &Results, title: &str, figure: Figure, unit: &str) -> String {
    let group = |subject: Subject| {
        let bar = |(series, company): (usize, Company)| {
            let (value, ratio) = (
                results.spread(subject, company, figure)?.median,
                results.ratio(subject, company, figure)?.median,
            );
            let text = format!("{:.0} %  ({}{unit})", 100.0 * ratio, short(value));
            Some(Bar { series, value: ratio, text })
        };
        Group { title: subject.title(), bars: WAYS.into_iter().enumerate().filter_map(bar).collect() }
    };
    let groups: Vec<Group> = results.subjects().into_iter().map(group).collect();
    chart::bars(title, &WAYS.map(Company::name), &groups)
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// The figures beside their bars.
pub fn table(results: &Results) -> String {
    let mut table =
        String::from("| figure | bar | median | least to most | |\n| --- | --- | --- | --- | --- |\n");
    let mut row = |what: &str, bar: Bound, unit: &str, spread: Option<Spread>| {
        let Some(Spread { least, median, most }) = spread else { return };
        let (sign, bound, is_met) = match bar {
            AtLeast(bound) => ("≥", bound, median >= bound),
            AtMost(bound) => ("≤", bound, median <= bound),
        };
        let digits = if median.abs() < 10.0 { 3 } else { 1 };
        let _ = writeln!(
            table,
            "| {what} | {sign} {bound}{unit} | {median:.digits$}{unit} | {least:.digits$} to {most:.digits$} | {} |",
            if is_met { "met" } else { "missed" }
        );
    };
    for (subject, throughput, cpu) in [
        (Subject::Ninja, 0.98, Some(1.03)),
        (Subject::FastApi, 0.97, Some(1.05)),
        (Subject::Nginx, 0.85, None),
    ] {
        let ratio = |figure: Figure| results.ratio(subject, Company::Agent, figure);
        let what = format!("{}: throughput with / without", subject.title());
        row(&what, AtLeast(throughput), "", ratio(|run| run.seen.rate()));
        if let Some(cpu) = cpu {
            let what = format!("{}: CPU time, with / without", subject.title());
            row(&what, AtMost(cpu), "", ratio(Run::cpu_in_all));
            let official = results.ratio(subject, Company::Official(Official::Hub), |run| run.seen.rate());
            let better = official.map_or(0.0, |official| official.median);
            let what = format!("{}: throughput, against official 0.25's", subject.title());
            row(&what, AtLeast((better * 1000.0).round() / 1000.0), "", ratio(|run| run.seen.rate()));
        }
    }
    row(
        "nginx: p99 with / without, at half of its rate",
        AtMost(1.1),
        "",
        results.steady_ratio(|seen| seen.p99),
    );
    let share = results.full(Subject::Nginx, Company::Agent).iter().filter_map(|run| {
        let agent = run.agent.as_ref()?;
        Some(100.0 * (agent.reported as f64 / run.seen.requests as f64).min(1.0))
    });
    row("nginx: reported of what was sent", AtLeast(100.0), " %", Spread::of(share));
    let lost = results.subjects().into_iter().flat_map(|subject| results.full(subject, Company::Agent));
    let lost = lost.filter_map(|run| Some(run.agent.as_ref()?.lost.values().sum::<u64>() as f64));
    row("all servers: what any loss counter says", AtMost(0.0), "", Spread::of(lost));
    let kernel = |company| results.kernel_time(Subject::NginxKilobyte, company).map(|ns| ns / 1e3);
    let in_all = Spread::of(kernel(Company::Agent));
    row("nginx, 1 KB each way: time in the kernel per request", AtMost(1.5), " us", in_all);
    for subject in [Subject::Nginx, Subject::NginxKilobyte] {
        let spread = results.spread(subject, Company::Agent, |run| run.cpu_per_million().1);
        row(
            &format!("{}: the agent's CPU time per million requests", subject.title()),
            AtMost(2.5),
            " s",
            spread,
        );
    }
    let resident =
        results.crowds.get(&1000).and_then(|run| Some(run.agent.as_ref()?.resident_bytes as f64 / 1e6));
    row("agent, 1,000 connections: resident memory", AtMost(40.0), " MB", Spread::of(resident));
    if let (Some((_, few)), Some((_, many))) =
        (results.crowds.first_key_value(), results.crowds.last_key_value())
    {
        let growth = many.cpu_per_million().1 / few.cpu_per_million().1;
        row(
            "agent: CPU time per request, with 10,000 connections / with 10",
            AtMost(1.3),
            "",
            Spread::of([growth]),
        );
    }
    let added = |time: fn(&CallTimes) -> f64| {
        results.added_to_a_call(time).map(|Spread { least, median, most }| Spread {
            least: least / 1e3,
            median: median / 1e3,
            most: most / 1e3,
        })
    };
    row("a process that is not watched: added to `getppid`", AtMost(0.15), " us", added(|call| call.getppid));
    row(
        "a process that is not watched: added to a read or a write",
        AtMost(0.15),
        " us",
        added(|call| call.read_write),
    );
    table
}

fn page(results: &Results) -> String {
    let setting = results.setting;
    let mut page = String::from("# What it costs\n\n");
    let _ = writeln!(
        page,
        "Measured by `cargo xtask bench --rounds {} --seconds {}` in {} s; the figures of each run are in\n\
         [performance/figures.json](performance/figures.json). Load average before it: {}.\n",
        setting.rounds,
        setting.seconds,
        results.took.as_secs(),
        setting.load_average
    );
    page += "Each round runs every server alone, watched by the agent, with the agent watching another process, and with\n\
             its official client where there is one. A ratio is between runs of one round; of all rounds the median is\n\
             shown, and the least and the most. Why what is missed is missed: [cost.md](cost.md).\n\n";
    page += &table(results);
    page += "\n![throughput](performance/throughput.svg)\n\n![p99](performance/p99.svg)\n\n![CPU](performance/cpu.svg)\n";
    page += "\n## All runs\n\n| server | | requests/s | p50 | p99 | server CPU per million | agent CPU per million |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n";
    for subject in results.subjects() {
        for company in WAYS {
            let figure =
                |figure: Figure| results.spread(subject, company, figure).map(|spread| short(spread.median));
            let figures = [
                figure(|run| run.seen.rate()),
                figure(|run| seconds(run.seen.p50) * 1e3).map(|ms| ms + " ms"),
                figure(|run| seconds(run.seen.p99) * 1e3).map(|ms| ms + " ms"),
                figure(|run| run.cpu_per_million().0).map(|s| s + " s"),
                figure(|run| run.cpu_per_million().1).map(|s| s + " s"),
            ];
            let Some(figures) = figures.into_iter().collect::<Option<Vec<_>>>() else { continue };
            let _ = writeln!(page, "| {} | {} | {} |", subject.title(), company.name(), figures.join(" | "));
        }
    }
    page += "\n## nginx at half of its rate\n\n| | p50 | p99 |\n| --- | --- | --- |\n";
    for company in [Company::Nobody, Company::Agent] {
        let runs = results.steady(company).iter();
        let times = [
            Spread::of(runs.clone().map(|run| seconds(run.seen.p50) * 1e3)),
            Spread::of(runs.map(|run| seconds(run.seen.p99) * 1e3)),
        ];
        if let [Some(p50), Some(p99)] = times.map(|time| time.map(|time| short(time.median))) {
            let _ = writeln!(page, "| {} | {p50} ms | {p99} ms |", company.name());
        }
    }
    page += "\n## Time in the kernel, by program\n\nNanoseconds per request (`kernel.bpf_stats_enabled`, in a run of its\n\
             own, since it makes each run of a program longer). Programs on system calls run for all processes of the\n\
             host, so those of the load are in it; the run with the agent elsewhere shows what they and the statistics\n\
             take when nobody is watched.\n\n| server | | program | ns |\n| --- | --- | --- | --- |\n";
    for ((subject, company), times) in &results.kernel_time {
        for (program, ns) in times {
            let _ = writeln!(page, "| {} | {} | `{program}` | {ns:.0} |", subject.title(), company.name());
        }
    }
    page += "\n## Connections\n\n| connections | requests/s | agent CPU per million | agent's memory |\n| --- | --- | --- | --- |\n";
    for (connections, run) in &results.crowds {
        let memory = run.agent.as_ref().map_or(0, |agent| agent.resident_bytes) as f64 / 1e6;
        let (rate, cpu) = (run.seen.rate(), run.cpu_per_million().1);
        let _ = writeln!(page, "| {connections} | {rate:.0} | {cpu:.2} s | {memory:.1} MB |");
    }
    page += "\n## How\n\n";
    let _ = writeln!(page, "- {}", machine());
    for (program, version) in versions() {
        let _ = writeln!(page, "- {program} {version}");
    }
    let (server, load) = (setting.cpus.server, setting.cpus.load);
    let _ = writeln!(
        page,
        "- The server runs on processor {server}, the load on processor {load}. The agent, a release build, reports to\n  \
         a hub on the same host and runs where the kernel puts it."
    );
    for subject in results.subjects() {
        let words = wrk_words(subject, "127.0.0.1:PORT", load, setting.connections, setting.seconds);
        let _ = writeln!(page, "- {}: `{}`", subject.title(), words.join(" "));
    }
    page
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} × {}, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}

/// What takes part, as it says itself.
fn versions() -> Vec<(&'static str, String)> {
    let said = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.split_whitespace().find_map(|word| {
            let number = word.trim_start_matches(|c: char| !c.is_ascii_digit());
            number.contains('.').then(|| number.trim_end_matches([',', ')', ']']).to_owned())
        })
    };
    let of_python = |package: &str| {
        let python = tests::app::installed("official-0.25/bin/python");
        let code = format!("import importlib.metadata as m; print(m.version('{package}'))");
        said(&[&python.to_string_lossy(), "-c", &code])
    };
    let all = [
        ("nginx", said(&["nginx", "-v"])),
        ("wrk", said(&["wrk", "-v"])),
        (
            "Python",
            said(&[&tests::app::installed("official-0.25/bin/python").to_string_lossy(), "--version"]),
        ),
        ("FastAPI", of_python("fastapi")),
        ("uvicorn", of_python("uvicorn")),
        ("Django Ninja", of_python("django-ninja")),
        ("gunicorn", of_python("gunicorn")),
    ];
    all.into_iter().filter_map(|(program, version)| Some((program, version?))).collect()
}
