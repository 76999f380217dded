//! Connections, processes and neighbours that come and go: whose requests count, and whose do not.

use std::time::Duration;

use rustix::process::Signal;
use tests::agent::{Agent, Stopped};
use tests::app::{App, Server};
use tests::client::{Client, Exchange, Request};
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::neighbours::Neighbour;
use tests::totals::{Totals, assert_same};

/// Longer than any test: what arrives at the hub before the end was not sent by the clock.
const NEVER: &str = "3600s";

#[test]
fn connection_opened_before_the_agent_counts_from_its_next_request_on() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let (mut used, mut unused) = (app.client(), app.client());
    times(3, &mut used, &Request::get("/items/1"));
    unused.connect();
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let mut exchanges = times(5, &mut used, &Request::get("/items/2"));
    exchanges.extend(times(5, &mut unused, &Request::new("POST", "/upload").sized(&[b'x'; 3000])));
    assert_reported(&exchanges, &hub, &agent.stop());
}

#[test]
fn request_that_arrives_in_pieces_is_counted() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let mut early = app.client();
    times(1, &mut early, &Request::get("/items/1"));
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let in_pieces = |request: Request| request.in_writes_of(&[1, 2, 5, 20]).pausing(Duration::from_millis(5));
    let requests = [
        in_pieces(Request::get("/items/2")),
        in_pieces(Request::new("PUT", "/items/3").json(r#"{"name": "lamp", "price": 1}"#)),
        in_pieces(Request::new("POST", "/upload").chunked(&[b'x'; 100], &[7, 13])),
    ];
    let mut exchanges = Vec::new();
    let mut late = app.client();
    for request in &requests {
        exchanges.extend([&mut early, &mut late].map(|client| client.send(request).exchange));
    }
    assert_reported(&exchanges, &hub, &agent.stop());
}

#[test]
fn process_forked_after_the_agent_started_is_counted() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Ninja), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let before = app.workers();
    app.signal(Signal::HUP);
    eventually("gunicorn has new workers and no old ones", Duration::from_secs(30), || {
        let now = app.workers();
        (now.len() == before.len() && !now.iter().any(|pid| before.contains(pid))).then_some(())
    });
    let mut exchanges = Vec::new();
    for _ in 0..20 {
        exchanges.push(app.client().send_fresh(&Request::get("/items/3")).exchange);
    }
    assert_reported(&exchanges, &hub, &agent.stop());
}

#[test]
fn calls_that_the_target_makes_are_not_counted() {
    const EACH: u64 = 5;
    let _machine = machine::in_company();
    let (upstream, database, hub) = (Neighbour::http(), Neighbour::database(), FakeHub::start());
    let app = App::of(Server::FastApi)
        .env("UPSTREAM", &upstream.address())
        .env("DATABASE", &database.address())
        .start();
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let mut client = app.client();
    let mut exchanges = Vec::new();
    for path in ["/upstream/old", "/upstream/new", "/database/old", "/database/new"] {
        exchanges.extend(times(EACH, &mut client, &Request::get(path)));
    }
    assert!(exchanges.iter().all(|exchange| exchange.status == 200), "{exchanges:?}");
    assert_reported(&exchanges, &hub, &agent.stop());
    // One call when the app started, the others when it was asked.
    assert_eq!([upstream.answered(), database.answered()], [1 + 2 * EACH; 2]);
}

#[test]
fn other_server_on_the_host_is_not_counted() {
    let _machine = machine::in_company();
    let (app, other, hub) = (App::start(Server::FastApi), App::start(Server::Express), FakeHub::start());
    let mut other_client = other.client();
    times(1, &mut other_client, &Request::get("/items/4"));
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    times(5, &mut other_client, &Request::get("/items/4"));
    times(5, &mut other.client(), &Request::get("/items/4"));
    let exchanges = times(5, &mut app.client(), &Request::get("/items/5"));
    assert_reported(&exchanges, &hub, &agent.stop());
}

#[test]
fn server_on_a_unix_socket_is_counted() {
    for server in [Server::FastApi, Server::Ninja] {
        let _machine = machine::in_company();
        let (app, hub) = (App::of(server).on_unix_socket().start(), FakeHub::start());
        let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
        let mut client = app.client();
        let mut exchanges = times(5, &mut client, &Request::get("/items/6"));
        exchanges.extend(times(5, &mut client, &Request::get("/chunked/100000")));
        let upload = Request::new("POST", "/upload").chunked(&[b'x'; 30_000], &[1, 10, 10_000]);
        exchanges.extend(times(5, &mut client, &upload));
        assert_reported(&exchanges, &hub, &agent.stop());
    }
}

#[test]
fn sigterm_reports_everything_seen_so_far() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Express), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).sync_interval(NEVER).start();
    let exchanges = times(50, &mut app.client(), &Request::get("/items/7"));
    assert_reported(&exchanges, &hub, &agent.stop());
}

#[test]
fn agent_ends_with_its_target_and_reports_everything() {
    let _machine = machine::in_company();
    for server in [Server::Express, Server::Ninja] {
        let (app, hub) = (App::start(server), FakeHub::start());
        let agent = Agent::watching(app.pid()).reporting_to(&hub).sync_interval(NEVER).start();
        let exchanges = times(50, &mut app.client(), &Request::get("/items/8"));
        app.kill();
        assert_reported(&exchanges, &hub, &agent.wait());
    }
}

fn times(count: u64, client: &mut Client, request: &Request) -> Vec<Exchange> {
    (0..count).map(|_| client.send(request).exchange).collect()
}

/// These exchanges are in the hub's rows, and the agent has seen no others. Times are not looked at: other tests may
/// have the machine.
fn assert_reported(exchanges: &[Exchange], hub: &FakeHub, stopped: &Stopped) {
    assert_same(&Totals::of(exchanges).untimed(|_| true), &hub.totals().untimed(|_| true));
    let ledger = stopped.ledger();
    assert_eq!(
        (ledger.get("reported"), ledger.seen()),
        (exchanges.len() as u64, exchanges.len() as u64),
        "{ledger}"
    );
}
