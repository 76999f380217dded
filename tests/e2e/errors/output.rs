//! What the agent does when nobody takes what it prints.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::agent::{Agent, CLIENT_ID, binary};
use tests::app::{App, Server};
use tests::client::Request;
use tests::fake_hub::{FakeHub, Kind};
use tests::machine;
use tests::scratch::Scratch;

use super::attempt::{Attempt, Running, assert_serves};

const FULL: &str = "exec \"$@\" > /dev/full";
const READER_GONE: &str = "exec 3> >(exit); wait $!; exec \"$@\" >&3 3>&-";
const LOG_FULL: &str = "exec \"$@\" 2> /dev/full";
const LOG_READER_GONE: &str = "exec 3> >(exit); wait $!; exec \"$@\" 2>&3 3>&-";
const LOG_CLOSED: &str = "exec \"$@\" 2>&-";
const CLOSED: &str = "exec \"$@\" >&-";

#[test]
fn dry_run_goes_on_when_nobody_takes_its_messages() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    for (redirected, said) in [(FULL, 1), (READER_GONE, 1), (CLOSED, 0)] {
        let agent = Agent::watching(app.pid()).through(&["bash", "-c", redirected, "bash"]).start();
        for _ in 0..5 {
            app.client().send_fresh(&Request::get("/items"));
        }
        let stopped = agent.stop();
        assert_eq!(stopped.ledger().get("reported"), 5, "{redirected}");
        let problems: Vec<_> =
            stopped.log.iter().filter(|line| matches!(line.level(), Some("ERROR" | "WARN"))).collect();
        assert_eq!(problems.len(), said, "{redirected}: {problems:?}");
        for problem in problems {
            eprintln!("--dry-run, {redirected} -> 0 -> {}", problem.text);
            assert!(problem.text.contains("stdout"), "{problem:?}");
        }
        assert_serves(&app);
    }
}

#[test]
fn agent_goes_on_when_nobody_takes_its_log() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    for redirected in [LOG_FULL, LOG_READER_GONE, LOG_CLOSED] {
        let (hub, state_dir) = (FakeHub::start(), Scratch::new("state"));
        let mut command = Command::new("bash");
        command.args(["-c", redirected, "bash"]).arg(binary()).args(["--pid", &app.pid().to_string()]);
        command.args(["--client-id", CLIENT_ID, "--hub-url", &hub.url(), "--sync-interval", "200ms"]);
        command.args(["--log-level", "debug", "--state-dir"]).arg(&*state_dir).stdin(Stdio::null());
        let mut agent = Running(command.process_group(0).spawn().expect("bash is there"));
        // From the second sync on everything is counted.
        hub.eventually_receives(2, Kind::Sync);
        for _ in 0..5 {
            app.client().send_fresh(&Request::get("/items"));
        }
        hub.eventually_counts("GET", "/items", 200, 5);
        agent.terminate();
        let (code, took) = agent.wait();
        assert_eq!(code, Some(0), "{redirected}");
        assert!(took < Duration::from_secs(5), "{redirected}: {took:?}");
        assert_serves(&app);
    }
}

#[test]
fn printing_to_nowhere_is_said_in_one_line() {
    let _machine = machine::in_company();
    for redirected in [FULL, READER_GONE] {
        for args in ["check", "completions bash", "man"] {
            let outcome = Attempt::through(&["bash", "-c", redirected, "bash"], args).run();
            outcome.assert_refused(70, &["cannot print the "]);
        }
        for args in ["--help", "--version"] {
            Attempt::through(&["bash", "-c", redirected, "bash"], args).run().assert_printed(0, &[]);
        }
    }
}
