//! Many requests on their way at once, and every legal way to answer them, over real sockets.

use std::fmt::Write as _;

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::{Client, Exchange, Request};
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::origin::Origin;
use tests::scripted::{Answer, FIELD};
use tests::totals::{Totals, assert_same};
use tests::wire::Wire;

const DEPTH: usize = 16;
const ROUNDS: usize = 20;

#[test]
fn node_sends_interim_responses_into_a_pipeline() {
    let _machine = machine::in_company();
    let (origin, hub) = (Origin::node("interim_app.js"), FakeHub::start());
    let agent = Agent::watching(origin.pid()).reporting_to(&hub).start();
    let menu = [
        Request::get("/interim/200"),
        Request::new("HEAD", "/whole/200"),
        Request::get("/plain/204"),
        Request::get("/interim/304"),
        Request::new("POST", "/interim/201").chunked(&[b'x'; 2000], &[1, 10, 500]),
        Request::new("HEAD", "/interim/200"),
        Request::get("/interim/204"),
        Request::new("PUT", "/whole/200").sized(b"GET /evil HTTP/1.1\r\n\r\n"),
        Request::get("/plain/304"),
    ];
    let exchanges = pipeline(&mut origin.client(), &menu);
    check(&exchanges, &hub, agent);
}

#[test]
fn nginx_answers_a_pipeline_of_everything() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Nginx), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let menu = [
        Request::new("PUT", "/stored/x").sized(&[b'x'; 70_000]).field("Expect", "100-continue"),
        Request::get("/blob/1000"),
        Request::new("HEAD", "/blob/300000"),
        Request::get("/blob/4096").field("If-None-Match", "*"),
        Request::new("DELETE", "/stored/x"),
        Request::get("/chunked/65536"),
        Request::get("/status/418"),
    ];
    let exchanges = pipeline(&mut app.client(), &menu);
    check(&exchanges, &hub, agent);
}

/// Batches drawn from a menu, so that everything comes before and after everything.
fn pipeline(client: &mut Client, menu: &[Request]) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    let mut next = menu.iter().cycle();
    for _ in 0..ROUNDS {
        let batch: Vec<_> = next.by_ref().take(DEPTH).cloned().collect();
        exchanges.extend(client.pipeline(&batch).into_iter().map(|reply| reply.exchange));
    }
    exchanges
}

#[test]
fn legal_answers_are_exact_in_one_write_each() {
    check_answers(|bytes| vec![Answer::new().send(bytes)]);
}

#[test]
fn legal_answers_are_exact_in_buffers_of_any_size() {
    check_answers(|bytes| (1..40).map(|each| Answer::new().send_vectored(each, bytes)).collect());
}

#[test]
fn legal_answers_are_exact_byte_by_byte() {
    check_answers(|bytes| vec![Answer::new().send_in_pieces(1, bytes)]);
}

#[test]
fn legal_answers_are_exact_cut_at_every_byte() {
    check_answers(|bytes| {
        let cuts = 1..bytes.len();
        cuts.map(|cut| Answer::new().send(&bytes[..cut]).pause(1).send(&bytes[cut..])).collect()
    });
}

/// Every case in every form that `forms` makes of its answer, [`DEPTH`] requests at once.
fn check_answers(forms: impl Fn(&str) -> Vec<Answer>) {
    let _machine = machine::in_company();
    let (origin, hub) = (Origin::scripted(), FakeHub::start());
    let agent = Agent::watching(origin.pid()).reporting_to(&hub).start();
    let mut exchanges = Vec::new();
    let mut orders: Vec<(usize, Case, Answer)> = Vec::new();
    for case in CASES {
        orders.extend(forms(case.answer).into_iter().enumerate().map(|(form, answer)| (form, case, answer)));
    }
    // Not the forms of one case behind each other, but the cases of one form.
    orders.sort_by_key(|(form, ..)| *form);
    let mut wire = Wire::open(origin.address());
    for batch in orders.chunks(DEPTH) {
        let requests: Vec<_> = batch.iter().flat_map(|(_, case, answer)| case.request(answer)).collect();
        wire.send(&requests);
        let length = batch.iter().map(|(.., answer)| answer.length()).sum();
        wire.read(length);
        exchanges.extend(batch.iter().map(|(_, case, _)| case.exchange()));
    }
    wire.close();
    // What lasts until the connection closes needs one of its own.
    for answer in forms(UNTIL_CLOSE.answer) {
        let mut wire = Wire::open(origin.address());
        wire.send(CASES[0].request(&Answer::new().send(CASES[0].answer)));
        wire.send(UNTIL_CLOSE.request(&answer.close()));
        wire.read_to_end();
        exchanges.extend([CASES[0].exchange(), UNTIL_CLOSE.exchange()]);
    }
    check(&exchanges, &hub, agent);
}

fn check(exchanges: &[Exchange], hub: &FakeHub, agent: Agent) {
    let stopped = agent.stop();
    assert_same(&Totals::of(exchanges).untimed(|_| true), &hub.totals().untimed(|_| true));
    let (sent, ledger) = (exchanges.len() as u64, stopped.ledger());
    println!("{sent} sent; {ledger}");
    assert_eq!((ledger.get("reported"), ledger.seen()), (sent, sent), "{ledger}");
}

/// A request, a legal answer to it, and the row that the two make.
#[derive(Clone, Copy)]
struct Case {
    method: &'static str,
    path: &'static str,
    /// Fields and body.
    request: &'static str,
    request_size: Option<u64>,
    answer: &'static str,
    status: u16,
    response_size: u64,
}

impl Case {
    fn request(&self, answer: &Answer) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: a\r\n", self.method, self.path);
        let _ = write!(text, "{FIELD}: {answer}\r\n{}", self.request);
        text.into_bytes()
    }

    fn exchange(&self) -> Exchange {
        Exchange::known(self.method, self.path, self.status, self.request_size, self.response_size)
    }
}

const fn get(path: &'static str, answer: &'static str, status: u16, response_size: u64) -> Case {
    Case { method: "GET", path, request: "\r\n", request_size: None, answer, status, response_size }
}

const fn head(path: &'static str, answer: &'static str, status: u16) -> Case {
    Case { method: "HEAD", ..get(path, answer, status, 0) }
}

/// RFC 9112 and RFC 9110 allow all of these.
const CASES: [Case; 20] = [
    get("/plain", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, 5),
    get("/empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, 0),
    get(
        "/interims",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        200,
        2,
    ),
    get("/interim-none", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, 0),
    get("/unknown-interim", "HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 202 A\r\nContent-Length: 1\r\n\r\nx", 202, 1),
    get("/not-modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"1\"\r\n\r\n", 304, 0),
    get("/not-modified-chunked", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, 0),
    get("/reset-content", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", 205, 0),
    head("/head", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 200),
    head("/head-chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
    head("/head-bare", "HTTP/1.1 500 Oh\r\n\r\n", 500),
    get(
        "/chunks",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00a;x=\"1;2\"\r\n0123456789\r\n0\r\n\r\n",
        200,
        15,
    ),
    get(
        "/trailers",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\nA\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\nX-Sum: 0\r\nX-More: \
         HTTP/1.1 200 OK\r\n\r\n",
        200,
        10,
    ),
    get("/no-reason", "HTTP/1.1 200 \r\nContent-Length: \t3\t \r\n\r\nyes", 200, 3),
    get("/no-reason", "HTTP/1.1 410 \r\nContent-Length:3\r\n\r\nno!", 410, 3),
    get(
        "/looks-like",
        "HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\nHTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        200,
        38,
    ),
    get("/lists", "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nfour", 200, 4),
    get(
        "/both",
        "HTTP/1.1 200 OK\r\nContent-Length: 400\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        200,
        1,
    ),
    Case {
        method: "POST",
        request: "Content-Length: 27\r\n\r\nPOST /evil HTTP/1.1\r\nA: b\r\n",
        request_size: Some(27),
        ..get(
            "/posted",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n1",
            201,
            1,
        )
    },
    Case {
        method: "PATCH",
        request: "Transfer-Encoding: chunked\r\n\r\n1\r\n0\r\n5;a=b\r\n\r\n0\r\n\r\n0\r\nX: GET / HTTP/1.1\r\n\r\n",
        request_size: Some(6),
        ..get("/patched", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", 200, 1)
    },
];

const UNTIL_CLOSE: Case =
    get("/until-close", "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500 no\r\n\r\n0\r\n\r\n", 200, 24);
