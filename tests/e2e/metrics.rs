//! `--metrics-listen`: Prometheus gets what a client knows that it exchanged, without anything else to report to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::Request;
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::prometheus::{Prometheus, Sample, ask, get, lint, value};
use tests::scratch::Scratch;
use tests::totals::{Key, Row, Totals};

use crate::traffic::{self, Pace};

/// Longer than it takes until a loop counts as standing still.
const PATIENCE: Duration = Duration::from_secs(60);
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

#[test]
fn prometheus_gets_what_the_client_knows() {
    let _machine = machine::in_company();
    let app = App::start(Server::FastApi);
    let agent = Agent::watching(app.pid()).for_metrics_alone().start();
    let prometheus = Prometheus::scraping(agent.metrics());
    let mut account = traffic::warm_up(&app, Server::FastApi);
    account.add(traffic::drive(&app, Server::FastApi, Pace::Rush));

    let target = format!("--pid {}", app.pid());
    let truth: BTreeMap<Labels, Row> = without_consumers(&Totals::of(&account.exchanges));
    let counts = |metric: &str| by_labels(prometheus.query(metric), &target);
    let of =
        |value: fn(&Row) -> u64| truth.iter().map(|(key, row)| (key.clone(), value(row) as f64)).collect();
    let wanted: BTreeMap<Labels, f64> = of(|row| row.count);
    let mut latest = BTreeMap::new();
    eventually("Prometheus has all requests", PATIENCE, || {
        latest = counts("http_server_request_duration_seconds_count");
        (latest.values().sum::<f64>() >= wanted.values().sum()).then_some(())
    });
    assert_eq!(latest, wanted);
    assert_eq!(counts("http_server_request_duration_seconds_bucket{le=\"+Inf\"}"), wanted);
    assert_eq!(counts("http_server_response_body_size_bytes_count"), wanted);
    assert_eq!(counts("http_server_response_body_size_bytes_sum"), of(|row| row.response_size_sum));
    let sized = |row: &Row| row.request_sizes.values().sum();
    assert_eq!(counts("http_server_request_body_size_bytes_sum"), of(|row| row.request_size_sum));
    assert_eq!(counts("http_server_request_body_size_bytes_count"), of(sized));
    // The client's bins of 1000 bytes fit into the buckets, but for what is 10,000 bytes to the byte.
    let small = |row: &Row| row.response_sizes.range(..10).map(|(_, count)| count).sum();
    let at_most: BTreeMap<Labels, f64> = of(small);
    for (labels, count) in counts("http_server_response_body_size_bytes_bucket{le=\"10000.0\"}") {
        assert!(count >= at_most[&labels] && count <= wanted[&labels], "{labels:?}: {count}");
    }

    let sum = "apitally_agent_exchanges_reported_total + sum without (cause) (apitally_agent_exchanges_lost_total) \
               + apitally_agent_exchanges_open";
    let [(_, seen)] = &prometheus.query("apitally_agent_exchanges_seen_total")[..] else {
        panic!("one target")
    };
    let [(_, accounted)] = &prometheus.query(sum)[..] else { panic!("one target") };
    assert_eq!((*seen, *accounted), (account.sent() as f64, account.sent() as f64));
    let [(_, coverage)] = &prometheus.query("apitally_agent_coverage_ratio")[..] else {
        panic!("one target")
    };
    assert_eq!(*coverage, 1.0);

    let stopped = agent.stop();
    assert_eq!(stopped.ledger().seen(), account.sent());
    assert_eq!(stopped.messages.len(), 0, "nothing is printed");
    let says = |text| stopped.log.iter().any(|line| line.message() == Some(text));
    assert!(says("nothing is sent to Apitally, since there is no client id"));
}

/// Method, route, status.
type Labels = (String, String, String);

fn without_consumers(totals: &Totals) -> BTreeMap<Labels, Row> {
    let mut rows = BTreeMap::<Labels, Row>::new();
    for (Key { method, route, status, .. }, row) in &totals.0 {
        let sum = rows.entry((method.clone(), route.clone(), status.to_string())).or_default();
        sum.count += row.count;
        sum.request_size_sum += row.request_size_sum;
        sum.response_size_sum += row.response_size_sum;
        for (bins, more) in
            [(&mut sum.request_sizes, &row.request_sizes), (&mut sum.response_sizes, &row.response_sizes)]
        {
            more.iter().for_each(|(bin, count)| *bins.entry(*bin).or_default() += count);
        }
    }
    rows
}

fn by_labels(samples: Vec<Sample>, target: &str) -> BTreeMap<Labels, f64> {
    let mut counts = BTreeMap::new();
    for (labels, value) in samples {
        let label = |name: &str| labels[name].clone();
        assert_eq!(labels["target"], target);
        let names = ["http_request_method", "http_route", "http_response_status_code"];
        let [method, route, status] = names.map(label);
        assert_eq!(counts.insert((method, route, status), value), None, "{labels:?} twice");
    }
    counts
}

#[test]
fn linter_and_parser_find_nothing_wrong_whatever_is_in_the_labels() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let dir = Scratch::new("config");
    let file = dir.join("agent.toml");
    let text = format!(
        "client_id = \"8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c\"\nhub_url = \"{}\"\nsync_interval = \"200ms\"\n\
         metrics_listen = \"127.0.0.1:0\"\nother_paths = \"learn\"\n\
         routes = ['/say/\"hi\"\\']\n[[target]]\npid = {}\n",
        hub.url(),
        app.pid()
    );
    fs::write(&file, text).expect("it is ours");
    let agent = Agent::configured_by(&file).start();
    let mut client = app.client();
    for path in ["/say/%22hi%22%5C", "/say/%22hi%22%5C", "/items"] {
        client.send(&Request::get(path));
    }
    let page = eventually("all is delivered and counted", PATIENCE, || {
        let page = get(agent.metrics(), "/metrics", "").body;
        let delivered = value(&page, "apitally_agent_delivery_delivered_messages_total");
        (page.contains("http_route=\"/items\"") && delivered > 0.0).then_some(page)
    });
    assert_eq!(lint(&page), "");
    let route = r#"http_route="/say/\"hi\"\\",http_response_status_code="404"} 2"#;
    assert!(page.contains(route), "{page}");
    assert!(!page.contains("# EOF\n") && !page.contains("# UNIT"), "{page}");

    let open = get(agent.metrics(), "/metrics", OPEN_METRICS);
    assert!(
        open.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{}",
        open.head
    );
    assert!(
        open.body.ends_with("# EOF\n")
            && open.body.contains("# UNIT http_server_request_duration_seconds seconds\n")
    );
    // Whoever breaks the form has Prometheus refuse the page as a whole.
    let prometheus = Prometheus::scraping(agent.metrics());
    eventually("Prometheus takes the page", PATIENCE, || {
        matches!(&prometheus.query("up")[..], [(_, 1.0)]).then_some(())
    });
    let routes = prometheus.query("http_server_request_duration_seconds_count");
    assert!(routes.iter().any(|(labels, _)| labels["http_route"] == "/say/\"hi\"\\"));
    agent.stop();
}

#[test]
fn linter_can_find_something_wrong() {
    let said = lint("# TYPE no_help_ms counter\nno_help_ms 1\n");
    assert!(said.contains("no help text"), "{said}");
}

#[test]
fn delivery_in_trouble_shows_and_is_no_ill_health() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Nginx), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).serving_metrics().start();
    let value = |name: &str| value(&get(agent.metrics(), "/metrics", "").body, name);
    eventually("a message is delivered", PATIENCE, || {
        (value("apitally_agent_delivery_delivered_messages_total") > 0.0).then_some(())
    });
    hub.go_down();
    app.client().send_fresh(&Request::get("/items"));
    eventually("messages wait", PATIENCE, || {
        let refused = format!(
            "apitally_agent_delivery_failed_tries_total{{url=\"{}\",env=\"dev\",reason=\"connection_refused\"}}",
            hub.url()
        );
        (value("apitally_agent_delivery_queue_messages") > 1.0 && value(&refused) > 0.0).then_some(())
    });
    assert_eq!(value("apitally_agent_delivery_up"), 1.0);
    assert_eq!(get(agent.metrics(), "/healthz", "").status, 200);
    agent.stop();
}

#[test]
fn health_is_the_loops_and_says_when_it_stands_still() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let dir = Scratch::new("stall");
    let pipe = dir.join("tape");
    // A recording that nobody takes: the agent's loop waits for whoever reads the pipe.
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo can be started");
    assert!(made.success(), "{made}");
    let mut reader = File::options().read(true).write(true).open(&pipe).expect("it is there");
    let agent =
        Agent::watching(app.pid()).for_metrics_alone().arg("--record").arg(&pipe.to_string_lossy()).start();
    let metrics = agent.metrics();
    let health = |address| get(address, "/healthz", "");
    assert_eq!((health(metrics).status, &*health(metrics).body), (200, "ok\n"));
    let mut client = app.client();
    let still = eventually("the loop stands still", PATIENCE, || {
        for _ in 0..100 {
            client.send(&Request::get("/items"));
        }
        Some(health(metrics)).filter(|health| health.status == 503)
    });
    assert!(still.body.starts_with("the agent's loop has stood still for 1"), "{}", still.body);
    assert_eq!(get(metrics, "/metrics", "").status, 503);

    let mut tape = vec![0; 1 << 20];
    eventually("the loop goes on", PATIENCE, || {
        let _ = reader.read(&mut tape).expect("a pipe can be read");
        (health(metrics).status == 200).then_some(())
    });
    agent.kill();
}

#[test]
fn a_server_that_is_abused_goes_on() {
    const CROWD: usize = 200;
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let agent = Agent::watching(app.pid()).for_metrics_alone().start();
    let metrics = agent.metrics();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").count();
    let before = descriptors();
    // They say nothing, or the beginning of something.
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|number| {
            let mut stream = TcpStream::connect(metrics).expect("it listens");
            stream.write_all(&b"GET /metrics HTTP/1.1\r\nX: "[..number % 27]).expect("it is open");
            stream
        })
        .collect();
    let status = |request: &str| ask(metrics, request).status;
    let mut client = app.client();
    for _ in 0..40 {
        client.send(&Request::get("/items"));
    }
    assert!(descriptors() <= before + 20, "{} descriptors, {before} before", descriptors());
    drop(crowd);
    assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    assert_eq!(status("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"), 405);
    assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 404);
    assert_eq!(status("GET /../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"), 404);
    assert_eq!(status("no http\r\n\r\n"), 400);
    assert_eq!(status(&format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(20_000))), 431);
    let head = ask(metrics, "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status, &*head.body), (200, ""));
    let ledger = agent.stop().ledger();
    assert_eq!((ledger.seen(), ledger.get("reported")), (40, 40), "{ledger}");
}
