//! Nobody takes what the agent says, it is killed, and every request is counted there or in the account of the loss.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tests::agent::{Agent, AgentBuilder};
use tests::app::{App, Server};
use tests::client::Request;
use tests::eventually::eventually;
use tests::fake_hub::{FakeHub, Kind, Reply};
use tests::machine;
use tests::otlp::{Signal, points};
use tests::scratch::Scratch;

use crate::otlp::of;

const ROUTE: &str = "/items/{id}";
const EACH: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test.
const NEVER: &str = "3600s";

/// One of the agent's ways out.
struct Way {
    reporting: fn(AgentBuilder, &FakeHub) -> AgentBuilder,
    /// Requests to [`ROUTE`] that have arrived, each message counted once.
    counted: fn(&FakeHub) -> u64,
}

const HUB: Way = Way { reporting: AgentBuilder::reporting_to, counted: |hub| hub.counted("GET", ROUTE, 200) };

const OTLP: Way = Way {
    reporting: AgentBuilder::reporting_by_otlp_to,
    counted: |hub| {
        let metrics = of(hub, Signal::Metrics);
        let durations = points(&metrics, "http.server.request.duration").into_iter();
        let of_route = durations.filter(|point| point["attributes"]["http.route"] == ROUTE);
        of_route.filter_map(|point| point["count"].as_u64()).sum()
    },
};

#[test]
fn outage_and_kills_cost_at_most_the_last_interval_and_it_is_counted() {
    let _machine = machine::in_company();
    let hub = FakeHub::start();
    let arrived = outage_and_kills(&HUB, &hub);
    assert_eq!(hub.totals().count(), arrived, "every request is here or there");
    assert_eq!(hub.duplicates(), [""; 0]);
    let syncs = hub.received_of(Kind::Sync).into_iter().map(|message| message.body).collect::<Vec<Value>>();
    let times: Vec<f64> = syncs.iter().filter_map(|sync| sync["timestamp"].as_f64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(syncs.iter().all(|sync| sync["instance_uuid"] == syncs[0]["instance_uuid"]));
}

#[test]
fn outage_and_kills_cost_no_more_by_otlp() {
    let _machine = machine::in_company();
    let hub = FakeHub::start();
    hub.reply_with(200);
    let arrived = outage_and_kills(&OTLP, &hub);
    assert_eq!((OTLP.counted)(&hub), arrived, "every request is here or there");
    assert_eq!(hub.received().len(), hub.accepted().len(), "nothing was sent twice");
}

/// Six agents are killed while nobody takes what they have to say; a seventh one delivers it. Gives how many requests
/// are to have arrived: all but those that are said to be lost.
fn outage_and_kills(way: &Way, hub: &FakeHub) -> u64 {
    let app = App::start(Server::FastApi);
    let state = Arc::new(Scratch::new("outage"));
    hub.go_down();
    let agent = |interval| {
        let agent = Agent::watching(app.pid()).state_dir(&state).sync_interval(interval);
        (way.reporting)(agent, hub).start()
    };
    let (mut sent, mut lost) = (0, 0);
    // The last two have no second interval to lose anything to.
    for interval in ["400ms", "700ms", "1s", "400ms", NEVER, NEVER] {
        let agent = agent(interval);
        lost += killed_in(&agent);
        eventually("the agent has made its first message", PATIENCE, || {
            agent.status()["targets"][0]["last_sync_age_s"].as_f64()
        });
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
    let agent = agent("400ms");
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
    hub.eventually("every request that is not lost has arrived", |hub| {
        ((way.counted)(hub) == sent - lost).then_some(())
    });

    let stopped = agent.stop();
    let ledger = stopped.ledger();
    assert_eq!((ledger.seen(), ledger.get("reported")), (EACH + last_loss, EACH), "{ledger}");
    assert_eq!(ledger.get("agent_killed"), last_loss, "{ledger}");
    println!("{sent} requests, {lost} lost to 6 kills, {} messages", hub.received().len());
    sent - lost
}

#[test]
fn clean_end_without_a_hub_costs_nothing() {
    let _machine = machine::in_company();
    clean_end(&HUB, &FakeHub::start());
}

#[test]
fn clean_end_without_an_otlp_endpoint_costs_nothing() {
    let _machine = machine::in_company();
    let hub = FakeHub::start();
    hub.reply_with(200);
    clean_end(&OTLP, &hub);
}

fn clean_end(way: &Way, hub: &FakeHub) {
    let app = App::start(Server::FastApi);
    let state = Arc::new(Scratch::new("outage"));
    hub.go_down();
    let agent = |interval| {
        let agent = Agent::watching(app.pid()).state_dir(&state).sync_interval(interval);
        (way.reporting)(agent, hub).start()
    };
    let first = agent(NEVER);
    ask(&app, EACH);
    let stopped = first.stop();
    let says = |text: &str| stopped.log.iter().any(|line| line.message().is_some_and(|it| it.contains(text)));
    assert!(says("wait on disk for the next agent") && !says("counts are lost"));
    let second = agent("500ms");
    assert_eq!(killed_in(&second), 0);
    hub.come_back();
    hub.eventually("all have arrived", |hub| ((way.counted)(hub) == EACH).then_some(()));
    second.stop();
    assert_eq!((way.counted)(hub), EACH);
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
