//! Records the tap of servers of the table, each under a little traffic, with what the client knows of it beside the
//! recording; and writes down which versions of all of them are installed. `cargo xtask record [NAME..]`, as root.
#![allow(clippy::print_stdout, reason = "says to whoever started it how far it is")]

use std::fs;

use serde_json::json;
use tests::agent::Agent;
use tests::app::{App, Row, SERVERS};
use tests::matrix::{self, Extent};
use tests::scratch::Scratch;
use tests::totals::{Totals, differences};
use tests::{machine, recordings, tested};

/// Something else on the machine may keep the client waiting for longer than a bin.
const TRIES: usize = 5;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let rows =
        || SERVERS.iter().filter(|row| wanted.is_empty() || wanted.iter().any(|name| name == row.name));
    assert!(rows().count() >= wanted.len(), "servers are {:?}", SERVERS.each_ref().map(|row| row.name));
    let _machine = machine::in_company();
    let _first = machine::first_in_line();
    fs::create_dir_all(recordings::dir()).expect("the tree can be written to");
    for row in rows() {
        println!("{}: {} exchanges", row.name, record(row));
    }
    let versions = SERVERS.each_ref().map(Row::version);
    fs::write(tested::path(), tested::table(&versions)).expect("the tree can be written to");
}

/// Exchanges in the recording.
fn record(row: &Row) -> u64 {
    let scratch = Scratch::new("record");
    let file = scratch.join("tap");
    let mut differing = String::new();
    for _ in 0..TRIES {
        let app = App::start(row.server);
        let agent = Agent::watching(app.pid()).arg("--record").arg(&file.to_string_lossy()).start();
        let account = matrix::drive(&app, row, Extent::Brief);
        let stopped = agent.stop();
        let truth = Totals::of(&account.exchanges);
        differing = differences(&truth, &stopped.totals());
        if differing.is_empty() {
            let truth = json!({
                "seen": account.sent(),
                "unmatched": account.unmatched,
                "excluded": account.excluded,
                "requests": truth.to_items(),
            });
            let text = serde_json::to_string_pretty(&truth).expect("it is plain data");
            let tap = fs::read(&file).expect("the agent wrote it");
            fs::write(recordings::tap(row.name), tap).expect("the tree can be written to");
            fs::write(recordings::truth(row.name), text + "\n").expect("the tree can be written to");
            return account.sent();
        }
    }
    panic!("{}: the agent's counts differ from the client's in each of {TRIES} runs:\n{differing}", row.name);
}
