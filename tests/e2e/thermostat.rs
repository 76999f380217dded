//! An agent that comes near its bounds looks at less, and says so; what it leaves out is counted, to the request.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::agent::{Agent, LogLine};
use tests::client::{Address, Client, Exchange, Request};
use tests::crowd::Crowd;
use tests::eventually::eventually;
use tests::machine;
use tests::origin::Origin;
use tests::prometheus::{get, value};
use tests::scratch::Scratch;
use tests::scripted::{Answer, FIELD};
use tests::totals::Totals;
use tests::wire::Wire;

use crate::connections::NGINX;

/// Percent of a core: next to nothing, but more than an agent takes that has nothing to do, not even to report.
const MAX_CPU: &str = "2";
const NO_REPORTS: &str = "1h";
/// Connections that are kept, so that some are looked at and some are not.
const CLIENTS: usize = 24;
/// Connections that are no HTTP any more, so that some would be left out.
const TUNNELS: u64 = 8;
/// Requests over each of the clients' when everything is looked at again.
const AFTERWARDS: usize = 20;
/// Megabytes: little more than an agent with the usual ring buffer takes.
const MAX_MEMORY: &str = "57";
const PATIENCE: Duration = Duration::from_secs(120);

const LESS: &str = "the agent is near its bounds, it looks at less from here on";
const EVERYTHING: &str = "everything is looked at again";

#[test]
fn connections_that_are_left_out_are_counted_and_come_back() {
    let _machine = machine::in_company();
    let (upstream, dir) = (Origin::scripted(), Scratch::new("other"));
    let socket = dir.join("socket");
    let origin = Origin::nginx(&config(&socket, upstream.address()));
    let agent = Agent::watching_port(origin.port())
        .max_cpu(Some(MAX_CPU))
        .sync_interval(NO_REPORTS)
        .serving_metrics()
        .start();
    assert_eq!(agent.status()["capture"]["level"], 0);
    let mut tunnels: Vec<Wire> = (0..TUNNELS).map(|_| tunnel(origin.address())).collect();
    eventually("the agent knows the tunnels", PATIENCE, || {
        (ledger_of(&agent, "upgraded") == TUNNELS).then_some(())
    });
    let request = Request::get("/items");

    let (began, enough) = (Instant::now(), AtomicBool::new(false));
    // A failure must not leave anyone running.
    let is_over = || enough.load(Ordering::Relaxed) || began.elapsed() > PATIENCE;
    let (mut clients, mut exchanges): (Vec<Client>, Vec<Exchange>) = thread::scope(|scope| {
        // What is never to be left out: it is in no account, however much of it there is.
        scope.spawn(|| {
            let other = Client::of(&Address::Unix(socket.clone()));
            while !is_over() {
                other.send_fresh(&request);
                for tunnel in &mut tunnels {
                    tunnel.send("GET /evil HTTP/1.1\r\n\r\n");
                    tunnel.read(22);
                }
            }
        });
        let send = || {
            let mut client = origin.client();
            let mut exchanges = Vec::new();
            while !is_over() {
                exchanges.push(client.send(&request).exchange);
                // And one over a connection of its own.
                exchanges.push(client.send_fresh(&request).exchange);
            }
            (client, exchanges)
        };
        let sending: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send)).collect();
        let looked_at = |line: &LogLine| line.field("connections_percent").and_then(Value::as_f64);
        let leaves_out = |line: &LogLine| line.message() == Some(LESS) && looked_at(line) < Some(100.0);
        let (status, page) = eventually("connections are left out", PATIENCE, || {
            let left_out = agent.log().iter().any(leaves_out) && ledger_of(&agent, "sampled_out") > 500;
            left_out.then(|| (agent.status(), get(agent.metrics(), "/metrics", "").body))
        });
        enough.store(true, Ordering::Relaxed);
        let sent = sending.into_iter().map(|client| client.join().expect("a client finishes"));
        let (clients, exchanges): (Vec<_>, Vec<_>) = sent.unzip();
        let (capture, coverage) = (&status["capture"], &status["targets"][0]["coverage"]);
        assert!(capture["level"].as_u64() > Some(2) && capture["bytes_per_call"] == 4096, "{capture}");
        assert!(coverage.as_f64() < Some(99.0), "{coverage}");
        let metric = |name: &str| value(&page, &format!("apitally_agent_{name}"));
        assert!(metric("capture_level ") > 2.0 && metric("capture_call_bytes ") == 4096.0, "{page}");
        assert!(metric("capture_connections_ratio ") <= 0.5 && metric("cpu_limit_ratio ") == 0.02, "{page}");
        let lost =
            format!("exchanges_lost_total{{target=\"--port {}\",cause=\"sampled_out\"}}", origin.port());
        assert!(metric(&lost) > 500.0, "{page}");
        (clients, exchanges.concat())
    });

    let returned = |line: &LogLine| line.message() == Some(EVERYTHING);
    eventually("everything is looked at again", PATIENCE, || agent.log().iter().any(returned).then_some(()));
    assert_eq!(agent.status()["capture"]["level"], 0);
    let before = ["reported", "sampled_out"].map(|name| ledger_of(&agent, name));
    for client in &mut clients {
        for _ in 0..AFTERWARDS {
            exchanges.push(client.send(&request).exchange);
        }
    }
    let stopped = agent.stop();
    let (sent, ledger) = (exchanges.len() as u64, stopped.ledger());
    println!("{sent} sent; {ledger}");
    assert_eq!(ledger.seen(), sent + TUNNELS, "{ledger}");
    assert_eq!(ledger.get("lost"), ledger.get("sampled_out") + TUNNELS, "{ledger}");
    let afterwards = (CLIENTS * AFTERWARDS) as u64;
    let after = ["reported", "sampled_out"].map(|name| ledger.get(name));
    assert_eq!(after, [before[0] + afterwards, before[1]], "{ledger}");
    // What is reported is true.
    let (truth, reported) = (Totals::of(&exchanges), stopped.totals());
    assert_eq!(reported.0.values().map(|row| row.count).sum::<u64>(), ledger.get("reported"), "{ledger}");
    for (key, row) in &reported.0 {
        let whole = &truth.0[key];
        assert_eq!(row.response_size_sum * whole.count, whole.response_size_sum * row.count, "{key}");
    }
}

#[test]
fn agent_that_is_short_of_memory_lets_go_of_idle_connections_and_goes_on() {
    const CROWDS: usize = 4;
    const EACH: usize = 5000;
    let _machine = machine::in_company();
    let origin = Origin::nginx(NGINX);
    let agent = Agent::watching(origin.pid())
        .arg("--max-memory")
        .arg(MAX_MEMORY)
        .sync_interval(NO_REPORTS)
        .with_the_usual_log()
        .start();
    let mut client = origin.client();
    client.send(&Request::get("/items"));
    let bound = agent.status()["capture"]["max_memory_bytes"].as_u64().expect("it has a bound");
    let crowds: Vec<_> = (0..CROWDS).map(|_| Crowd::open(origin.address(), EACH)).collect();
    let notes = |name: &str| agent.status()["targets"][0]["notes"][name].as_u64();
    let most = agent.resident_bytes();
    eventually("idle connections are let go", PATIENCE, || {
        (notes("connections_evicted_full") > Some(0)).then_some(())
    });
    eventually("everything is looked at, within the bound", PATIENCE, || {
        (agent.status()["capture"]["level"] == 0 && agent.resident_bytes() < bound).then_some(())
    });
    // Also on a connection that was there before.
    for _ in 0..AFTERWARDS {
        client.send(&Request::get("/items"));
    }
    let least = agent.resident_bytes();
    crowds.into_iter().for_each(Crowd::leave);
    let stopped = agent.stop();
    let (sent, ledger) = ((CROWDS * EACH + 1 + AFTERWARDS) as u64, stopped.ledger());
    println!("{sent} sent; {most} bytes resident, then {least}; {ledger}");
    assert_eq!(ledger.seen(), sent, "{ledger}");
    assert_eq!(ledger.get("lost"), ledger.get("sampled_out"), "{ledger}");
}

/// [`NGINX`] that listens on a Unix socket too, and has a path at which connections leave HTTP.
fn config(socket: &Path, upstream: SocketAddr) -> String {
    let listen = format!("listen unix:{};\n        listen 0.0.0.0", socket.display());
    let switch = format!(
        "location /switch {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection Upgrade;
            proxy_set_header Upgrade $http_upgrade;
        }}
        location / {{"
    );
    NGINX.replace("listen 0.0.0.0", &listen).replace("location / {", &switch)
}

/// A connection that has left HTTP, and sends back what comes.
fn tunnel(address: SocketAddr) -> Wire {
    let fields = "Connection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let answer = Answer::new().send(&format!("HTTP/1.1 101 Switching Protocols\r\n{fields}")).echo();
    let mut wire = Wire::open(address);
    wire.send(format!("GET /switch HTTP/1.1\r\nHost: a\r\n{FIELD}: {answer}\r\n{fields}"));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(wire.read(1));
    }
    wire
}

/// A field of the one target's ledger as it is now.
fn ledger_of(agent: &Agent, field: &str) -> u64 {
    agent.status()["targets"][0]["ledger"][field].as_u64().expect("the ledger has every field")
}
