//! A recorded tap says what the live one said.

use std::process::Command;

use serde_json::Value;
use tests::agent::{Agent, binary};
use tests::app::{App, Server};
use tests::machine;
use tests::scratch::Scratch;
use tests::totals::{Totals, assert_same};

use crate::traffic;

#[test]
fn recording_replays_to_the_same_counts() {
    let _machine = machine::in_company();
    let app = App::start(Server::Ninja);
    let scratch = Scratch::new("recording");
    let file = scratch.join("tap");
    let file = file.to_str().expect("temporary paths are text");
    let agent = Agent::watching(app.pid()).consumer_header("X-Consumer-Id").arg("--record").arg(file).start();
    traffic::warm_up(&app, Server::Ninja);
    let stopped = agent.stop();

    let replay = Command::new(binary()).args(["replay", file, "--consumer-header", "X-Consumer-Id"]).output();
    let replay = replay.expect("the agent can be started");
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    let lines = String::from_utf8(replay.stdout).expect("messages are text");
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let of_kind = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
    assert_same(&stopped.totals(), &Totals::of_syncs(of_kind("sync").map(|line| &line["message"])));
    let ledger = of_kind("ledger").next().expect("a ledger for the one target");
    assert_eq!(ledger["target"], app.pid());
    assert_eq!(ledger["message"]["seen"], stopped.ledger().seen());
    assert!(stopped.ledger().seen() > 0);
}
