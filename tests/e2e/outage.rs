//! The hub is away, the agent is killed, and every request is in the hub's counts or in the account of the loss.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::Request;
use tests::eventually::eventually;
use tests::fake_hub::{FakeHub, Kind, Reply};
use tests::machine;
use tests::scratch::Scratch;

const ROUTE: &str = "/items/{id}";
const EACH: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test.
const NEVER: &str = "3600s";

#[test]
fn outage_and_kills_cost_at_most_the_last_interval_and_it_is_counted() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let state = Arc::new(Scratch::new("outage"));
    hub.go_down();
    let (mut sent, mut lost) = (0, 0);
    // The last two have no second interval to lose anything to.
    for interval in ["400ms", "700ms", "1s", "400ms", NEVER, NEVER] {
        let agent =
            Agent::watching(app.pid()).reporting_to(&hub).state_dir(&state).sync_interval(interval).start();
        lost += killed_in(&agent);
        ask(&app, EACH);
        sent += EACH;
        eventually("the agent has counted them", PATIENCE, || {
            (count_in(&agent, "reported") == EACH).then_some(())
        });
        if interval != NEVER {
            let queued = queued_in(&agent);
            eventually("they are in a message on disk", PATIENCE, || {
                (queued_in(&agent) >= queued + 2).then_some(())
            });
            // These may be, or not.
            ask(&app, 5);
            sent += 5;
            eventually("likewise", PATIENCE, || (count_in(&agent, "reported") == EACH + 5).then_some(()));
        }
        agent.kill();
    }
    let agent =
        Agent::watching(app.pid()).reporting_to(&hub).state_dir(&state).sync_interval("400ms").start();
    let last_loss = killed_in(&agent);
    assert_eq!(
        last_loss, EACH,
        "an agent that never made a second message loses what it counted after the first"
    );
    lost += last_loss;
    assert!(lost <= 4 * 5 + 2 * EACH, "{lost} are lost, more than the last interval of each");
    ask(&app, EACH);
    sent += EACH;
    hub.come_back();
    hub.eventually_counts("GET", ROUTE, 200, sent - lost);

    let stopped = agent.stop();
    let ledger = stopped.ledger();
    assert_eq!((ledger.seen(), ledger.get("reported")), (EACH + last_loss, EACH), "{ledger}");
    assert_eq!(ledger.get("agent_killed"), last_loss, "{ledger}");
    assert_eq!(hub.totals().count() + lost, sent, "every request is here or there");
    assert_eq!(hub.duplicates(), [""; 0]);
    let syncs = hub.received_of(Kind::Sync).into_iter().map(|message| message.body).collect::<Vec<Value>>();
    let times: Vec<f64> = syncs.iter().filter_map(|sync| sync["timestamp"].as_f64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(syncs.iter().all(|sync| sync["instance_uuid"] == syncs[0]["instance_uuid"]));
    println!("{sent} requests, {lost} lost to 6 kills, {} messages", syncs.len());
}

#[test]
fn clean_end_without_a_hub_costs_nothing() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let state = Arc::new(Scratch::new("outage"));
    hub.go_down();
    let agent =
        || Agent::watching(app.pid()).reporting_to(&hub).state_dir(&state).sync_interval(NEVER).start();
    let first = agent();
    ask(&app, EACH);
    let stopped = first.stop();
    let says = |text: &str| stopped.log.iter().any(|line| line.message().is_some_and(|it| it.contains(text)));
    assert!(says("wait on disk for the next agent") && !says("counts are lost"));
    let second = agent();
    assert_eq!(killed_in(&second), 0);
    hub.come_back();
    hub.eventually_counts("GET", ROUTE, 200, EACH);
    second.stop();
    assert_eq!(hub.totals().count(), EACH);
}

#[test]
fn message_that_the_hub_had_when_the_agent_was_killed_comes_again_with_its_identity() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let state = Arc::new(Scratch::new("outage"));
    let agent =
        || Agent::watching(app.pid()).reporting_to(&hub).state_dir(&state).sync_interval("500ms").start();
    let first = agent();
    hub.eventually_receives(1, Kind::Sync);
    ask(&app, EACH);
    hub.reply_to_next(1, Kind::Sync, Reply::Late(PATIENCE)); // accepted, but the agent does not hear of it
    let held = hub.eventually("a message is held", |hub| {
        hub.received_of(Kind::Sync).into_iter().find(|message| matches!(message.reply, Reply::Late(_)))
    });
    eventually("all that was asked is counted", PATIENCE, || {
        (count_in(&first, "reported") == EACH).then_some(())
    });
    first.kill();
    let second = agent();
    let lost = killed_in(&second);
    hub.eventually("it comes again", |hub| (!hub.duplicates().is_empty()).then_some(()));
    second.stop();
    assert_eq!(hub.duplicates(), [held.message_uuid()]);
    assert_eq!(hub.totals().count() + lost, EACH);
}

fn ask(app: &App, times: u64) {
    let mut client = app.client();
    for _ in 0..times {
        assert_eq!(client.send(&Request::get("/items/7")).exchange.status, 200);
    }
}

/// Messages that wait, once all of them are on disk.
fn queued_in(agent: &Agent) -> u64 {
    eventually("all messages are on disk", PATIENCE, || {
        let hub = &agent.status()["hubs"][0];
        (hub["spool"]["in_memory"] == 0).then(|| hub["queued"].as_u64())?
    })
}

/// What the last agent is said to have lost.
fn killed_in(agent: &Agent) -> u64 {
    count_in(agent, "agent_killed")
}

fn count_in(agent: &Agent, field: &str) -> u64 {
    agent.status()["targets"][0]["ledger"][field]
        .as_u64()
        .unwrap_or_else(|| panic!("no {field} in the status"))
}
