//! The official client and the agent report the same app and the same traffic. What they do not say alike is listed,
//! with the reason, in `docs/what-it-sees.md`; these tests fail when that list is not what they find.

use std::fs;
use std::time::SystemTime;

use serde_json::Value;
use tests::agent::{Agent, AgentBuilder, CLIENT_ID, WRITE_TOKEN};
use tests::comparison::{self, Difference, Histograms, Report};
use tests::fake_hub::{FakeHub, Kind};
use tests::machine;
use tests::official::{Framework, Official, Reporting};
use tests::otlp::{Signal, log_records};
use tests::scratch::Scratch;
use tests::steps;

#[test]
fn fastapi_is_reported_as_by_its_official_client() {
    check("FastAPI", || run(Framework::FastApi));
}

#[test]
fn django_ninja_is_reported_as_by_its_official_client() {
    check("Django Ninja", || run(Framework::Ninja));
}

#[test]
fn express_is_reported_as_by_its_official_client() {
    check("Express", || run(Framework::Express));
}

#[test]
fn fastapi_is_measured_as_by_its_newest_client() {
    check("FastAPI, by OTLP", || run_newest(Framework::FastApi));
}

#[test]
fn django_ninja_is_measured_as_by_its_newest_client() {
    check("Django Ninja, by OTLP", || run_newest(Framework::Ninja));
}

/// Something else on the machine may keep a client waiting for longer than a bin. It hardly does so in every run; an
/// agent that measures wrong does.
const RUNS: usize = 3;

/// The differences of a run are those under this heading.
fn check(heading: &str, run: impl Fn() -> Vec<Difference>) {
    let _machine = machine::alone();
    let _first = machine::first_in_line();
    let listed = comparison::listed(heading);
    let mut found = Vec::new();
    for _ in 0..RUNS {
        found = run();
        if found == listed {
            return;
        }
    }
    comparison::assert_listed(heading, &listed, &found);
}

fn run(framework: Framework) -> Vec<Difference> {
    let (officials, agents) = (FakeHub::start(), FakeHub::start());
    let app = Official::start(framework, Reporting::ToHub { url: &officials.url(), client_id: CLIENT_ID });
    let startups = officials.eventually_receives(1, Kind::Startup);
    let files = configuration(framework, startups[0].body["openapi"].as_str());
    let mut agent = configured(Agent::watching(app.pid()).reporting_to(&agents), &files);
    agent = agent.arg("--app-version").arg("1.2.3");
    if framework != Framework::Express {
        // As far as these clients measure.
        agent = agent.arg("--response-time").arg("first-byte");
    }
    let agent = agent.start();
    steps::take(&app.client());
    let taken = SystemTime::now();
    officials.eventually("the official client reports all of it", |hub| {
        let closed =
            hub.accepted().iter().filter_map(|message| message.body["timestamp"].as_f64()).next_back()?;
        let taken = taken.duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
        (closed > taken).then_some(())
    });
    agent.stop();
    comparison::differences(&Report::to(&officials), &Report::to(&agents))
}

/// Both by OTLP.
fn run_newest(framework: Framework) -> Vec<Difference> {
    let (officials, agents) = (FakeHub::start(), FakeHub::start());
    let url = officials.url();
    let mut app = Official::start(framework, Reporting::ToCollector { url: &url, write_token: WRITE_TOKEN });
    let startup = officials.eventually("the official client announces the app", |collector| {
        let exports = collector.received_of(Kind::Otlp(Signal::Logs));
        let records = log_records(exports.iter().map(|export| &export.body));
        let startup = records.into_iter().find(|record| record["event_name"] == "apitally.app.startup")?;
        serde_json::from_str::<Value>(startup["body"].as_str()?).ok()
    });
    let files = configuration(framework, startup["openapi"].as_str());
    let agent = configured(Agent::watching(app.pid()).reporting_by_otlp_to(&agents), &files).start();
    steps::take(&app.client());
    agent.stop();
    app.end();
    Histograms::differences(&Histograms::at(&officials), &Histograms::at(&agents))
}

/// An `agent.toml` and what it names: the routes of the app, and whom it knows.
///
/// `document` is what the official client announces; where it announces none, the one beside the app is taken.
fn configuration(framework: Framework, document: Option<&str>) -> Scratch {
    let document = document.map(str::to_owned).or_else(|| framework.document());
    let mut keys = "openapi = \"openapi.json\"\nconsumer_file = \"names.csv\"\n".to_owned();
    if framework == Framework::Express {
        // As its router does.
        keys += "trailing_slash = \"ignore\"\n";
    }
    let files = Scratch::new("configuration");
    for (name, text) in [
        ("agent.toml", keys),
        ("openapi.json", document.expect("clients in Python announce the document")),
        ("names.csv", names()),
    ] {
        fs::write(files.join(name), text).expect("a fresh directory can be written to");
    }
    files
}

fn configured(agent: AgentBuilder, files: &Scratch) -> AgentBuilder {
    let file = files.join("agent.toml");
    let agent = agent.arg("--config").arg(file.to_str().expect("paths of tests are UTF-8"));
    agent.consumer_header("X-API-Key").arg("--consumer-hash").arg("never")
}

/// What the apps know of their consumers.
fn names() -> String {
    let [key, name, group] = [("k", 200), ("n", 100), ("g", 100)].map(|(letter, times)| letter.repeat(times));
    format!("identifier,name,group\nkey-alice,Alice Doe,Admins\n{key},{name},{group}\n")
}
