//! What was recorded of real servers is counted as their clients counted it. `cargo xtask record` makes the recordings.

use std::{fs, process::Command};

use serde_json::Value;
use tests::{
    app::SERVERS,
    recordings::{dir, tap, truth},
    totals::{Totals, assert_same},
};

/// All recordings together, bytes.
const ROOM: u64 = 1_500_000;

#[test]
fn recordings_of_servers_replay_to_what_their_clients_know() {
    for server in &SERVERS {
        eprintln!("{}", server.name);
        let replay =
            Command::new(env!("CARGO_BIN_EXE_apitally-agent")).arg("replay").arg(tap(server.name)).output();
        let replay = replay.expect("the agent can be started");
        assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
        let lines = String::from_utf8(replay.stdout).expect("messages are text");
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let message =
            |kind: &str| &lines.iter().find(|line| line["kind"] == kind).expect("one of a kind")["message"];

        let truth = fs::read_to_string(truth(server.name))
            .expect("each recording has the client's account beside it");
        let truth: Value = serde_json::from_str(&truth).expect("JSON");
        assert_same(&Totals::of_syncs([&truth]), &Totals::of_syncs([message("sync")]));
        for field in ["seen", "unmatched", "excluded"] {
            assert_eq!(message("ledger")[field], truth[field], "{field}");
        }
    }
}

#[test]
fn recordings_are_small_and_hold_nothing_of_the_machine_they_come_from() {
    let files: Vec<_> =
        fs::read_dir(dir()).expect("it is in the tree").map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2 * SERVERS.len(), "a recording and an account for each server: {files:?}");
    let mut size = 0;
    for file in files {
        let bytes = fs::read(&file).unwrap();
        size += bytes.len() as u64;
        for path in ["/home/", "/root/", "/tmp/", "/usr/"] {
            let found = bytes.windows(path.len()).any(|window| window == path.as_bytes());
            assert!(!found, "{path} in {}", file.display());
        }
    }
    assert!(size <= ROOM, "{size} bytes");
}
