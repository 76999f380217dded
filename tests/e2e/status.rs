//! `apitally-agent status`: it says what is true, to those who may know, and asking costs nothing.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::agent::{Agent, binary, status_in};
use tests::app::{App, Server};
use tests::client::Request;
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(20);
const UNAVAILABLE: i32 = 69;
const NO_PERMISSION: i32 = 77;
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn status_is_what_the_client_knows() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Nginx), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let mut client = app.client();
    for _ in 0..20 {
        client.send(&Request::get("/items"));
    }
    client.send(&Request::get("/not/there"));
    let status = eventually("the hub has it all", PATIENCE, || {
        let status = agent.status();
        let target = &status["targets"][0];
        let is_sent = hub.totals().count() == 20 && target["last_sync_age_s"].is_f64();
        (is_sent && status["hub"]["delivered"].as_u64() > Some(1)).then_some(status)
    });
    let target = &status["targets"][0];
    assert_eq!((&status["kernel"], &status["hub"]["url"]), (&kernel(), &Value::from(hub.url())));
    assert_eq!(target["spec"], format!("--pid {}", app.pid()));
    assert_eq!((&target["pid"], &target["alive"]), (&app.pid().into(), &true.into()));
    let processes = target["processes"].as_array().expect("a list of processes");
    assert!(processes.contains(&app.pid().into()) && processes.len() > app.workers().len(), "{target}");
    let ledger = ["seen", "reported", "lost", "unmatched"].map(|name| target["ledger"][name].as_u64());
    assert_eq!(ledger, [21, 20, 1, 1].map(Some));
    assert_eq!((&target["coverage"], &target["open_exchanges"]), (&100.0.into(), &0.into()));
    assert_eq!(target["connections"], 1);
    assert_eq!(target["routes"]["count"], 1);
    assert_eq!(target["routes"]["list"][0]["template"], "/items");
    assert_eq!(target["notes"]["bytes_seen"], status["tap"]["bytes_seen"]);
    assert_eq!(status["hub"]["last_answer"]["outcome"], "delivered");
    assert!(status["resources"]["resident_bytes"].as_u64() > Some(1_000_000), "{status}");
    assert!(status["tap"]["records"].as_u64() >= Some(42), "{status}");

    let text = status_command(&agent.runtime_dir()).output().expect("the agent can be started");
    let text = String::from_utf8(text.stdout).expect("the status is text");
    for line in ["  coverage     100.000 %\n", "  exchanges    21 seen: 20 reported, 1 lost, 0 open\n"] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    agent.stop();
}

#[test]
fn status_adds_up_while_traffic_flows() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let agent = Agent::watching(app.pid()).start();
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let looks = thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = app.client();
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(1, Ordering::Relaxed);
                client.send(&Request::get("/items"));
            }
        });
        // Judged when the client has ended: a failure must not leave it running.
        let look = |_| (agent.status(), sent.load(Ordering::Relaxed));
        let looks: Vec<_> = (0..30).map(look).collect();
        stop.store(true, Ordering::Relaxed);
        looks
    });
    let mut before = 0;
    for (status, sent) in looks {
        let target = &status["targets"][0];
        let [seen, reported, lost] = ["seen", "reported", "lost"].map(|name| number(&target["ledger"][name]));
        assert_eq!(seen, reported + lost + number(&target["open_exchanges"]), "{target}");
        let bytes = ["bytes_seen", "bytes_captured", "bytes_muted", "bytes_gapped"];
        let [all, captured, muted, gapped] = bytes.map(|name| number(&target["notes"][name]));
        assert_eq!(all, captured + muted + gapped, "{target}");
        assert!(before <= seen && seen <= sent, "{before} before, {sent} sent: {target}");
        before = seen;
    }
    assert!(before > 0, "no traffic was seen");
    let sent = sent.into_inner();
    eventually("the status has all requests", PATIENCE, || {
        (number(&agent.status()["targets"][0]["ledger"]["reported"]) == sent).then_some(())
    });
    assert_eq!(agent.stop().ledger().seen(), sent);
}

#[test]
fn only_root_and_the_agents_user_may_ask() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let agent = Agent::watching(app.pid()).start();
    let dir = agent.runtime_dir();
    let state_dir = dir.parent().expect("the runtime directory lies below the state");
    let copy = Scratch::new("copy");
    let program = copy.join("apitally-agent");
    fs::copy(binary(), &program).expect("the agent can be copied");
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(NOBODY).arg(&program).args(["status", "--runtime-dir"]).arg(&dir);
        command.output().expect("setpriv can be started")
    };
    let refused = |code: i32| {
        let output = as_nobody();
        assert_eq!((output.status.code(), &*output.stdout), (Some(code), &b""[..]), "{output:?}");
        said(&output)
    };
    // The directory is for its owner alone.
    assert!(refused(NO_PERMISSION).contains("not permitted to ask"));
    // So is the socket.
    fs::set_permissions(state_dir, Permissions::from_mode(0o755)).expect("it is ours");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("it is ours");
    assert!(refused(NO_PERMISSION).contains("not permitted to ask"));
    // And wherever a socket lets others in, the agent looks who it is.
    let socket = dir.join(format!("{}.sock", agent.pid()));
    fs::set_permissions(socket, Permissions::from_mode(0o666)).expect("it is ours");
    assert!(refused(UNAVAILABLE).contains("an agent gave no answer"));
    agent.status();
    agent.stop();
}

#[test]
fn agents_side_by_side_are_all_shown_and_killed_ones_are_not() {
    let _machine = machine::in_company();
    let (app, state_dir) = (App::start(Server::Nginx), Arc::new(Scratch::new("state")));
    let start = || Agent::watching(app.pid()).state_dir(&state_dir).start();
    let (first, second) = (start(), start());
    let dir = first.runtime_dir();
    let mut pids = [first.pid(), second.pid()];
    pids.sort_unstable();
    assert_eq!(pids_in(&dir), pids);

    let socket = |agent: &Agent| dir.join(format!("{}.sock", agent.pid()));
    let (of_first, of_second) = (socket(&first), socket(&second));
    first.kill();
    assert!(of_first.exists(), "nobody could take it away");
    assert_eq!(pids_in(&dir), [second.pid()]);
    assert!(!of_first.exists(), "whoever asks takes it away");
    second.kill();
    let third = start();
    assert!(!of_second.exists(), "an agent that starts takes it away");
    third.stop();

    let nobody_left = status_command(&dir).output().expect("the agent can be started");
    assert_eq!(nobody_left.status.code(), Some(UNAVAILABLE), "{nobody_left:?}");
    assert!(said(&nobody_left).contains("no agent answers in"), "{nobody_left:?}");
    let nowhere = status_command(Path::new("/nowhere")).output().expect("the agent can be started");
    assert_eq!(nowhere.status.code(), Some(UNAVAILABLE), "{nowhere:?}");
}

#[test]
fn crowd_at_the_socket_does_no_harm() {
    const CROWD: usize = 1000;
    const AT_A_TIME: usize = 250;
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let agent = Agent::watching(app.pid()).start();
    let socket = agent.runtime_dir().join(format!("{}.sock", agent.pid()));
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").count();
    let before = descriptors();
    let mut client = app.client();
    let mut most = 0;
    for _ in 0..CROWD / AT_A_TIME {
        // They read nothing, and leave when they feel like it.
        let crowd: Vec<_> =
            (0..AT_A_TIME).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
        for _ in 0..10 {
            client.send(&Request::get("/items"));
        }
        most = most.max(descriptors());
        let mut answer = String::new();
        crowd.into_iter().next().expect("it is a crowd").read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("}\n"), "{answer}");
    }
    assert!(most <= before + 10, "{most} descriptors, {before} before");
    let reported = eventually("the status has all requests", PATIENCE, || {
        let reported = number(&agent.status()["targets"][0]["ledger"]["reported"]);
        (reported == 40).then_some(reported)
    });
    let ledger = agent.stop().ledger();
    assert_eq!((ledger.seen(), ledger.get("reported")), (40, reported), "{ledger}");
}

#[test]
fn agent_that_cannot_listen_watches_nevertheless() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let state_dir = Arc::new(Scratch::new("state"));
    fs::write(state_dir.join("run"), "no directory").expect("it is ours");
    let agent = Agent::watching(app.pid()).state_dir(&state_dir).start();
    for _ in 0..5 {
        app.client().send_fresh(&Request::get("/items"));
    }
    let stopped = agent.stop();
    assert_eq!(stopped.ledger().get("reported"), 5);
    let warnings = stopped.log.iter().filter(|line| line.level() == Some("WARN"));
    let warnings: Vec<_> = warnings.filter_map(|line| line.message()).collect();
    assert!(matches!(warnings[..], [warning] if warning.starts_with("no status socket")), "{warnings:?}");
}

#[test]
fn coverage_says_what_a_full_ring_cost() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 400;
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let agent = Agent::watching(app.pid()).arg("--ring-bytes").arg("4096").start();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = app.client();
                for _ in 0..EACH {
                    client.send(&Request::get("/items"));
                }
            });
        }
    });
    let full = eventually("the status says that records found no room", PATIENCE, || {
        let status = agent.status();
        let full = number(&status["tap"]["dropped"]["ring_full"]);
        (full > 0 && status["targets"][0]["coverage"].as_f64() < Some(99.9)).then_some(full)
    });
    eventually("the agent warns", PATIENCE, || {
        agent.log().iter().any(|line| line.message() == Some("coverage")).then_some(())
    });
    let stopped = agent.stop();
    let ledger = stopped.ledger();
    assert!(full > 0 && ledger.seen() <= CLIENTS * EACH, "{ledger}");
    assert!(ledger.get("lost_ring_full") > 0 && ledger.get("bytes_gapped") > 0, "{ledger}");
    let bytes = ["bytes_captured", "bytes_muted", "bytes_gapped"].map(|name| ledger.get(name));
    assert_eq!(ledger.get("bytes_seen"), bytes.iter().sum::<u64>(), "{ledger}");
    let line = |message| {
        let mut lines = stopped.log.iter().filter(|line| line.level() == Some("WARN"));
        lines.find(|line| line.message() == Some(message)).unwrap_or_else(|| panic!("no warning {message}"))
    };
    let missed = ["lost_ring_full", "lost_gap", "unreadable_head"].map(|cause| ledger.get(cause));
    let coverage = ledger.get("reported") * 100_000 / (ledger.get("reported") + missed.iter().sum::<u64>());
    assert_eq!(line("ledger").field("coverage"), Some(&(coverage as f64 / 1000.0).into()), "{ledger}");
    let warned = line("coverage");
    assert!(warned.field("missed").and_then(Value::as_u64) > Some(0), "{}", warned.text);
    assert!(warned.field("coverage").and_then(Value::as_f64) < Some(99.9), "{}", warned.text);
}

fn status_command(dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["status", "--runtime-dir"]).arg(PathBuf::from(dir));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn pids_in(dir: &Path) -> Vec<u32> {
    let all = status_in(dir);
    let agents = all["agents"].as_array().expect("a list of agents").iter();
    agents.map(|agent| u32::try_from(number(&agent["pid"])).expect("a process id")).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn kernel() -> Value {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("every Linux has it");
    release.trim().into()
}
