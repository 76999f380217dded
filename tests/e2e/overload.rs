//! More than the ring buffer can take. What is reported is true, and what is not is counted: reported and lost are
//! together what the clients sent.
//!
//! Every path has one size in each direction, so that sums of sizes are the counts times the size exactly, and an
//! exchange that got another one's size would show.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::agent::{Agent, Stopped};
use tests::app::{App, Server};
use tests::client::{Client, Exchange, Request};
use tests::eventually::{eventually, let_pass};
use tests::machine;
use tests::process::signal_to;
use tests::totals::{Row, Totals};

/// Two pages, which a handful of records fill.
const SMALL_RING: &str = "8192";
/// Large enough for records of large pieces.
const MEDIUM_RING: &str = "32768";
/// As users have it.
const USUAL_RING: &str = "8388608";
/// Requests that overrun even that, at half a kilobyte of records each.
const WHILE_STOPPED: u64 = 40_000;
const CLIENTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);
/// What must have got through for the rest of the account to mean anything, in percent.
const SIZEABLE: u64 = 20;

/// How the clients send.
#[derive(Clone, Copy)]
enum Manner {
    /// One after the other over one connection.
    KeepAlive,
    /// Each over a connection of its own.
    Fresh,
    /// So many at once.
    Pipelined(usize),
}

/// Whose end comes first when all is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// Connections are closed as they should be.
    Clients,
    /// The agent's: connections are still open then.
    Agent,
    /// The server's: nobody closes anything.
    Server,
}

/// A test's load.
struct Load {
    menu: Vec<Request>,
    manner: Manner,
    each: usize,
    first: First,
}

/// Bodies go where the server reads them to their end before it answers: one that answers earlier makes two turns of
/// an exchange, and when nothing of either is seen, two losses.
fn small_requests() -> Vec<Request> {
    vec![
        Request::get("/status/418"),
        Request::new("PUT", "/stored/whole").sized(&[b'x'; 100]),
        Request::get("/blob/1000"),
        Request::get("/status/418"),
        Request::get("/blob/1000"),
        Request::new("HEAD", "/blob/4096"),
        Request::get("/status/503"),
        Request::new("PUT", "/stored/pieces").chunked(&[b'x'; 300], &[7, 100]),
        Request::get("/items"),
    ]
}

fn large_requests() -> Vec<Request> {
    vec![
        Request::get("/status/418"),
        Request::new("PUT", "/stored/chunks").chunked(&[b'x'; 30_000], &[1000, 7, 9000]),
        Request::get("/chunked/300000"),
    ]
}

#[test]
fn what_a_full_ring_loses_is_counted_on_connections_that_are_kept() {
    let load =
        Load { menu: small_requests(), manner: Manner::KeepAlive, each: 12_500, first: First::Clients };
    check(&load, &overrun(&load, SMALL_RING, |_, _| ()));
}

#[test]
fn what_a_full_ring_loses_is_counted_when_the_agent_ends_first() {
    let load = Load { menu: small_requests(), manner: Manner::KeepAlive, each: 3000, first: First::Agent };
    check(&load, &overrun(&load, SMALL_RING, |_, _| ()));
}

#[test]
fn what_a_full_ring_loses_is_counted_when_the_server_is_killed() {
    let load = Load { menu: small_requests(), manner: Manner::KeepAlive, each: 3000, first: First::Server };
    check(&load, &overrun(&load, SMALL_RING, |_, _| ()));
}

#[test]
fn what_a_full_ring_loses_is_counted_on_connections_of_one_request() {
    let load = Load { menu: small_requests(), manner: Manner::Fresh, each: 4000, first: First::Clients };
    check(&load, &overrun(&load, SMALL_RING, |_, _| ()));
}

#[test]
fn what_a_full_ring_loses_is_counted_with_large_chunked_bodies() {
    let load = Load { menu: large_requests(), manner: Manner::KeepAlive, each: 1000, first: First::Clients };
    check(&load, &overrun(&load, MEDIUM_RING, |_, _| ()));
}

/// A burst of requests that was lost is one loss to us: how many they were, nothing says.
#[test]
fn what_a_full_ring_leaves_of_pipelined_requests_is_true() {
    let menu = vec![Request::get("/status/418"), Request::get("/blob/1000"), Request::get("/items")];
    let load = Load { menu, manner: Manner::Pipelined(8), each: 2000, first: First::Clients };
    let overrun = overrun(&load, SMALL_RING, |_, _| ());
    check_rows(&overrun);
    // A burst of which nothing got through counts as one request.
    overrun.assert_accounts_for(overrun.sent() / 8..=overrun.sent());
}

#[test]
fn what_is_lost_while_the_agent_is_stopped_is_counted() {
    for manner in [Manner::KeepAlive, Manner::Fresh] {
        let load = Load { menu: small_requests(), manner, each: 8000, first: First::Clients };
        let overrun = overrun(&load, USUAL_RING, |agent, answered| {
            let reach = |count| {
                let reached = || (answered.load(Ordering::Relaxed) >= count).then_some(());
                eventually("so many requests are answered", PATIENCE, reached);
            };
            reach(5000);
            signal_to(agent.pid(), Signal::STOP);
            reach(5000 + WHILE_STOPPED);
            signal_to(agent.pid(), Signal::CONT);
        });
        check(&load, &overrun);
    }
}

/// What came of a load.
struct Overrun {
    truth: Totals,
    reported: Totals,
    stopped: Stopped,
    took: Duration,
}

/// Puts the load on a server and lets the agent end.
fn overrun(load: &Load, ring_bytes: &str, meanwhile: impl FnOnce(&Agent, &AtomicU64)) -> Overrun {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let agent = Agent::watching(app.pid()).arg("--ring-bytes").arg(ring_bytes).start();
    let (began, answered) = (Instant::now(), AtomicU64::new(0));
    let (exchanges, clients) = std::thread::scope(|scope| {
        let (app, answered) = (&app, &answered);
        let send = |number| scope.spawn(move || send(app, load, number, answered));
        let sending: Vec<_> = (0..CLIENTS).map(send).collect();
        meanwhile(&agent, answered);
        let sent = sending.into_iter().map(|client| client.join().expect("a client finishes"));
        let (exchanges, clients): (Vec<_>, Vec<_>) = sent.unzip();
        (exchanges.concat(), clients)
    });
    let took = began.elapsed();
    let stopped = match load.first {
        First::Clients => {
            drop(clients);
            let_pass(Duration::from_millis(300)); // the server sees their ends
            agent.stop()
        }
        First::Agent => agent.stop(),
        First::Server => {
            app.kill();
            agent.wait()
        }
    };
    Overrun { truth: Totals::of(&exchanges), reported: stopped.totals(), stopped, took }
}

/// What one client sent; and the client, whose connection may still be open.
fn send(app: &App, load: &Load, number: usize, answered: &AtomicU64) -> (Vec<Exchange>, Client) {
    let mut client = app.client();
    let mut exchanges = Vec::new();
    let mut menu = load.menu.iter().cycle().skip(number);
    let mut next = || menu.next().expect("a menu has something to offer");
    for _ in 0..load.each {
        match load.manner {
            Manner::KeepAlive => exchanges.push(client.send(next()).exchange),
            Manner::Fresh => exchanges.push(client.send_fresh(next()).exchange),
            Manner::Pipelined(count) => {
                let requests: Vec<_> = (0..count).map(|_| next().clone()).collect();
                exchanges.extend(client.pipeline(&requests).into_iter().map(|reply| reply.exchange));
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    (exchanges, client)
}

/// The rows are true, and with the losses they are all that was sent.
fn check(load: &Load, overrun: &Overrun) {
    check_rows(overrun);
    let sent = (load.each * CLIENTS) as u64;
    assert_eq!(overrun.sent(), sent);
    overrun.assert_accounts_for(sent..=sent);
}

/// The ring was overrun, much got through all the same, and all of that is true.
fn check_rows(overrun: &Overrun) {
    println!("{}", overrun.account());
    let given_up = overrun.stopped.given_up();
    assert!(given_up.get("ring_full") > 0, "nothing was lost: {given_up}");
    assert!(overrun.reported.count() * 100 >= overrun.sent() * SIZEABLE, "{}", overrun.account());
    for (key, reported) in &overrun.reported.0 {
        let truth = overrun.truth.0.get(key).unwrap_or_else(|| panic!("{key} was never sent"));
        assert!(reported.count <= truth.count, "{key}: sent {}, reported {}", truth.count, reported.count);
        check_sizes(&key.to_string(), truth, reported);
    }
}

/// Sizes may be unknown where they could not be seen, and are the true one otherwise.
fn check_sizes(key: &str, truth: &Row, reported: &Row) {
    let directions = [
        (&truth.request_sizes, truth.request_size_sum, &reported.request_sizes, reported.request_size_sum),
        (
            &truth.response_sizes,
            truth.response_size_sum,
            &reported.response_sizes,
            reported.response_size_sum,
        ),
    ];
    for (truth, truth_sum, reported, sum) in directions {
        let known: u64 = reported.values().sum();
        let size = truth_sum.checked_div(truth.values().sum()).unwrap_or(0);
        assert!(
            reported.keys().all(|bin| truth.contains_key(bin)),
            "{key}: {reported:?} instead of {truth:?}"
        );
        assert_eq!(sum, known * size, "{key}: {known} sizes of {size}");
    }
}

impl Overrun {
    fn sent(&self) -> u64 {
        self.truth.count()
    }

    fn assert_accounts_for(&self, sent: RangeInclusive<u64>) {
        let ledger = self.stopped.ledger();
        let lost = ledger.get("lost_gap") + ledger.get("lost_ring_full");
        assert!(lost > 0, "{}", self.account());
        assert_eq!(ledger.get("reported"), self.reported.count(), "{}", self.account());
        assert!(sent.contains(&ledger.seen()), "{sent:?} expected\n{}", self.account());
    }

    /// For people.
    fn account(&self) -> String {
        let (sent, ledger) = (self.sent(), self.stopped.ledger());
        let unaccounted = sent.cast_signed() - ledger.seen().cast_signed();
        format!(
            "{sent} sent in {:?}, {} in no account\n  ledger: {ledger}\n  tap: {}, given up: {}",
            self.took,
            unaccounted,
            self.stopped.tap(),
            self.stopped.given_up()
        )
    }
}
