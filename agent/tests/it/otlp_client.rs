//! How export requests get to an endpoint, or do not.

use std::{
    io::{Read as _, Seek as _},
    time::{Duration, Instant},
};

use agent::{
    delivery::{Delivery, Failure},
    otlp::{Answer, Destination, Dropped, Header, OtlpConfig, OtlpState, Pace, Signal},
};
use tests::fake_hub::Reply;

use crate::otlp_sender::{AMPLE, BRIEF, LOGS, METRICS, ROUND, Sender, TOKEN, TRACES, config, hub, names};

#[test]
fn requests_look_like_those_of_the_official_client() {
    let hub = hub();
    let sender = Sender::start(config(&hub.url()));
    sender.send(&[(Signal::Traces, "t"), (Signal::Logs, "l"), (Signal::Metrics, "m")]);
    sender.eventually("all are delivered", |state| state.delivered == 3 && state.queued == 0);
    let targets = ["/v1/traces", "/v1/logs", "/v1/metrics"];
    for (message, target) in hub.received().iter().zip(targets) {
        assert_eq!(message.target, target);
        assert_eq!(message.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
        assert_eq!(message.header("apitally-env"), Some("golden-1"));
        assert_eq!(message.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(message.header("content-encoding"), Some("gzip"));
        let user_agent = concat!("apitally-agent/", env!("CARGO_PKG_VERSION"));
        assert_eq!(message.header("user-agent"), Some(user_agent));
    }
}

#[test]
fn another_collector_gets_the_users_headers_and_none_of_apitallys() {
    let hub = hub();
    let headers = ["X-Scope: 7", "Authorization: Basic eDp5"].map(|text| Header::parse(text).unwrap());
    let config = OtlpConfig {
        destination: Destination::Collector(headers.into()),
        ..config(&format!("{}/tenant/otlp/", hub.url()))
    };
    let sender = Sender::start(config);
    sender.send(&[(Signal::Logs, "l")]);
    let received = hub.eventually_receives(1, LOGS);
    assert_eq!(received[0].target, "/tenant/otlp/v1/logs");
    assert_eq!(received[0].header("x-scope"), Some("7"));
    assert_eq!(received[0].header("authorization"), Some("Basic eDp5"));
    assert_eq!(received[0].header("apitally-env"), None);
}

#[test]
fn traces_go_before_logs_before_metrics() {
    let hub = hub();
    let sender = Sender::start(config(&hub.url()));
    sender.send(&[
        (Signal::Metrics, "m"),
        (Signal::Logs, "l"),
        (Signal::Traces, "t1"),
        (Signal::Traces, "t2"),
    ]);
    sender.eventually("all are delivered", |state| state.delivered == 4);
    assert_eq!(names(&hub), ["t1", "t2", "l", "m"]);
}

#[test]
fn what_may_pass_is_sent_again_in_the_next_round_and_holds_up_the_rest() {
    for status in [302, 408, 429, 500, 502, 503, 504] {
        let hub = hub();
        hub.reply_to_next(2, TRACES, status);
        let sender = Sender::start(config(&hub.url()));
        sender.send(&[(Signal::Traces, "t"), (Signal::Logs, "l"), (Signal::Metrics, "m")]);
        let state = sender.eventually("all are delivered", |state| state.delivered == 3);
        assert_eq!(names(&hub), ["t", "t", "t", "l", "m"], "after {status}");
        assert_eq!(state.dropped, Dropped::default());
        let at: Vec<Instant> = hub.received().into_iter().map(|message| message.at).collect();
        assert!(at[1] - at[0] >= ROUND / 2 && at[2] - at[1] >= ROUND / 2, "no round between: {at:?}");
    }
}

#[test]
fn a_lost_connection_is_tried_once_more_at_once() {
    for reply in [Reply::HangUp, Reply::Garbage] {
        let hub = hub();
        hub.reply_to_next(1, METRICS, reply);
        let mut config = config(&hub.url());
        config.pace.fixed_interval = Some(Duration::from_secs(3600));
        let sender = Sender::start(config);
        sender.send(&[(Signal::Metrics, "m")]);
        sender.eventually("it is delivered", |state| state.delivered == 1);
        assert_eq!(names(&hub), ["m", "m"], "after {reply:?}");
    }
}

#[test]
fn a_lost_connection_is_tried_twice_a_round_and_no_more() {
    let hub = hub();
    hub.reply_to_next(2, METRICS, Reply::HangUp);
    let mut config = config(&hub.url());
    config.pace.fixed_interval = Some(Duration::from_secs(3600));
    let sender = Sender::start(config);
    sender.send(&[(Signal::Metrics, "m")]);
    let state = sender.eventually("an answer", |state| state.last_answer.is_some());
    assert_eq!(state.last_answer.unwrap().answer, Err(Failure::ConnectionClosed));
    assert_eq!((state.queued, names(&hub).len()), (1, 2));
}

#[test]
fn what_is_refused_is_dropped_and_counted_and_the_rest_goes_out() {
    for status in [400, 401, 403, 404, 413, 415, 422] {
        let hub = hub();
        hub.reply_to_next(1, LOGS, status);
        let sender = Sender::start(config(&hub.url()));
        sender.send(&[(Signal::Logs, "l"), (Signal::Metrics, "m")]);
        let state = sender.eventually("one is delivered", |state| state.delivered == 1);
        assert_eq!(names(&hub), ["l", "m"]);
        assert_eq!(state.dropped, Dropped { rejected: 1, ..Dropped::default() }, "{status}");
    }
}

#[test]
fn a_used_up_quota_costs_traces_alone() {
    let hub = hub();
    hub.reply_to_next(2, TRACES, 402);
    hub.reply_to_next(1, METRICS, 402);
    let sender = Sender::start(config(&hub.url()));
    sender.send(&[
        (Signal::Traces, "t1"),
        (Signal::Traces, "t2"),
        (Signal::Metrics, "m1"),
        (Signal::Metrics, "m2"),
    ]);
    let state = sender.eventually("one is delivered", |state| state.delivered == 1);
    assert_eq!(state.dropped, Dropped { over_quota: 2, rejected: 1, ..Dropped::default() });
    assert_eq!(names(&hub), ["t1", "t2", "m1", "m2"]);
}

#[test]
fn the_endpoint_says_how_often_and_how_much_it_took() {
    let hub = hub();
    hub.reply_to_next(1, METRICS, Reply::Interval(40));
    hub.reply_to_next(1, METRICS, Reply::Partial(3));
    hub.reply_to_next(1, TRACES, Reply::Partial(2));
    hub.reply_to_next(1, LOGS, Reply::Partial(1));
    let sender = Sender::start(config(&hub.url()));
    assert_eq!(sender.otlp.state().interval, Duration::from_secs(15));
    sender.send(&[(Signal::Metrics, "m1")]);
    let state = sender.eventually("one is delivered", |state| state.delivered == 1);
    assert_eq!((state.interval, state.rejected_items), (Duration::from_secs(40), 0));
    sender.send(&[(Signal::Metrics, "m2"), (Signal::Traces, "t"), (Signal::Logs, "l")]);
    let state = sender.eventually("all are delivered", |state| state.delivered == 4);
    assert_eq!((state.interval, state.rejected_items), (Duration::from_secs(40), 6));
    assert_eq!(state.last_answer.unwrap().answer, Ok(Answer::Delivered { rejected: 3 }));
    assert_eq!(state.dropped, Dropped::default());
}

#[test]
fn order_survives_an_outage_and_nothing_is_sent_twice_for_good() {
    let hub = hub();
    let sender = Sender::start(config(&hub.url()));
    hub.go_down();
    for name in ["m1", "m2", "m3"] {
        sender.send(&[(Signal::Metrics, name)]);
    }
    let refused = |state: &OtlpState| {
        state.last_answer.as_ref().is_some_and(|last| last.answer == Err(Failure::ConnectionRefused))
    };
    sender.eventually("the outage is seen", refused);
    hub.come_back();
    sender.eventually("all are delivered", |state| state.delivered == 3 && state.queued == 0);
    assert_eq!(names(&hub), ["m1", "m2", "m3"]);
}

#[test]
fn finish_sends_what_waits_without_pauses() {
    let hub = hub();
    hub.reply_to_next(1, METRICS, 503);
    let mut config = config(&hub.url());
    config.pace = Pace {
        between: (Duration::from_secs(3600), Duration::from_secs(3600)),
        fixed_interval: Some(Duration::from_secs(3600)),
    };
    let sender = Sender::start(config);
    sender.send(&[(Signal::Metrics, "m1")]);
    sender.eventually("a round failed", |state| state.last_answer.is_some());
    sender.send(&[(Signal::Traces, "t"), (Signal::Metrics, "m2")]);
    assert_eq!(sender.finish(AMPLE), Delivery { delivered: 3, undelivered: 0, kept: 0 });
    assert_eq!(names(&hub), ["m1", "t", "m1", "m2"]);
}

#[test]
fn finish_keeps_its_deadline_against_a_silent_endpoint() {
    let hub = hub();
    hub.reply_with(Reply::Silence);
    let sender = Sender::start(config(&hub.url()));
    sender.send(&[(Signal::Logs, "l"), (Signal::Metrics, "m")]);
    hub.eventually_receives(1, LOGS);
    let asked = Instant::now();
    assert_eq!(sender.finish(BRIEF), Delivery { delivered: 0, undelivered: 2, kept: 0 });
    assert!(asked.elapsed() < BRIEF + Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn log_is_short_and_holds_no_secret() {
    let hub = hub();
    hub.reply_with(503);
    let mut log = tempfile::tempfile().unwrap();
    let sender = Sender::start_logging_to(config(&hub.url()), log.try_clone().unwrap());
    sender.send(&[(Signal::Metrics, "m")]);
    hub.eventually_receives(5, METRICS);
    hub.reply_with(200);
    sender.eventually("it is delivered", |state| state.delivered == 1);
    hub.reply_with(401);
    sender.send(&[(Signal::Metrics, "m"), (Signal::Logs, "l")]);
    sender.eventually("they are refused", |state| state.dropped.rejected == 2);
    sender.finish(AMPLE);

    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    // Ten seconds have not gone by since the first warning.
    for (line, (level, says)) in
        lines.iter().zip([("WARN", "took no payload, keeping it"), ("INFO", "the OTLP endpoint is back")])
    {
        assert!(line.contains(level) && line.contains(says) && line.contains("127.0.0.1:"), "{text}");
    }
    assert_eq!(lines.len(), 2, "{text}");
    assert!(!text.contains("apt_") && !text.contains("/v1/"), "{text}");
}
