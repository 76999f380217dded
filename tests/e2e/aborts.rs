//! Connections that end before their time, and bytes that are not what they look like.
//!
//! Each step is a connection of its own, and its request comes from a consumer of its own, so that its row can be
//! told from the others'. What a step makes of it is exact, but for one thing: how much of a response a real server
//! wrote before it noticed that nobody reads, only the server knows. It is at least what the client got, and at most
//! what was announced; `scripted-server` says how much it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::Address;
use tests::eventually::{eventually, let_pass};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::origin::Origin;
use tests::scripted::{Answer, FIELD};
use tests::totals::{Key, Totals};
use tests::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(20);

/// What must come of a step.
#[derive(Debug)]
enum Fate {
    Row {
        method: &'static str,
        route: &'static str,
        status: u16,
        request: Size,
        response: Size,
    },
    /// In no row, for this cause.
    Lost(&'static str),
    /// No request.
    Nothing,
}

/// Bytes; `None` is unknown.
type Size = Option<RangeInclusive<u64>>;

fn exactly(size: u64) -> Size {
    Some(size..=size)
}

/// The agent, what it watches, and what must come of all steps so far.
struct Trial {
    address: SocketAddr,
    agent: Agent,
    hub: FakeHub,
    fates: Vec<Fate>,
}

impl Trial {
    fn of(pid: u32, address: SocketAddr) -> Self {
        let hub = FakeHub::start();
        let agent = Agent::watching(pid).reporting_to(&hub).consumer_header("X-Consumer-Id").start();
        Self { address, agent, hub, fates: Vec::new() }
    }

    /// A connection, on which `act` does what it does. It is given a head that lacks its last empty line.
    fn step(&mut self, request_line: &str, act: impl FnOnce(Wire, String) -> Fate) {
        let head = format!("{request_line}\r\nHost: a\r\nX-Consumer-Id: {}\r\n", self.fates.len());
        let fate = act(Wire::open(self.address), head);
        self.fates.push(fate);
    }

    /// Everything came of the steps that must, and nothing else.
    fn check(self) {
        let Self { agent, hub, fates, .. } = self;
        let mut lost: BTreeMap<&str, u64> = BTreeMap::new();
        let mut rows = 0;
        for fate in &fates {
            match fate {
                Fate::Row { .. } => rows += 1,
                Fate::Lost(cause) => *lost.entry(cause).or_default() += 1,
                Fate::Nothing => {}
            }
        }
        let due = rows + lost.values().sum::<u64>();
        eventually(&format!("the server and the agent have done with {fates:#?}"), PATIENCE, || {
            let ledger = agent.latest_ledger()?;
            (ledger.get("reported") + ledger.get("lost") >= due).then_some(())
        });
        let stopped = agent.stop();
        let ledger = stopped.ledger();
        let account =
            format!("{rows} rows and {lost:?} expected of {fates:#?}\n{ledger}\n{:#?}", hub.totals());
        let totals = hub.totals();
        for (number, fate) in fates.iter().enumerate() {
            check_row(number, fate, &totals, &account);
        }
        assert_eq!(totals.count(), rows, "{account}");
        assert_eq!(ledger.get("reported"), rows, "{account}");
        assert_eq!(ledger.get("lost"), lost.values().sum::<u64>(), "{account}");
        for (cause, count) in lost {
            assert_eq!(ledger.get(cause), count, "{cause}: {account}");
        }
    }
}

fn check_row(number: usize, fate: &Fate, totals: &Totals, account: &str) {
    let Fate::Row { method, route, status, request, response } = fate else { return };
    let key = Key {
        route: (*route).to_owned(),
        method: (*method).to_owned(),
        status: *status,
        consumer: Some(number.to_string()),
    };
    let row = totals.0.get(&key).unwrap_or_else(|| panic!("step {number}: no row {key}\n{account}"));
    assert_eq!(row.count, 1, "step {number}\n{account}");
    let sizes = [
        ("request", request, row.request_size_sum, row.request_sizes.len()),
        ("response", response, row.response_size_sum, row.response_sizes.len()),
    ];
    for (what, size, sum, known) in sizes {
        let right = match size {
            None => known == 0,
            Some(range) => known == 1 && range.contains(&sum),
        };
        assert!(right, "step {number}: {what} size is {sum}, not {size:?}\n{account}");
    }
}

/// What a server of the common API offers for being left early.
struct Offer {
    server: Server,
    /// Answers after a while; `None` where it cannot.
    slow: Option<&'static str>,
    /// Writes much, and says how much before; and its route.
    stream: (&'static str, &'static str, u64),
    /// Takes a body, and its route.
    upload: (&'static str, &'static str, &'static str),
}

#[test]
fn clients_of_gunicorn_go_away() {
    check_server(&Offer {
        server: Server::Ninja,
        slow: Some("/slow/300"),
        stream: ("/blob/50000000", "/blob/{id}", 50_000_000),
        upload: ("POST", "/upload", "/upload"),
    });
}

#[test]
fn clients_of_uvicorn_go_away() {
    check_server(&Offer {
        server: Server::FastApi,
        slow: Some("/slow/300"),
        stream: ("/sized-stream/50000000", "/sized-stream/{id}", 50_000_000),
        upload: ("POST", "/upload", "/upload"),
    });
}

#[test]
fn clients_of_node_go_away() {
    check_server(&Offer {
        server: Server::Express,
        slow: Some("/slow/300"),
        stream: ("/sized-stream/50000000", "/sized-stream/{id}", 50_000_000),
        upload: ("POST", "/upload", "/upload"),
    });
}

#[test]
fn clients_of_nginx_go_away() {
    check_server(&Offer {
        server: Server::Nginx,
        slow: None,
        stream: ("/sparse", "/sparse", 1 << 30),
        upload: ("PUT", "/stored/aborted", "/stored/aborted"),
    });
}

fn check_server(offer: &Offer) {
    let _machine = machine::in_company();
    let app = App::start(offer.server);
    let Address::Tcp(address) = *app.address() else { panic!("it listens on TCP") };
    let mut trial = Trial::of(app.pid(), address);
    before_the_request_is_there(&mut trial);
    if let Some(path) = offer.slow {
        while_the_server_thinks(&mut trial, path);
    }
    in_the_middle_of_the_request_body(&mut trial, offer.upload);
    in_the_middle_of_the_response(&mut trial, offer.stream);
    after_the_response(&mut trial);
    trial.check();
}

fn before_the_request_is_there(trial: &mut Trial) {
    trial.step("GET /items HTTP/1.1", |wire, _| {
        wire.close();
        Fate::Nothing
    });
    trial.step("GET /items HTTP/1.1", |wire, _| {
        wire.reset();
        Fate::Nothing
    });
    trial.step("GET /items HTTP/1.1", |mut wire, head| {
        wire.send(head);
        wire.finish();
        wire.read_to_end();
        Fate::Lost("incomplete_head")
    });
    trial.step("GET /items HTTP/1.1", |mut wire, head| {
        wire.send(head);
        // Read before it is gone.
        let_pass(Duration::from_millis(100));
        wire.reset();
        Fate::Lost("incomplete_head")
    });
}

fn while_the_server_thinks(trial: &mut Trial, path: &str) {
    trial.step(&format!("GET {path} HTTP/1.1"), |mut wire, head| {
        wire.send(head + "\r\n");
        let_pass(Duration::from_millis(100));
        wire.reset();
        Fate::Lost("aborted_before_response")
    });
    // Some servers answer a client that sends no more, some do not.
    trial.step(&format!("GET {path} HTTP/1.1"), |mut wire, head| {
        wire.send(head + "Connection: close\r\n\r\n");
        wire.finish();
        fate_by_answer(&wire.read_to_end(), "GET", "/slow/{id}", None)
    });
}

fn in_the_middle_of_the_request_body(
    trial: &mut Trial,
    (method, path, route): (&'static str, &str, &'static str),
) {
    const DECLARED: u64 = 100_000;
    const SENT: u64 = 30_000;
    let head_end = format!("Connection: close\r\nContent-Length: {DECLARED}\r\n\r\n");
    let body = "x".repeat(usize::try_from(SENT).expect("a small number"));
    trial.step(&format!("{method} {path} HTTP/1.1"), |mut wire, head| {
        wire.send(head + &head_end + &body);
        wire.finish();
        fate_by_answer(&wire.read_to_end(), method, route, exactly(SENT))
    });
    trial.step(&format!("{method} {path} HTTP/1.1"), |mut wire, head| {
        wire.send(head + &head_end + &body);
        let_pass(Duration::from_millis(100));
        wire.reset();
        Fate::Lost("aborted_before_response")
    });
}

fn in_the_middle_of_the_response(trial: &mut Trial, (path, route, length): (&str, &'static str, u64)) {
    const READ: u64 = 100_000;
    for reset in [false, true] {
        trial.step(&format!("GET {path} HTTP/1.1"), |mut wire, head| {
            wire.send(head + "\r\n");
            let got = wire.read(usize::try_from(READ).expect("a small number"));
            if reset {
                wire.reset();
            } else {
                wire.close();
            }
            let got = READ - head_length(&got);
            Fate::Row { method: "GET", route, status: 200, request: None, response: Some(got..=length - 1) }
        });
    }
}

fn after_the_response(trial: &mut Trial) {
    for reset in [false, true] {
        trial.step("GET /items HTTP/1.1", |mut wire, head| {
            wire.send(head + "\r\n");
            let length = read_answer(&mut wire);
            if reset {
                wire.reset();
            } else {
                wire.close();
            }
            let response = exactly(length);
            Fate::Row { method: "GET", route: "/items", status: 200, request: None, response }
        });
    }
}

/// By what the client saw until the server closed the connection.
fn fate_by_answer(answer: &[u8], method: &'static str, route: &'static str, request: Size) -> Fate {
    if answer.is_empty() {
        return Fate::Lost("aborted_before_response");
    }
    let text = String::from_utf8_lossy(answer);
    let status = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding");
    let length = if chunked { chunked_length(body) } else { body.len() as u64 };
    Fate::Row { method, route, status, request, response: exactly(length) }
}

/// Data bytes of a chunked body.
fn chunked_length(body: &str) -> u64 {
    let (size, rest) = body.split_once("\r\n").unwrap_or_else(|| panic!("{body}"));
    let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{body}"));
    if size == 0 { 0 } else { size as u64 + chunked_length(&rest[size + 2..]) }
}

fn head_length(bytes: &[u8]) -> u64 {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    end as u64 + 4
}

/// Reads a response that says where it ends; the length of its body.
fn read_answer(wire: &mut Wire) -> u64 {
    let read_until = |wire: &mut Wire, end: &str| {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push(char::from(wire.read(1)[0]));
        }
        text
    };
    let head = read_until(wire, "\r\n\r\n").to_ascii_lowercase();
    let Some(field) = head.lines().find_map(|line| line.strip_prefix("content-length:")) else {
        return chunked_length(&read_until(wire, "0\r\n\r\n"));
    };
    let length = field.trim().parse().expect("a number");
    wire.read(length);
    length as u64
}

#[test]
fn a_server_that_gives_up_is_counted_with_what_it_sent() {
    let _machine = machine::in_company();
    let origin = Origin::scripted();
    let mut trial = Trial::of(origin.pid(), origin.address());
    let announced = |length: u64| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let row = |response| Fate::Row {
        method: "GET",
        route: "/a",
        status: 200,
        request: None,
        response: exactly(response),
    };
    let cases = [
        (Answer::new().close(), Fate::Lost("aborted_before_response")),
        (Answer::new().pause(20).reset(), Fate::Lost("aborted_before_response")),
        (Answer::new().send("HTTP/1.1 20").close(), Fate::Lost("aborted_before_response")),
        (Answer::new().send("HTTP/1.1 200 OK\r\nContent-").close(), Fate::Lost("aborted_before_response")),
        (Answer::new().send("HTTP/1.1 100 Continue\r\n\r\n").close(), Fate::Lost("aborted_before_response")),
        (Answer::new().send(&announced(9)).close(), row(0)),
        (Answer::new().send(&announced(9000)).fill(4000).close(), row(4000)),
        (Answer::new().send(&announced(9000)).fill(4000).pause(20).fill(1).reset(), row(4001)),
        (Answer::new().send(chunked).send("5\r\nhello\r\n").close(), row(5)),
        (Answer::new().send(chunked).send("5\r\nhello\r\n9\r\nfour").close(), row(9)),
        (Answer::new().send(chunked).send("5\r\nhello\r\n0\r\n").reset(), row(5)),
        (Answer::new().send("HTTP/1.1 200 OK\r\n\r\n").fill(70_000).close(), row(70_000)),
        (Answer::new().send("HTTP/1.0 200 OK\r\n\r\n").fill(7).close(), row(7)),
    ];
    for (answer, fate) in cases {
        trial.step("GET /a HTTP/1.1", |mut wire, head| {
            wire.send(format!("{head}{FIELD}: {answer}\r\n\r\n"));
            wire.read_to_end();
            fate
        });
    }
    trial.check();
}

#[test]
fn what_was_sent_to_a_client_that_left_is_what_the_server_says() {
    const LENGTH: usize = 20_000_000;
    let _machine = machine::in_company();
    let origin = Origin::scripted();
    let mut trial = Trial::of(origin.pid(), origin.address());
    let status = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    for (number, path) in ["/one", "/two", "/three"].into_iter().enumerate() {
        let answer = Answer::new().send(&status).fill(LENGTH);
        trial.step(&format!("GET {path} HTTP/1.1"), |mut wire, head| {
            wire.send(format!("{head}{FIELD}: {answer}\r\n\r\n"));
            wire.read(1000 + 300_000 * number);
            wire.reset();
            let sent = eventually("the server notices", PATIENCE, || {
                let log = origin.log();
                let line = log
                    .lines()
                    .find_map(|line| line.strip_prefix(path)?.split(' ').nth(1)?.parse::<u64>().ok());
                line.map(|sent| sent - status.len() as u64)
            });
            Fate::Row { method: "GET", route: path, status: 200, request: None, response: exactly(sent) }
        });
    }
    trial.check();
}

#[test]
fn bytes_that_look_like_http_and_are_none_count_as_what_they_are() {
    const EVIL: &str = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\nHTTP/1.1 299 Evil\r\nContent-Length: 0\r\n\r\n";
    let _machine = machine::in_company();
    let origin = Origin::scripted();
    let mut trial = Trial::of(origin.pid(), origin.address());
    let length = EVIL.len() as u64;
    let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    // Bodies, each in a call of its own that begins like a message.
    trial.step("POST /a HTTP/1.1", |mut wire, head| {
        let answer = Answer::new().send(&body).pause(20).send(EVIL);
        wire.send(format!("{head}{FIELD}: {answer}\r\nContent-Length: {length}\r\n\r\n"));
        let_pass(Duration::from_millis(50));
        wire.send(EVIL);
        wire.read(answer.length());
        Fate::Row {
            method: "POST",
            route: "/a",
            status: 200,
            request: exactly(length),
            response: exactly(length),
        }
    });
    trial.step("POST /b HTTP/1.1", |mut wire, head| {
        let answer = Answer::new()
            .send("HTTP/1.1 100 Continue\r\n\r\n")
            .take_body()
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .pause(20)
            .send(&format!("{length:x}\r\n"))
            .pause(20)
            .send(EVIL)
            .pause(20)
            .send("\r\n0\r\n\r\n");
        wire.send(format!(
            "{head}{FIELD}: {answer}\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        wire.read(25);
        for part in [&format!("{length:X};GET=/\r\n"), EVIL, "\r\n0\r\n", "X: GET / HTTP/1.1\r\n", "\r\n"] {
            wire.send(part);
            let_pass(Duration::from_millis(20));
        }
        wire.read(answer.length() - 25);
        Fate::Row {
            method: "POST",
            route: "/b",
            status: 200,
            request: exactly(length),
            response: exactly(length),
        }
    });
    // No HTTP any more. What comes in comes out again, turn by turn.
    let tunnels = [
        (
            "GET /socket HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("CONNECT example.com:443 HTTP/1.1", "", "HTTP/1.1 200 Connected\r\n\r\n"),
    ];
    for (line, fields, accepted) in tunnels {
        trial.step(line, |mut wire, head| {
            let answer = Answer::new().send(accepted).echo();
            wire.send(format!("{head}{fields}{FIELD}: {answer}\r\n\r\n"));
            wire.read(accepted.len());
            for frame in [EVIL.as_bytes(), b"\x81\x05hello", b"\x00\xff\x16\x03\x01", EVIL.as_bytes()] {
                wire.send(frame);
                wire.read(frame.len());
            }
            wire.finish();
            wire.read_to_end();
            Fate::Lost("upgraded")
        });
    }
    trial.check();
}

#[test]
fn a_refused_tunnel_leaves_http() {
    let _machine = machine::in_company();
    let origin = Origin::scripted();
    let mut trial = Trial::of(origin.pid(), origin.address());
    trial.step("CONNECT example.com:443 HTTP/1.1", |mut wire, head| {
        let refusal = Answer::new().send("HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n");
        wire.send(format!("{head}{FIELD}: {refusal}\r\n\r\n"));
        wire.read(refusal.length());
        wire.send("GET /after HTTP/1.1\r\nHost: a\r\nX-Consumer-Id: 1\r\n\r\n");
        wire.read(Answer::plain().length());
        Fate::Lost("excluded")
    });
    // The second request of that connection.
    trial.fates.push(Fate::Row {
        method: "GET",
        route: "/after",
        status: 200,
        request: None,
        response: exactly(2),
    });
    trial.check();
}
