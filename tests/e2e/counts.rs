//! The main promise: what the agent reports of a real server is what a client knows that it exchanged.

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::totals::{Totals, assert_same};

use crate::traffic;

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

fn check(server: Server) {
    let _machine = machine::alone();
    let app = App::start(server);
    if std::env::var_os("NOAGENT").is_some() {
        let account = traffic::drive(&app, server);
        println!(
            "{:#?}",
            Totals::of(&account.exchanges)
                .0
                .iter()
                .map(|(k, r)| format!("{k} {} {:?}", r.count, r.response_times))
                .collect::<Vec<_>>()
        );
        return;
    }
    let hub = FakeHub::start();
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let account = traffic::drive(&app, server);
    let stopped = agent.stop();
    assert!(account.sent() >= 1000, "{} requests are too few to say much", account.sent());
    assert_same(&Totals::of(&account.exchanges), &hub.totals());
    let ledger = stopped.ledger();
    assert_eq!(ledger.get("reported"), account.exchanges.len() as u64, "{ledger}");
    assert_eq!(ledger.get("unmatched"), account.unmatched, "{ledger}");
    assert_eq!(ledger.get("excluded"), account.excluded, "{ledger}");
    assert_eq!(ledger.seen(), account.sent(), "{ledger}");
    assert_eq!(hub.duplicates(), [""; 0]);
}
