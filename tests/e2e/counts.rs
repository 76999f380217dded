//! The main promise: what the agent reports of a real server is what a client knows that it exchanged.

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::totals::{Key, Totals, assert_same, differences};

use crate::traffic::{self, Pace, RUSH};

#[test]
fn ninja_under_gunicorn_is_counted_exactly() {
    check(Server::Ninja);
}

#[test]
fn fastapi_under_uvicorn_is_counted_exactly() {
    check(Server::FastApi);
}

#[test]
fn express_is_counted_exactly() {
    check(Server::Express);
}

#[test]
fn nginx_is_counted_exactly() {
    check(Server::Nginx);
}

/// Something else on the machine may keep a client waiting for longer than a bin. It hardly does so in every run; an
/// agent that measures wrong does.
const RUNS: usize = 3;

/// Counts, sizes and the ledger are right in every run, all times in one.
fn check(server: Server) {
    let _machine = machine::alone();
    let _first = machine::first_in_line();
    let mut differing = String::new();
    for _ in 0..RUNS {
        let (truth, reported) = run(server);
        differing = differences(&truth, &reported);
        if differing.is_empty() {
            return;
        }
    }
    panic!("times differ in each of {RUNS} runs, in the last one:\n{differing}");
}

/// The client's account and the hub's.
fn run(server: Server) -> (Totals, Totals) {
    let (app, hub) = (App::start(server), FakeHub::start());
    let agent = Agent::watching(app.pid()).consumer_header("X-Consumer-Id").reporting_to(&hub).start();
    let mut account = traffic::warm_up(&app, server);
    account.add(traffic::drive(&app, server, Pace::InTurn));
    assert!(account.sent() >= 1000, "{} requests are too few to say much", account.sent());
    account.add(traffic::drive(&app, server, Pace::Rush));
    let stopped = agent.stop();

    let (truth, reported) = (Totals::of(&account.exchanges), hub.totals());
    assert_same(&truth.clone().untimed(|_| true), &reported.clone().untimed(|_| true));
    let ledger = stopped.ledger();
    assert_eq!(ledger.seen(), account.sent(), "{ledger}");
    assert_eq!(ledger.get("reported"), account.exchanges.len() as u64, "{ledger}");
    assert_eq!(ledger.get("unmatched"), account.unmatched, "{ledger}");
    assert_eq!(ledger.get("excluded"), account.excluded, "{ledger}");
    assert_eq!(hub.duplicates(), [""; 0]);
    let hurried = |key: &Key| key.consumer.as_deref() == Some(RUSH);
    (truth.untimed(hurried), reported.untimed(hurried))
}
