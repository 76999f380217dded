//! The report for people: aligned, and harmless to a terminal whatever is in it.

use super::{
    is_harmless,
    report::{AgentStatus, CaptureStatus, Counts, Hub, Routes, Spool, Target},
};

/// Routes that are listed; `--json` has all.
const ROUTES_SHOWN: usize = 20;
/// Processes that are listed, likewise.
const PROCESSES_SHOWN: usize = 8;
/// Width of the labels.
const LABEL: usize = 13;

/// One agent, in lines.
pub fn of(status: &AgentStatus) -> String {
    let AgentStatus {
        version,
        pid,
        uptime_s,
        kernel,
        programs,
        resources,
        capture,
        metrics,
        tap,
        hubs,
        targets,
        ..
    } = status;
    let mut lines = Lines::default();
    lines.push(&format!("apitally-agent {version}, pid {pid}, up {}, Linux {kernel}", span(*uptime_s)));
    lines.fact(
        "costs",
        &format!(
            "{} resident, {:.1} s of CPU, {} open files",
            size(resources.resident_bytes),
            resources.cpu_s,
            resources.open_fds
        ),
    );
    lines.fact("looks at", &looked_at(capture));
    lines.fact("programs", &programs.join(", "));
    lines.fact(
        "tap",
        &format!(
            "{} records; {} seen, {} copied, {} not needed",
            tap.records,
            size(tap.bytes_seen),
            size(tap.bytes_captured),
            size(tap.bytes_muted)
        ),
    );
    lines.fact("given up", &counts(&tap.dropped));
    if tap.missed_runs > 0 {
        lines.fact("", &format!("the kernel left out {} runs of the programs", tap.missed_runs));
    }
    if let Some(address) = metrics {
        lines.fact("metrics", &format!("http://{address}/metrics"));
    }
    match (hubs.is_empty(), metrics, targets.is_empty()) {
        (false, ..) => {}
        // Pods say themselves where they report to.
        (true, _, true) => lines.fact("hub", "none, nothing is watched yet"),
        (true, None, _) => lines.fact("hub", "none, messages are printed (--dry-run)"),
        (true, Some(_), _) => lines.fact("hub", "none"),
    }
    for hub in hubs {
        lines.hub(hub);
    }
    for target in targets {
        lines.target(target);
    }
    lines.text
}

fn looked_at(capture: &CaptureStatus) -> String {
    let CaptureStatus { level, since_s, bytes_per_call, connections_percent, cpu_percent, .. } = capture;
    let what = if *level == 0 {
        "everything".to_owned()
    } else {
        format!(
            "{} of a call, {connections_percent:.1} % of the connections (level {level} for {})",
            size(*bytes_per_call),
            span(*since_s)
        )
    };
    format!(
        "{what}; takes {cpu_percent:.1} % of a core, may take {} % and {}",
        capture.max_cpu_percent,
        size(capture.max_memory_bytes)
    )
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    /// A line, in which whatever could do something to a terminal is escaped.
    fn push(&mut self, line: &str) {
        for c in line.chars() {
            if is_harmless(c) {
                self.text.push(c);
            } else {
                self.text.extend(c.escape_unicode());
            }
        }
        self.text.push('\n');
    }

    fn fact(&mut self, label: &str, fact: &str) {
        self.push(&format!("  {label:LABEL$}{fact}"));
    }

    fn hub(&mut self, hub: &Hub) {
        let state = if hub.running { "" } else { ", stopped: it does not know the client id" };
        self.fact("hub", &format!("{} ({}), {} messages delivered{state}", hub.url, hub.env, hub.delivered));
        if let Some(answer) = &hub.last_answer {
            self.fact("", &format!("last answer {} ago: {}", span(answer.age_s), answer.outcome));
        }
        self.fact("", &format!("{} messages queued, {}", hub.queued, size(hub.queued_bytes)));
        if let Some(cause) = &hub.spool.degraded {
            let in_memory = hub.spool.in_memory;
            self.fact("", &format!("spool: degraded, {in_memory} messages in memory alone: {cause}"));
        }
        if hub.spool.damaged + hub.spool.foreign > 0 {
            let Spool { damaged, foreign, .. } = hub.spool;
            self.fact("", &format!("spool: {damaged} damaged files, {foreign} that do not belong there"));
        }
        if let Some(pause) = hub.logs_paused_s {
            self.fact("", &format!("request logs are not wanted for {}", span(pause)));
        }
        if hub.dropped.values().any(|count| *count > 0) {
            self.fact("", &format!("messages given up: {}", counts(&hub.dropped)));
        }
    }

    fn target(&mut self, target: &Target) {
        let get = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0);
        let (ledger, note) = (&target.ledger, |name| get(&target.notes, name));
        self.push("");
        let alive = if target.alive { "" } else { ", gone" };
        self.push(&format!("target {}: pid {} {}{alive}", target.spec, target.pid, target.name));
        let shown = target.processes.iter().take(PROCESSES_SHOWN).map(u32::to_string).collect::<Vec<_>>();
        let more = if target.processes.len() > shown.len() { ", ..." } else { "" };
        self.fact("processes", &format!("{} ({}{more})", target.processes.len(), shown.join(", ")));
        let coverage = target.coverage.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.3} %"));
        self.fact("coverage", &coverage);
        let [seen, reported, lost] = ["seen", "reported", "lost"].map(|name| get(ledger, name));
        self.fact(
            "exchanges",
            &format!("{seen} seen: {reported} reported, {lost} lost, {} open", target.open_exchanges),
        );
        let causes = ledger.iter().filter(|(name, _)| !matches!(name.as_str(), "seen" | "reported" | "lost"));
        let causes: Counts = causes.map(|(name, count)| (name.clone(), *count)).collect();
        self.fact("lost to", &counts(&causes));
        self.fact("connections", &format!("{} now, {} in all", target.connections, note("connections")));
        self.fact(
            "bytes",
            &format!(
                "{} seen: {} captured, {} not needed, {} missing in {} gaps",
                size(note("bytes_seen")),
                size(note("bytes_captured")),
                size(note("bytes_muted")),
                size(note("bytes_gapped")),
                note("gaps")
            ),
        );
        self.fact("consumers", &format!("{} of at most {}", target.consumers.count, target.consumers.limit));
        let last = target.last_sync_age_s.map_or("none yet".to_owned(), |age| format!("{} ago", span(age)));
        let next = target.next_sync_in_s.map_or("none due".to_owned(), |due| format!("in {}", span(due)));
        self.fact("messages", &format!("last {last}, next {next}"));
        let Routes { count, learned, limit, .. } = target.routes;
        self.fact(
            "routes",
            &match count.saturating_sub(learned) {
                0 => format!("{learned} of at most {limit}"),
                declared => format!("{declared} declared, {learned} of at most {limit} learned"),
            },
        );
        for route in target.routes.list.iter().take(ROUTES_SHOWN) {
            self.fact("", &format!("{} ({})", route.template, route.source));
        }
        if target.routes.list.len() > ROUTES_SHOWN {
            self.fact("", &format!("and {} more, see --json", target.routes.list.len() - ROUTES_SHOWN));
        }
    }
}

/// Those that are not zero.
fn counts(counts: &Counts) -> String {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    let text = counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "nothing".to_owned() } else { text }
}

fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} days", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::report::{Consumers, LastAnswer, Resources, Route, Tap};

    fn some(counts: &[(&str, u64)]) -> Counts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn example() -> AgentStatus {
        AgentStatus {
            version: "0.1.0".to_owned(),
            pid: 4711,
            uptime_s: 8000.0,
            kernel: "6.18.5".to_owned(),
            programs: vec!["sys_exit".to_owned(), "sys_enter".to_owned()],
            resources: Resources { resident_bytes: 23_500_000, cpu_s: 1.23, open_fds: 14 },
            capture: CaptureStatus {
                level: 5,
                since_s: 42.0,
                bytes_per_call: 4096,
                connections_percent: 12.5,
                cpu_percent: 41.26,
                max_cpu_percent: 50,
                max_memory_bytes: 256_000_000,
            },
            metrics: Some(([127, 0, 0, 1], 9464).into()),
            tap: Tap {
                records: 9,
                bytes_seen: 12_000,
                bytes_captured: 2000,
                bytes_muted: 10_000,
                missed_runs: 5,
                dropped: some(&[("ring_full", 0), ("kernel_fault", 2)]),
            },
            hub: None,
            hubs: vec![Hub {
                url: "https://hub.apitally.io".to_owned(),
                env: "prod".to_owned(),
                running: true,
                queued: 1,
                queued_bytes: 900,
                delivered: 3,
                dropped: some(&[("too_old", 0)]),
                failures: some(&[("status", 2)]),
                last_answer: Some(LastAnswer {
                    delivered: true,
                    outcome: "delivered".to_owned(),
                    age_s: 2.5,
                }),
                spool: Spool {
                    in_memory: 1,
                    recovered: 2,
                    damaged: 3,
                    foreign: 0,
                    degraded: Some("No space left on device".to_owned()),
                },
                logs_paused_s: Some(90.0),
            }],
            targets: vec![Target {
                spec: "--port 8000".to_owned(),
                pid: 42,
                name: "gunicorn".to_owned(),
                alive: true,
                processes: (42..52).collect(),
                coverage: Some(99.9),
                ledger: some(&[
                    ("seen", 1002),
                    ("reported", 999),
                    ("lost", 2),
                    ("lost_gap", 1),
                    ("unmatched", 1),
                ]),
                notes: some(&[("connections", 7), ("bytes_seen", 12_000)]),
                connections: 3,
                open_exchanges: 1,
                routes: Routes {
                    count: 1,
                    learned: 1,
                    limit: 1000,
                    list: vec![Route { template: "/items/{id}".to_owned(), source: "learned".to_owned() }],
                },
                consumers: Consumers { count: 0, limit: 10_000 },
                last_sync_age_s: Some(4.0),
                next_sync_in_s: Some(56.0),
            }],
        }
    }

    #[test]
    fn report_reads_well() {
        let want = "\
apitally-agent 0.1.0, pid 4711, up 2 h 13 min, Linux 6.18.5
  costs        23.5 MB resident, 1.2 s of CPU, 14 open files
  looks at     4.1 kB of a call, 12.5 % of the connections (level 5 for 42 s); takes 41.3 % of a core, may take 50 % and 256.0 MB
  programs     sys_exit, sys_enter
  tap          9 records; 12.0 kB seen, 2.0 kB copied, 10.0 kB not needed
  given up     kernel_fault 2
               the kernel left out 5 runs of the programs
  metrics      http://127.0.0.1:9464/metrics
  hub          https://hub.apitally.io (prod), 3 messages delivered
               last answer 2.5 s ago: delivered
               1 messages queued, 900 B
               spool: degraded, 1 messages in memory alone: No space left on device
               spool: 3 damaged files, 0 that do not belong there
               request logs are not wanted for 90 s

target --port 8000: pid 42 gunicorn
  processes    10 (42, 43, 44, 45, 46, 47, 48, 49, ...)
  coverage     99.900 %
  exchanges    1002 seen: 999 reported, 2 lost, 1 open
  lost to      lost_gap 1, unmatched 1
  connections  3 now, 7 in all
  bytes        12.0 kB seen: 0 B captured, 0 B not needed, 0 B missing in 0 gaps
  consumers    0 of at most 10000
  messages     last 4.0 s ago, next in 56 s
  routes       1 of at most 1000
               /items/{id} (learned)
";
        assert_eq!(of(&example()), want);
    }

    #[test]
    fn declared_routes_are_told_from_learned_ones() {
        let mut status = example();
        status.targets[0]
            .routes
            .list
            .insert(0, Route { template: "/items/me".to_owned(), source: "openapi".to_owned() });
        status.targets[0].routes.count = 2;
        let text = of(&status);
        let want =
            "  routes       1 declared, 1 of at most 1000 learned\n               /items/me (openapi)\n";
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn without_a_hub_it_says_why() {
        let check = |change: fn(&mut AgentStatus), want: &str| {
            let mut status = AgentStatus { hubs: Vec::new(), ..example() };
            change(&mut status);
            let text = of(&status);
            assert!(text.contains(&format!("  hub          {want}\n")), "{text}");
        };
        check(|_| (), "none");
        check(|status| status.metrics = None, "none, messages are printed (--dry-run)");
        check(|status| (status.metrics, status.targets) = (None, Vec::new()), "none, nothing is watched yet");
    }

    #[test]
    fn nothing_in_it_reaches_the_terminal_as_a_command() {
        let mut status = example();
        let evil = "a\u{1b}]0;x\u{7}\u{9b}2J\n\u{202e}b";
        if let Some(target) = status.targets.first_mut() {
            target.name = evil.to_owned();
            target.routes.list = vec![Route { template: evil.to_owned(), source: evil.to_owned() }; 50];
        }
        let text = of(&status);
        assert!(text.chars().all(|c| c == '\n' || is_harmless(c)), "{text}");
        assert!(text.contains(r"pid 42 a\u{1b}]0;x\u{7}\u{9b}2J\u{a}\u{202e}b"), "{text}");
        assert!(text.contains("and 30 more, see --json"), "{text}");
    }
}
