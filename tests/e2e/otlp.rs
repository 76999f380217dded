//! The main promise by the other way in: OTLP's histograms hold what a client knows that it exchanged.

use std::collections::BTreeMap;

use serde_json::Value;
use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::{Exchange, Request};
use tests::fake_hub::{FakeHub, Kind, Received};
use tests::histogram::Histogram;
use tests::machine;
use tests::otlp::{Signal, log_records, points};

use crate::traffic::{self, Pace, RUSH};

/// Method, route, status, consumer.
type Key = (String, String, u64, Option<String>);

/// How long a client may wait beyond what the server takes. A bin of the hub's is as long.
const WAIT_S: f64 = 0.01;

fn truth(exchanges: &[Exchange], value: impl Fn(&Exchange) -> Option<f64>) -> BTreeMap<Key, Histogram> {
    let mut found = BTreeMap::<Key, Histogram>::new();
    for exchange in exchanges {
        let Some(value) = value(exchange) else { continue };
        let key = (
            exchange.method.to_owned(),
            exchange.route.clone(),
            exchange.status.into(),
            exchange.consumer.clone(),
        );
        found.entry(key).or_default().add(value);
    }
    found
}

fn reported(requests: &[Value], metric: &str) -> BTreeMap<Key, Histogram> {
    let mut found = BTreeMap::<Key, Histogram>::new();
    for point in points(requests, metric) {
        let text = |name: &str| point["attributes"][name].as_str().map(str::to_owned);
        let key = (
            text("http.request.method").expect("a point has a method"),
            text("http.route").expect("a point has a route"),
            point["attributes"]["http.response.status_code"].as_u64().expect("a point has a status"),
            text("apitally.consumer.identifier"),
        );
        found.entry(key).or_default().add_point(point);
    }
    found
}

/// Bodies of what was accepted, each once.
pub fn of(hub: &FakeHub, signal: Signal) -> Vec<Value> {
    let accepted = hub.accepted().into_iter().filter(|it| it.kind == Kind::Otlp(signal));
    accepted.map(|Received { body, .. }| body).collect()
}

/// Something else on the machine may keep a client waiting for longer. It hardly does so in every run.
const RUNS: usize = 3;

#[test]
fn histograms_hold_what_the_client_exchanged() {
    let _machine = machine::alone();
    let _first = machine::first_in_line();
    let mut late = Vec::new();
    for _ in 0..RUNS {
        late = run(Server::FastApi);
        if late.is_empty() {
            return;
        }
    }
    panic!("times differ in each of {RUNS} runs, in the last one:\n{}", late.join("\n"));
}

/// What differs in time.
fn run(server: Server) -> Vec<String> {
    let (app, hub) = (App::start(server), FakeHub::start());
    hub.reply_with(200);
    let agent =
        Agent::watching(app.pid()).consumer_header("X-Consumer-Id").reporting_by_otlp_to(&hub).start();
    let mut account = traffic::warm_up(&app, server);
    account.add(traffic::drive(&app, server, Pace::InTurn));
    account.add(traffic::drive(&app, server, Pace::Rush));
    let stopped = agent.stop();
    assert!(stopped.status.success());
    assert_eq!(stopped.ledger().get("reported"), account.exchanges.len() as u64);

    let (exchanges, metrics) = (&account.exchanges, of(&hub, Signal::Metrics));
    type Size = fn(&Exchange) -> Option<f64>;
    let sizes: [(&str, Size); 2] = [
        ("http.server.request.body.size", |exchange| exchange.request_size.map(|size| size as f64)),
        ("http.server.response.body.size", |exchange| Some(exchange.response_size as f64)),
    ];
    for (metric, size) in sizes {
        assert_eq!(reported(&metrics, metric), truth(exchanges, size), "{metric}");
    }

    let measured = truth(exchanges, |exchange| Some(exchange.duration.as_secs_f64()));
    let durations = reported(&metrics, "http.server.request.duration");
    let counts = |of: &BTreeMap<Key, Histogram>| {
        of.iter().map(|(key, histogram)| (key.clone(), histogram.count)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(counts(&durations), counts(&measured));
    let in_turn = measured.iter().filter(|((.., consumer), _)| consumer.as_deref() != Some(RUSH));
    in_turn
        .filter_map(|(key, measured)| {
            let off = off(measured, &durations[key]);
            (off > 0).then(|| format!("{key:?}: {off} times\n  {measured:?}\n  {:?}", durations[key]))
        })
        .collect()
}

/// How many times are more than a bucket away from the client's, and more than it may have waited. Both in order of
/// size: the client waits longer for each than the server takes.
fn off(measured: &Histogram, reported: &Histogram) -> usize {
    let sorted = |histogram: &Histogram| {
        let each = histogram.buckets.iter();
        each.flat_map(|(index, count)| std::iter::repeat_n(*index, *count as usize)).collect::<Vec<_>>()
    };
    let ends = |index: i64| 2_f64.powf((index + 1) as f64 / 8.0);
    let is_near = |client: i64, server: i64| {
        server <= client + 1 && (client - server <= 1 || ends(client - 1) - ends(server) <= WAIT_S)
    };
    let pairs = sorted(measured).into_iter().zip(sorted(reported));
    pairs.filter(|(client, server)| !is_near(*client, *server)).count()
}

#[test]
fn the_target_is_announced_and_says_that_it_lives() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    hub.reply_with(200);
    let agent = Agent::watching(app.pid()).reporting_by_otlp_to(&hub).start();
    app.client().send(&Request::get("/items/1"));
    hub.eventually("the route is announced", |hub| {
        let requests = of(hub, Signal::Logs);
        let starts =
            log_records(&requests).into_iter().filter(|it| it["event_name"] == "apitally.app.startup");
        let bodies = starts.filter_map(|record| serde_json::from_str::<Value>(record["body"].as_str()?).ok());
        let paths = |body: Value| body["paths"].as_array().cloned().unwrap_or_default();
        bodies.flat_map(paths).find(|path| path["path"] == "/items/{id}" && path["method"] == "GET")
    });
    hub.eventually("three heartbeats arrive", |hub| {
        let requests = of(hub, Signal::Metrics);
        let uptimes = points(&requests, "process.uptime");
        (uptimes.len() >= 3 && uptimes.is_sorted_by_key(|point| point["as_double"].as_f64())).then_some(())
    });
    let status = agent.status();
    assert_eq!(status["hubs"][0]["url"], hub.url());
    assert_eq!(status["hubs"][0]["last_answer"]["outcome"], "delivered");
    let stopped = agent.stop();
    assert!(stopped.status.success());
    let log: String = stopped.log.iter().map(|line| line.text.as_str()).collect();
    assert!(!log.contains(tests::agent::WRITE_TOKEN));
}

#[test]
fn a_dry_run_prints_export_requests() {
    let _machine = machine::in_company();
    let app = App::start(Server::FastApi);
    let agent = Agent::watching(app.pid()).arg("--otlp-endpoint").arg("http://127.0.0.1:9").start();
    traffic::warm_up(&app, Server::FastApi);
    let stopped = agent.stop();
    let of_kind = |kind: &str| {
        let lines = stopped.messages.iter().filter(|line| line["kind"] == kind);
        lines.map(|line| line["message"].to_string()).collect::<String>()
    };
    assert!(of_kind("logs").contains("apitally.app.startup"), "{:?}", stopped.messages);
    let metrics = of_kind("metrics");
    for part in
        ["\"name\":\"http.server.request.duration\"", "\"scale\":3", "\"stringValue\":\"/items/{id}\""]
    {
        assert!(metrics.contains(part), "no {part} in {metrics}");
    }
    assert!(of_kind("ledger").contains("coverage"));
}
