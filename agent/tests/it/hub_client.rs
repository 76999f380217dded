//! How messages get to the hub, or do not.

use std::{
    io::{Read as _, Seek as _},
    time::{Duration, Instant},
};

use agent::delivery::{Delivery, Failure};
use agent::hub::{Answer, Condition, Dropped, HubConfig, HubState};
use tests::fake_hub::{FakeHub, Kind, Received, Reply};

use crate::hub_reporter::{CLIENT_ID, ENV, ROUTE, Reporter, config};

const AMPLE: Duration = Duration::from_secs(20);
/// Where the hub will not answer anyway.
const BRIEF: Duration = Duration::from_millis(150);

fn reporter(hub: &FakeHub) -> Reporter {
    Reporter::start(config(&hub.url()))
}

fn impatient_reporter(hub: &FakeHub) -> Reporter {
    Reporter::start(HubConfig { timeout: BRIEF, ..config(&hub.url()) })
}

fn kinds(received: &[Received]) -> Vec<Kind> {
    received.iter().map(|message| message.kind).collect()
}

fn ids(received: &[Received]) -> Vec<String> {
    received.iter().map(|message| message.message_uuid().to_owned()).collect()
}

#[test]
fn messages_look_like_those_of_an_official_client() {
    let hub = FakeHub::start();
    let reporter = Reporter::start(config(&format!("{}//", hub.url())));
    let startup = reporter.startup(1);
    let sync = reporter.sync(3);
    hub.eventually_receives(1, Kind::Sync);

    let received = hub.received();
    assert_eq!(kinds(&received), [Kind::Startup, Kind::Sync]);
    assert_eq!(received[0].body, serde_json::to_value(&startup).unwrap());
    assert_eq!(received[1].body, serde_json::to_value(&sync).unwrap());
    for (message, kind) in received.iter().zip(["startup", "sync"]) {
        assert_eq!(message.target, format!("/v2/{CLIENT_ID}/{ENV}/{kind}"));
        assert_eq!(message.header("content-type"), Some("application/json"));
        assert_eq!(message.header("content-length"), Some(message.raw_body.len().to_string().as_str()));
        assert_eq!(message.header("content-encoding"), None);
        assert_eq!(message.header("authorization"), None);
        let user_agent = concat!("apitally-agent/", env!("CARGO_PKG_VERSION"));
        assert_eq!(message.header("user-agent"), Some(user_agent));
    }
}

#[test]
fn syncs_need_no_startup_and_no_requests() {
    let hub = FakeHub::start();
    let reporter = reporter(&hub);
    reporter.sync(0);
    hub.eventually_receives(1, Kind::Sync);
    reporter.eventually("it is delivered", |state| state.delivered == 1 && state.queued == 0);
}

#[test]
fn any_2xx_is_success() {
    for status in [200, 201, 202, 204] {
        let hub = FakeHub::start();
        hub.reply_with(status);
        let reporter = reporter(&hub);
        reporter.sync(1);
        let state = reporter.eventually("an answer", |state| state.last_answer.is_some());
        assert_eq!(state.last_answer.unwrap().answer, Ok(Answer::Delivered), "{status}");
        assert_eq!(hub.received().len(), 1);
    }
}

#[test]
fn what_may_pass_is_tried_again_with_the_same_message() {
    for status in [301, 302, 400, 401, 402, 403, 407, 408, 413, 429, 500, 502, 503, 504] {
        check(Reply::Status(status));
    }
    check(Reply::Garbage);
    check(Reply::HangUp);
    check(Reply::Silence);

    fn check(first: Reply) {
        let hub = FakeHub::start();
        hub.reply_to_next(1, Kind::Sync, first);
        let reporter = if first == Reply::Silence { impatient_reporter(&hub) } else { reporter(&hub) };
        reporter.sync(3);
        let received = hub.eventually_receives(2, Kind::Sync);
        assert_eq!(received[0].raw_body, received[1].raw_body, "after {first:?}");
        let state = reporter.eventually("it is delivered", |state| state.delivered == 1);
        assert_eq!((state.queued, state.dropped.total()), (0, 0), "after {first:?}");
        assert_eq!(hub.counted("GET", ROUTE, 200), 3);
    }
}

#[test]
fn failures_are_named() {
    check(Reply::Status(503), "answered with status 503");
    check(Reply::Status(302), "answered with status 302");
    check(Reply::HangUp, "connection closed without a reply");
    check(Reply::Silence, "timed out");
    check(Reply::Garbage, "invalid HTTP version parsed");

    fn check(reply: Reply, says: &str) {
        let hub = FakeHub::start();
        hub.reply_with(reply);
        let reporter = if reply == Reply::Silence { impatient_reporter(&hub) } else { reporter(&hub) };
        reporter.sync(1);
        check_failure(&reporter, says);
    }
}

#[test]
fn unreachable_hubs_are_named() {
    let hub = FakeHub::start();
    hub.go_down();
    let refused = reporter(&hub);
    refused.sync(1);
    check_failure(&refused, "connection refused");

    // No label of a host name is so long: found out without asking the network.
    let nowhere = Reporter::start(config(&format!("http://{}.invalid", "x".repeat(64))));
    nowhere.sync(1);
    check_failure(&nowhere, "host name not found");
}

#[test]
fn untrusted_certificate_is_refused_with_what_to_do() {
    let hub = FakeHub::start_tls();
    let reporter = reporter(&hub);
    reporter.sync(1);
    let failure = check_failure(&reporter, "certificate not trusted");
    assert!(failure.contains("SSL_CERT_FILE") && !failure.contains('\n'), "{failure}");
    assert_eq!(hub.received().len(), 0);
}

fn check_failure(reporter: &Reporter, says: &str) -> String {
    let state = reporter.eventually("an answer", |state| state.last_answer.is_some());
    let failure = state.last_answer.unwrap().answer.unwrap_err().to_string();
    assert!(failure.contains(says), "{failure}");
    assert!(!failure.contains(CLIENT_ID), "{failure}");
    failure
}

#[test]
fn unknown_client_id_stops_everything() {
    let hub = FakeHub::start();
    hub.reply_to_next(1, Kind::Sync, 503); // so that the second sync is queued behind the first
    hub.reply_to_next(1, Kind::Sync, 404);
    let reporter = reporter(&hub);
    reporter.sync(1);
    reporter.sync(1);
    reporter.eventually("it stops", |state| state.condition == Condition::Stopped);
    reporter.startup(1);
    reporter.sync(1);
    let state = reporter.eventually("the rest is given up", |state| state.dropped.stopped == 3);
    assert_eq!((state.queued, state.delivered), (0, 0));
    assert_eq!(reporter.finish(AMPLE), Delivery { delivered: 0, undelivered: 0, kept: 0 });
    assert_eq!(hub.received().len(), 2);
}

#[test]
fn unknown_client_id_on_startup_stops_everything() {
    let hub = FakeHub::start();
    hub.reply_with(404);
    let reporter = reporter(&hub);
    reporter.startup(1);
    reporter.eventually("it stops", |state| state.condition == Condition::Stopped);
    assert_eq!(reporter.finish(AMPLE), Delivery { delivered: 0, undelivered: 0, kept: 0 });
}

#[test]
fn refused_message_is_dropped_and_the_next_goes_out() {
    let hub = FakeHub::start();
    hub.reply_to_next(1, Kind::Startup, 422);
    hub.reply_to_next(1, Kind::Sync, 422);
    let reporter = reporter(&hub);
    reporter.startup(1);
    reporter.sync(1);
    reporter.sync(2);
    let state = reporter.eventually("one is delivered", |state| state.delivered == 1);
    assert_eq!(state.dropped, Dropped { rejected: 2, ..Dropped::default() });
    assert_eq!(hub.counted("GET", ROUTE, 200), 2);
    assert_eq!(kinds(&hub.received()), [Kind::Startup, Kind::Sync, Kind::Sync]);
}

#[test]
fn message_the_hub_objects_to_holds_up_no_other() {
    let hub = FakeHub::start();
    hub.reply_to_next(3, Kind::Sync, 413);
    let reporter = reporter(&hub);
    let (first, second) = (reporter.sync(1), reporter.sync(2));
    reporter.eventually("both are delivered", |state| state.delivered == 2);
    let (first, second) = (first.message_uuid.to_string(), second.message_uuid.to_string());
    assert_eq!(ids(&hub.accepted()), [second, first]);
}

#[test]
fn order_and_identity_survive_an_outage() {
    let hub = FakeHub::start();
    hub.reply_with(503);
    let reporter = reporter(&hub);
    let sent: Vec<_> = (1..=5).map(|n| serde_json::to_value(reporter.sync(n)).unwrap()).collect();
    let tries = hub.eventually_receives(8, Kind::Sync);
    // The first failure ends a round, so only the oldest is tried.
    assert!(tries.iter().all(|message| message.body == sent[0]));

    hub.reply_with(202);
    hub.eventually_counts("GET", ROUTE, 200, 1 + 2 + 3 + 4 + 5);
    let accepted: Vec<_> = hub.accepted().into_iter().map(|message| message.body).collect();
    assert_eq!(accepted, sent);
    assert_eq!(hub.duplicates(), [""; 0]);
}

#[test]
fn order_survives_a_closed_port() {
    let hub = FakeHub::start();
    let reporter = reporter(&hub);
    let before = reporter.sync(1);
    reporter.eventually("it is delivered", |state| state.delivered == 1);
    hub.go_down();
    let meanwhile = [reporter.sync(2), reporter.sync(3)];
    let refused = |state: &HubState| {
        state.last_answer.as_ref().is_some_and(|last| last.answer == Err(Failure::ConnectionRefused))
    };
    let state = reporter.eventually("the outage is seen", refused);
    assert_eq!((state.queued, state.delivered), (2, 1));

    hub.come_back();
    reporter.eventually("all is delivered", |state| state.delivered == 3 && state.queued == 0);
    let sent = [&before, &meanwhile[0], &meanwhile[1]].map(|sync| sync.message_uuid.to_string());
    assert_eq!(ids(&hub.received()), sent);
}

#[test]
fn failed_startup_is_tried_in_the_next_round_and_does_not_hold_up_the_heartbeat() {
    let hub = FakeHub::start();
    hub.reply_to_next(4, Kind::Startup, 500);
    let reporter = reporter(&hub);
    let startup = reporter.startup(1);
    reporter.sync(1);
    reporter.eventually("both are delivered", |state| state.delivered == 2);
    let (tries, again) = ([Kind::Startup; 3], [Kind::Startup; 2]);
    assert_eq!(kinds(&hub.received()), [&tries[..], &[Kind::Sync], &again].concat());
    let startups = ids(&hub.received_of(Kind::Startup));
    assert!(startups.iter().all(|id| *id == startup.message_uuid.to_string()));
}

#[test]
fn grown_routes_are_announced_anew() {
    let hub = FakeHub::start();
    let reporter = reporter(&hub);
    reporter.startup(1);
    hub.eventually_receives(1, Kind::Startup);
    reporter.startup(2);
    let received = hub.eventually_receives(2, Kind::Startup);
    assert_ne!(received[0].message_uuid(), received[1].message_uuid());
    assert_eq!(received[1].body["paths"].as_array().unwrap().len(), 2);
}

#[test]
fn targets_share_the_way_to_the_hub() {
    let hub = FakeHub::start();
    hub.go_down();
    let mut reporter = reporter(&hub);
    let mut sent = Vec::new();
    for instance in [1, 2, 1, 2] {
        reporter.instance = uuid::Uuid::from_u128(instance);
        sent.push(reporter.sync(1).message_uuid.to_string());
    }
    hub.come_back();
    reporter.eventually("all is delivered", |state| state.delivered == 4);
    assert_eq!(ids(&hub.accepted()), sent);
}

#[test]
fn late_reply_makes_a_duplicate_with_the_same_identity() {
    let hub = FakeHub::start();
    hub.reply_to_next(1, Kind::Sync, Reply::Late(AMPLE));
    let reporter = impatient_reporter(&hub);
    let sync = reporter.sync(7);
    reporter.eventually("it is delivered", |state| state.delivered == 1);
    assert_eq!(hub.duplicates(), [sync.message_uuid.to_string()]);
    assert_eq!(hub.counted("GET", ROUTE, 200), 7);
}

#[test]
fn finish_sends_what_waits() {
    let hub = FakeHub::start();
    let reporter = reporter(&hub);
    reporter.startup(1);
    for requests in 1..=20 {
        reporter.sync(requests);
    }
    let delivery = reporter.finish(AMPLE);
    assert_eq!(delivery.undelivered, 0);
    assert_eq!(hub.accepted().len(), 21);
    assert_eq!(hub.counted("GET", ROUTE, 200), 210);
}

#[test]
fn finish_does_not_wait_for_the_next_round() {
    let hub = FakeHub::start();
    hub.reply_with(503);
    let mut config = config(&hub.url());
    config.pace.next_round = Duration::from_secs(3600);
    let reporter = Reporter::start(config);
    reporter.sync(1);
    reporter.eventually("a round failed", |state| state.last_answer.is_some());
    hub.reply_with(202);
    reporter.sync(2);
    assert_eq!(reporter.finish(AMPLE), Delivery { delivered: 2, undelivered: 0, kept: 0 });
}

#[test]
fn finish_cuts_waits_and_pauses_short() {
    let hub = FakeHub::start();
    let mut config = config(&hub.url());
    config.pace.between = Duration::from_secs(3600);
    let reporter = Reporter::start(config);
    for _ in 0..3 {
        reporter.sync(1);
    }
    hub.eventually_receives(1, Kind::Sync);
    assert_eq!(reporter.finish(AMPLE).undelivered, 0);
    assert_eq!(hub.accepted().len(), 3);
}

#[test]
fn finish_keeps_its_deadline_against_a_silent_hub() {
    let hub = FakeHub::start();
    hub.reply_with(Reply::Silence);
    let mut config = config(&hub.url());
    config.timeout = Duration::from_secs(3600);
    let reporter = Reporter::start(config);
    reporter.startup(1);
    reporter.sync(1);
    hub.eventually_receives(1, Kind::Startup);
    let asked = Instant::now();
    assert_eq!(reporter.finish(BRIEF), Delivery { delivered: 0, undelivered: 2, kept: 0 });
    assert!(asked.elapsed() < BRIEF + Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn finish_gives_up_early_when_nobody_is_there() {
    let hub = FakeHub::start();
    hub.go_down();
    let reporter = reporter(&hub);
    reporter.sync(1);
    reporter.sync(1);
    let asked = Instant::now();
    assert_eq!(reporter.finish(AMPLE), Delivery { delivered: 0, undelivered: 2, kept: 0 });
    assert!(asked.elapsed() < AMPLE / 2, "{:?}", asked.elapsed());
}

#[test]
fn log_is_short_and_names_no_client_id() {
    let hub = FakeHub::start();
    hub.reply_with(503);
    let mut log = tempfile::tempfile().unwrap();
    let reporter = Reporter::start_logging_to(config(&hub.url()), log.try_clone().unwrap());
    reporter.sync(1);
    hub.eventually_receives(8, Kind::Sync);
    hub.reply_with(202);
    reporter.eventually("it is delivered", |state| state.delivered == 1);
    hub.reply_with(422);
    reporter.sync(1);
    reporter.eventually("it is refused", |state| state.dropped.rejected == 1);
    hub.reply_with(404);
    reporter.sync(1);
    reporter.eventually("it stops", |state| state.condition == Condition::Stopped);
    reporter.finish(AMPLE);

    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, (level, says)) in lines.iter().zip([
        ("WARN", "hub took no message"),
        ("INFO", "hub is back"),
        ("WARN", "hub refused a message"),
        ("ERROR", "hub rejected our client id"),
    ]) {
        assert!(line.contains(level) && line.contains(says), "{text}");
        assert!(line.contains("127.0.0.1:") && line.contains(ENV), "{text}");
    }
    assert!(!text.contains(CLIENT_ID) && !text.contains("/v2/"), "{text}");
}
