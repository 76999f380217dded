//! Servers that use their sockets in every way but the usual one: what the tap has to see all the same.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use tests::agent::{Agent, LogLine, Stopped};
use tests::client::{Address, Client, Exchange, Request};
use tests::eventually::{eventually, let_pass};
use tests::machine;
use tests::process::{ProcessGroup, ending_with_us};
use tests::totals::{Totals, assert_same};

#[test]
fn bytes_that_were_peeked_at_count_once() {
    check("peek");
}

#[test]
fn bytes_that_the_kernel_throws_away_count_and_reads_of_nothing_do_not() {
    check("discard");
}

#[test]
fn calls_with_many_buffers_are_seen_whole() {
    check("vectors");
}

#[test]
fn partial_writes_count_what_they_wrote() {
    check("nonblocking");
}

#[test]
fn bodies_that_never_pass_through_the_process_have_their_length() {
    check("splice");
}

#[test]
fn writes_without_copying_count_once() {
    check("zerocopy");
}

#[test]
fn closing_one_of_several_descriptors_is_not_the_end() {
    check("duplicated");
}

#[test]
fn reading_and_writing_may_be_different_threads() {
    check("duplex");
}

#[test]
fn system_calls_of_32_bits_are_seen() {
    check("compat");
}

#[test]
fn connections_accepted_by_another_process_are_seen() {
    check("passed");
}

/// Lengths of bodies, both ways.
const SIZES: [usize; 9] = [1, 2, 3, 100, 4095, 10_000, 65_537, 300_000, 1_000_000];

/// Room for what the exchanges bring at once: that none is lost when the agent gets no processor for a while is the
/// subject of other tests.
const RING_BYTES: &str = "67108864";

/// On several connections at once, and on fresh ones.
fn check(way: &str) {
    let _machine = machine::in_company();
    let server = Sockets::start(way);
    let agent = Agent::watching(server.group.pid()).arg("--ring-bytes").arg(RING_BYTES).start();
    let exchanges = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| drive(&server))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client finishes")).collect::<Vec<_>>()
    });
    assert_reported(&exchanges, &agent.stop());
}

fn drive(server: &Sockets) -> Vec<Exchange> {
    let mut client = server.client();
    let mut exchanges = Vec::new();
    for size in SIZES {
        let body = vec![b'x'; size];
        let requests =
            [Request::get(&format!("/bytes/{size}")), Request::new("POST", "/upload").sized(&body)];
        for request in &requests {
            exchanges.push(client.send(request).exchange);
            exchanges.push(server.client().send(request).exchange);
        }
    }
    exchanges
}

#[test]
fn descriptor_that_is_given_away_while_a_call_waits_on_it_is_told_apart() {
    let _machine = machine::in_company();
    let server = Sockets::start("reused");
    let agent = Agent::watching(server.group.pid()).start();
    let mut exchanges = Vec::new();
    for round in 0..20 {
        let mut first = server.client();
        exchanges.push(first.send(&Request::get("/bytes/10")).exchange);
        let mut second = server.client();
        exchanges.push(second.send(&Request::get("/bytes/20")).exchange);
        // The thread that waits on the first connection wakes up, with a descriptor that is the second's: by the end
        // of the first, by bytes of it, or not at all.
        match round % 3 {
            0 => drop(first),
            1 => first.write(b"GET /bytes/40 HTTP/1.1\r\n\r\n").expect("the thread keeps it open"),
            _ => {}
        }
        let_pass(Duration::from_millis(20));
        exchanges.push(second.send(&Request::get("/bytes/30")).exchange);
        exchanges.push(second.send(&Request::new("POST", "/upload").sized(&[b'x'; 1000])).exchange);
    }
    assert_reported(&exchanges, &agent.stop());
}

#[test]
fn process_that_becomes_another_program_is_watched_on() {
    let _machine = machine::in_company();
    let server = Sockets::start("executing");
    let agent = Agent::watching(server.group.pid()).start();
    let mut client = server.client();
    let mut exchanges: Vec<Exchange> =
        (1..=10).map(|size| client.send(&Request::get(&format!("/bytes/{size}"))).exchange).collect();
    // Closed by becoming another program, before there is an answer.
    client.exchange(&Request::get("/bytes/0")).expect_err("nobody answers this one");
    let mut client = server.client();
    exchanges.push(client.send(&Request::get("/bytes/11")).exchange);
    drop(client);
    // No call closed that connection; the agent finds out when it looks for it.
    eventually("the agent misses the connection", Duration::from_secs(60), || {
        let ended = |line: &LogLine| line.field("aborted_before_response").is_some_and(|count| count == 1);
        agent.log().iter().any(ended).then_some(())
    });
    let stopped = agent.stop();
    assert_same(&truth(&exchanges), &stopped.totals().untimed(|_| true));
    let ledger = stopped.ledger();
    assert_eq!(ledger.seen(), exchanges.len() as u64 + 1, "{ledger}");
}

#[test]
fn servers_that_share_a_port_are_all_watched() {
    let _machine = machine::in_company();
    let server = Sockets::start("shared");
    let Address::Tcp(address) = &server.address else { unreachable!("it listens on a port") };
    let port = address.port();
    eventually("both processes listen", Duration::from_secs(10), || (listeners(port) == 2).then_some(()));
    let agent = Agent::watching_port(port).start();
    let exchanges: Vec<Exchange> =
        (0..50).map(|_| server.client().send(&Request::get("/bytes/100")).exchange).collect();
    assert_reported(&exchanges, &agent.stop());
}

/// Sockets that listen on a port of 127.0.0.1, as the kernel lists them: state 0A is listening
/// (include/net/tcp_states.h).
fn listeners(port: u16) -> usize {
    let sockets = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    sockets.lines().filter(|line| line.contains(&format!(" 0100007F:{port:04X} 00000000:0000 0A "))).count()
}

/// What goes through io_uring is not seen. It must not be taken for anything else, and it must not go unmentioned.
#[test]
fn io_uring_costs_the_exchanges_that_use_it_and_is_mentioned() {
    let _machine = machine::in_company();
    let server = Sockets::start("uring");
    let agent = Agent::watching(server.group.pid()).start();
    let mut exchanges = Vec::new();
    for _ in 0..10 {
        let mut client = server.client();
        for size in 1..=12 {
            exchanges.push(client.send(&Request::get(&format!("/bytes/{}", size * 100))).exchange);
        }
    }
    let stopped = agent.stop();
    let (ledger, reported) = (stopped.ledger(), stopped.totals());
    assert!(ledger.seen() <= exchanges.len() as u64, "{ledger}");
    assert!(ledger.get("reported") >= exchanges.len() as u64 / 12, "{ledger}");
    for (key, row) in &reported.0 {
        let true_row = truth(&exchanges).0.remove(key).unwrap_or_else(|| panic!("{key:?} was never sent"));
        assert!(row.count <= true_row.count, "{key:?} {row:?}");
    }
    let warned = |line: &LogLine| line.level() == Some("WARN") && line.text.contains("uses io_uring");
    assert!(stopped.log.iter().any(warned), "nothing in the log tells of io_uring");
}

fn truth(exchanges: &[Exchange]) -> Totals {
    Totals::of(exchanges).untimed(|_| true)
}

fn assert_reported(exchanges: &[Exchange], stopped: &Stopped) {
    assert_same(&truth(exchanges), &stopped.totals().untimed(|_| true));
    let ledger = stopped.ledger();
    assert_eq!(ledger.seen(), exchanges.len() as u64, "{ledger}");
    let given_up = stopped.given_up();
    assert!(given_up.0.is_empty(), "{given_up}");
}

/// `tests/e2e/apps/sockets.py`.
struct Sockets {
    group: ProcessGroup,
    address: Address,
}

impl Sockets {
    fn start(way: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        drop(listener);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/apps/sockets.py");
        let mut command = ending_with_us("python3");
        command.arg(script).arg(way).arg(address.port().to_string());
        let child = command.process_group(0).stdin(Stdio::null()).spawn().expect("python3 is installed");
        let mut server = Self { group: ProcessGroup::of(child), address: Address::Tcp(address) };
        eventually("the server answers", Duration::from_secs(20), || {
            assert!(!server.group.leader_has_exited(), "sockets.py {way} ended at once");
            server.client().exchange(&Request::get("/bytes/1")).ok()
        });
        server
    }

    fn client(&self) -> Client {
        Client::of(&self.address)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.group.kill();
    }
}
