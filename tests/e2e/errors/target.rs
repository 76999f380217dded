//! Targets that are none, and targets that end at the wrong moment.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tests::agent::CLIENT_ID;
use tests::app::{App, Server};
use tests::client::Address;
use tests::eventually::{eventually, let_pass};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::process::ending_with_us;

use super::attempt::{Attempt, UNAVAILABLE, assert_serves};

/// More than any kernel gives out (PID_MAX_LIMIT in include/linux/threads.h).
const NO_PID: u32 = 4_194_304;

#[test]
fn pid_of_no_process_is_refused() {
    let _machine = machine::in_company();
    let check = |pid: u32, parts: &[&str]| {
        Attempt::of(&format!("--dry-run --pid {pid}")).run().assert_refused(UNAVAILABLE, parts);
    };
    for pid in [0, NO_PID, u32::MAX] {
        check(pid, &[&format!("there is no process {pid};"), "pgrep -f NAME", "MainPID"]);
    }
    let mut ended = sleeper();
    end(&mut ended);
    check(ended.id(), &[&format!("there is no process {};", ended.id())]);
}

#[test]
fn process_that_serves_nothing_is_refused() {
    let _machine = machine::in_company();
    let check = |pid: u32, parts: &[&str]| {
        Attempt::of(&format!("--dry-run --pid {pid}")).run().assert_refused(UNAVAILABLE, parts);
    };
    check(2, &["process 2 (kthreadd) is a kernel thread"]);

    let mut zombie = sleeper();
    zombie.kill().expect("our child can be killed");
    eventually("the process is a zombie", Duration::from_secs(10), || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", zombie.id())).expect("nobody waited for it");
        stat.contains(") Z ").then_some(())
    });
    check(zombie.id(), &[&format!("process {} has exited", zombie.id()), "start it again"]);
    end(&mut zombie);

    let (say, hear) = mpsc::channel();
    let (stay, stop) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        say.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).expect("it is awaited");
        let _ = stop.recv();
    });
    let (tid, pid) = (hear.recv().expect("the thread says"), std::process::id());
    check(tid, &[&format!("{tid} is a thread of process {pid}; give --pid {pid}")]);
    drop(stay);
    thread.join().expect("the thread does not panic");

    let itself = Attempt::through(&["sh", "-c", "exec \"$@\" --pid $$", "sh"], "--dry-run").run();
    itself.assert_refused(UNAVAILABLE, &["is this agent itself", "give the pid of the server"]);
}

#[test]
fn one_bad_target_among_good_ones_is_refused_before_anything_is_watched() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let outcome = Attempt::of(&format!("--dry-run --pid {},{NO_PID}", app.pid())).run_beside(&app);
    outcome.assert_refused(UNAVAILABLE, &[&format!("there is no process {NO_PID};")]);
}

#[test]
fn port_that_nobody_listens_on_is_refused() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let Address::Tcp(address) = app.address() else { panic!("nginx listens on TCP") };
    // Nobody listens on port 1 (tcpmux), and a test that wanted to would have to be told.
    let outcome = Attempt::of("--dry-run --port 1").run_beside(&app);
    outcome.assert_refused(UNAVAILABLE, &["no process listens on TCP port 1 ", "start the server first"]);
    let outcome = Attempt::of(&format!("--dry-run --port {},1", address.port())).run_beside(&app);
    outcome.assert_refused(UNAVAILABLE, &["no process listens on TCP port 1 "]);
}

/// Wherever between its first look and its last word the agent is when the target dies: it says so in one line, or
/// has watched and ends as it does with every target.
#[test]
fn target_that_dies_while_being_attached_to_leaves_a_plain_answer() {
    const STEP: Duration = Duration::from_millis(8);
    const TURNS: u32 = 40;
    let _machine = machine::in_company();
    let (bystander, hub) = (App::start(Server::Nginx), FakeHub::start());
    let (mut refused, mut watched) = (0, 0);
    for turn in 0..TURNS {
        let mut target = sleeper();
        let pid = target.id();
        let killer = std::thread::spawn(move || {
            let_pass(STEP * turn);
            end(&mut target);
        });
        let args = format!("--pid {pid} --client-id {CLIENT_ID} --hub-url {}", hub.url());
        let state_dir = tests::scratch::Scratch::new("state");
        let outcome =
            Attempt::of(&args).arg("--state-dir").arg(&state_dir.to_string_lossy()).run_beside(&bystander);
        killer.join().expect("our child can be killed");
        if outcome.code == Some(0) {
            let words = |message: &str| outcome.stderr.matches(message).count();
            let said = [" watching ", " target is gone ", " ledger ", " ERROR ", " WARN "].map(words);
            assert_eq!(said, [1, 1, 1, 0, 0], "{outcome:#?}");
            watched += 1;
        } else {
            let said = |part: &str| outcome.stderr.contains(part);
            let message = if said("there is no process") || said("has exited") { "" } else { "exited while" };
            outcome.assert_refused(UNAVAILABLE, &[message, &pid.to_string()]);
            refused += 1;
        }
    }
    eprintln!("of {TURNS} targets that died, {refused} were refused and {watched} watched to their end");
    assert!(refused > 0, "the first one dies before the agent can look");
    assert_serves(&bystander);
}

fn sleeper() -> Child {
    let mut command = ending_with_us("sleep");
    command.arg("60").stdin(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn end(child: &mut Child) {
    child.kill().expect("our child can be killed");
    child.wait().expect("our child can be waited for");
}
