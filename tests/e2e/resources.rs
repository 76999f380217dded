//! CPU and memory of the target: what the agent reports is what the target's processes used.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Stdio};

use serde_json::Value;
use tests::agent::Agent;
use tests::app::{apps_dir, installed};
use tests::fake_hub::{FakeHub, Kind};
use tests::machine;
use tests::process::{ProcessGroup, ending_with_us, resident_bytes};

/// Of CPU time, seconds: /proc counts in hundredths, for each process.
const TOLERANCE: f64 = 0.1;

#[test]
fn cpu_and_memory_of_children_are_those_of_the_target() {
    let _machine = machine::alone();
    let (mut burner, hub) = (Burner::start(), FakeHub::start());
    let agent = Agent::watching(burner.group.pid()).reporting_to(&hub).sync_interval("300ms").start();
    let before = burner.used();
    let first = hub.eventually_receives(1, Kind::Sync).remove(0);
    assert_eq!(first.body["resources"], Value::Null, "nothing to compare with yet");

    burner.ask("stay 0.6");
    burner.ask("come and go 1.1");
    burner.ask("stay 0.4");
    let truth = burner.used() - before;
    let received = hub.received_of(Kind::Sync).len();
    let syncs = hub.eventually_receives(received + 2, Kind::Sync);

    let reported = cpu_seconds(syncs.iter().map(|sync| &sync.body));
    assert!(truth > 2.0, "{truth} s");
    assert!((reported - truth).abs() < TOLERANCE, "{reported} s reported, {truth} s used");

    let memory =
        syncs.last().and_then(|sync| sync.body["resources"]["memory_rss"].as_u64()).expect("it is known");
    let pids = std::iter::once(burner.group.pid()).chain(burner.group.children());
    let truth: u64 = pids.map(resident_bytes).sum();
    assert_eq!(burner.group.children().len(), 2);
    assert!(truth > 40_000_000 && memory.abs_diff(truth) < truth / 20, "{memory} reported, {truth} held");
    agent.stop();
}

/// From the shares of one core and the times that they are of.
fn cpu_seconds<'a>(syncs: impl Iterator<Item = &'a Value>) -> f64 {
    let syncs: Vec<&Value> = syncs.collect();
    let time = |sync: &Value| sync["timestamp"].as_f64().expect("a sync has a time");
    let used = syncs.windows(2).map(|two| {
        let percent = two[1]["resources"]["cpu_percent"].as_f64().expect("known from the second one on");
        percent / 100.0 * (time(two[1]) - time(two[0]))
    });
    used.sum()
}

/// `tests/e2e/apps/burner.py`.
struct Burner {
    group: ProcessGroup,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Burner {
    fn start() -> Self {
        let mut command = ending_with_us(installed("venv/bin/python"));
        command.arg(apps_dir().join("burner.py")).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
        let questions = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut burner = Self { group: ProcessGroup::of(child), questions, answers };
        burner.used();
        burner
    }

    /// CPU seconds so far.
    fn used(&mut self) -> f64 {
        self.ask("used").parse().expect("it says how much")
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.questions, "{question}").expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        answer.trim().to_owned()
    }
}
