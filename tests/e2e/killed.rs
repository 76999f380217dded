//! The agent is killed, again and again, and whoever it watched does not notice.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tests::agent::{Agent, binary};
use tests::app::{App, Server};
use tests::client::Request;
use tests::eventually::{eventually, let_pass};
use tests::machine;
use tests::process::{program_ids, signal};

const KILLS: u64 = 100;
/// The kernel frees programs when nobody can be inside them any more.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn target_does_not_notice_that_the_agent_is_killed() {
    let _machine = machine::in_company();
    let apps = [App::start(Server::Nginx), App::start(Server::FastApi)];
    let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = apps.iter().map(|app| scope.spawn(|| ask(app, &answered, &over))).collect();
        for kill in 0..KILLS {
            let before = answered.load(Ordering::Relaxed);
            let programs = if kill % 2 == 0 {
                kill_while_watching(&apps, kill)
            } else {
                kill_while_starting(&apps, kill)
            };
            eventually("no program of the agent is left", PATIENCE, || {
                let left: Vec<u32> =
                    loaded_programs().into_iter().filter(|id| programs.contains(id)).collect();
                left.is_empty().then_some(())
            });
            assert!(clients.iter().all(|client| !client.is_finished()), "a client gave up at kill {kill}");
            assert!(answered.load(Ordering::Relaxed) > before, "nothing was answered around kill {kill}");
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("every request was answered"));
    });
    println!("{KILLS} kills, {} requests answered", answered.load(Ordering::Relaxed));
}

/// Kills an agent up to 50 ms after it began to watch. Its programs.
fn kill_while_watching(apps: &[App; 2], kill: u64) -> Vec<u32> {
    let agent = Agent::watching(apps[0].pid()).arg("--pid").arg(&apps[1].pid().to_string()).start();
    let programs = program_ids(agent.pid());
    assert!(programs.len() >= 4, "the agent has only the programs {programs:?}");
    let_pass(Duration::from_micros(kill * 7919 % 50_000));
    drop(agent);
    programs
}

/// Kills an agent up to 300 ms after it was started: before, while and after it loads and attaches its programs. Those
/// that it had.
fn kill_while_starting(apps: &[App; 2], kill: u64) -> Vec<u32> {
    let mut command = Command::new(binary());
    let pids = apps.each_ref().map(|app| app.pid().to_string());
    command.args(["--dry-run", "--pid", &pids[0], "--pid", &pids[1]]);
    let mut agent =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the agent can be started");
    let_pass(Duration::from_micros(kill * 7919 % 300_000));
    // Nothing changes between the look and the end.
    signal(&mut agent, Signal::STOP);
    let programs = program_ids(agent.id());
    agent.kill().expect("it is our child");
    agent.wait().expect("it is our child");
    programs
}

/// Sends requests until it is over. Every one must be answered as it should, over the same connection or a new one.
fn ask(app: &App, answered: &AtomicU64, over: &AtomicBool) {
    let mut client = app.client();
    let request = Request::get("/items");
    while !over.load(Ordering::Relaxed) {
        for reply in [client.send(&request), client.send(&request), client.send_fresh(&request)] {
            assert_eq!(reply.exchange.status, 200);
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Every program that is in the kernel.
fn loaded_programs() -> Vec<u32> {
    aya::programs::loaded_programs().flatten().map(|program| program.id()).collect()
}
