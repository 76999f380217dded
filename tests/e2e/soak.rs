//! Mixed traffic for as long as it is asked to last, while servers restart and clients go away: every count exact,
//! nothing grows.
//!
//! Half a minute by itself; `cargo xtask soak --minutes 10` asks for more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::Exchange;
use tests::eventually::{eventually, let_pass};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::origin::Origin;
use tests::process::{file_descriptors, signal_to};
use tests::scripted::{Answer, FIELD};
use tests::totals::{Totals, assert_same};
use tests::wire::Wire;

use crate::traffic::{Pace, drive, warm_up};

/// How long it lasts, in seconds, is in this variable.
const SECONDS: &str = "APITALLY_SOAK_SECONDS";
const USUAL: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// Beyond what it has once everything has reached its usual size.
const GROWTH: u64 = 4_000_000;

#[test]
fn soak() {
    let _machine = machine::in_company();
    let lasting = std::env::var(SECONDS).map_or(USUAL, |seconds| {
        Duration::from_secs(seconds.parse().unwrap_or_else(|_| panic!("{SECONDS}={seconds} is no number")))
    });
    let (app, hub) = (App::start(Server::Ninja), FakeHub::start());
    let mut origin = Origin::scripted();
    let port = origin.port().to_string();
    let agent = Agent::watching(app.pid()).arg("--port").arg(&port);
    // Two targets that report any faster have more to say than the delivery takes, a message every 100 to 500 ms.
    let agent = agent.consumer_header("X-Consumer-Id").sync_interval("2s").reporting_to(&hub).start();
    let mut account = warm_up(&app, Server::Ninja);
    let mut losses = Losses::default();
    // What the agent holds, after each round.
    let mut sizes = Vec::new();
    let began = Instant::now();
    while began.elapsed() < lasting || sizes.len() < 4 {
        account.add(drive(&app, Server::Ninja, Pace::Rush));
        account.exchanges.extend(go_away(origin.address(), &mut losses));
        replace_workers(&app);
        origin = restart(origin, &agent);
        sizes.push((agent.resident_bytes(), file_descriptors(agent.pid())));
    }
    account.exchanges.extend(go_away(origin.address(), &mut losses));
    let (rows, due) = (account.exchanges.len() as u64, account.sent() + losses.sum());
    // The server sees the last ends.
    let_pass(Duration::from_secs(1));
    let stopped = agent.stop();
    for line in stopped.log.iter().filter(|line| matches!(line.level(), Some("WARN" | "ERROR"))) {
        println!("{}", line.text);
    }
    let (first, last) = (sizes.first(), sizes.last());
    println!(
        "{} rounds in {:?}: {due} sent; resident bytes and descriptors {first:?}, then {last:?}",
        sizes.len(),
        began.elapsed()
    );
    assert_same(&Totals::of(&account.exchanges).untimed(|_| true), &hub.totals().untimed(|_| true));
    let ledgers = stopped.ledgers();
    let sum = |field: &str| ledgers.iter().map(|ledger| ledger.get(field)).sum::<u64>();
    let said = ledgers.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(sum("reported"), rows, "{said}");
    assert_eq!(sum("seen"), due, "{said}");
    let causes = [
        ("unmatched", account.unmatched),
        ("excluded", account.excluded),
        ("aborted_before_response", losses.aborted),
        ("incomplete_head", losses.half),
        ("upgraded", losses.upgraded),
    ];
    for (cause, count) in causes {
        assert_eq!(sum(cause), count, "{cause}: {said}");
    }
    assert_steady(&sizes);
}

/// The last round is compared with the one at a quarter of the time, by when everything has its usual size.
fn assert_steady(sizes: &[(u64, usize)]) {
    let early = sizes[sizes.len() / 4];
    let last = *sizes.last().expect("there were rounds");
    assert!(last.0 < early.0 + GROWTH, "resident bytes, descriptors: {sizes:?}");
    assert_eq!(last.1, early.1, "resident bytes, descriptors: {sizes:?}");
}

/// Requests that are in no row, by cause.
#[derive(Debug, Default)]
struct Losses {
    aborted: u64,
    half: u64,
    upgraded: u64,
}

impl Losses {
    fn sum(&self) -> u64 {
        self.aborted + self.half + self.upgraded
    }
}

/// Clients and a server that end in every way. What of it is in a row.
fn go_away(address: SocketAddr, losses: &mut Losses) -> Vec<Exchange> {
    let ask = |answer: Answer| {
        let mut wire = Wire::open(address);
        wire.send(format!("GET /left HTTP/1.1\r\nHost: a\r\n{FIELD}: {answer}\r\n\r\n"));
        wire
    };
    let cut_off = Answer::new().send("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n").fill(400);
    let mut exchanges = Vec::new();
    for _ in 0..10 {
        Wire::open(address).reset();
        let mut half = Wire::open(address);
        half.send("GET /left HTTP/1.1\r\nHost:");
        half.finish();
        half.read_to_end();
        losses.half += 1;

        ask(Answer::new().close()).read_to_end();
        ask(Answer::new().send("HTTP/1.1 100 Continue\r\n\r\n").reset()).read_to_end();
        losses.aborted += 2;

        for answer in [cut_off.clone().close(), cut_off.clone().reset()] {
            ask(answer).read_to_end();
            exchanges.push(Exchange::known("GET", "/left", 200, None, 400));
        }
        let mut left = ask(Answer::plain());
        left.read(Answer::plain().length());
        left.reset();
        exchanges.push(Exchange::known("GET", "/left", 200, None, 2));

        let switch = Answer::new().send("HTTP/1.1 101 Switching Protocols\r\n\r\n");
        let mut upgraded = ask(switch.clone().echo());
        upgraded.read(switch.length());
        upgraded.send("GET /evil HTTP/1.1\r\n\r\n");
        upgraded.finish();
        upgraded.read_to_end();
        losses.upgraded += 1;
    }
    exchanges
}

/// gunicorn gets new workers: all at once when it is told to, and one when one is killed.
fn replace_workers(app: &App) {
    let before = app.workers();
    app.signal(Signal::HUP);
    let wait_for_others = |before: &[u32]| {
        eventually("gunicorn has new workers", PATIENCE, || {
            let now = app.workers();
            (now.len() == before.len() && !now.iter().any(|pid| before.contains(pid))).then_some(())
        });
    };
    wait_for_others(&before);
    let killed = app.workers()[0];
    signal_to(killed, Signal::KILL);
    eventually("gunicorn replaces a worker", PATIENCE, || {
        let now = app.workers();
        (now.len() == before.len() && !now.contains(&killed)).then_some(())
    });
}

/// The server on the port ends, and another one begins there.
fn restart(origin: Origin, agent: &Agent) -> Origin {
    let watching = || agent.log().iter().filter(|line| line.message() == Some("watching")).count();
    let before = watching();
    let origin = origin.restart_scripted();
    eventually("the agent watches the new server", PATIENCE, || (watching() > before).then_some(()));
    origin
}
