//! Very many connections, at once and one after the other, and some that mean no good.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tests::agent::Agent;
use tests::client::{Address, Client, Exchange, Request};
use tests::crowd::Crowd;
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::origin::Origin;
use tests::process::{file_descriptors, map_bytes};
use tests::totals::{Totals, assert_same};
use tests::wire::Wire;

const MEGABYTE: u64 = 1_000_000;
/// What the agent may take, whatever is open.
const RESIDENT_BYTES: u64 = 64 * MEGABYTE;
/// What the maps in the kernel may take, and do from the start: none of them grows. The ring buffer is 8 MiB of it.
const MAP_BYTES: u64 = 32 * MEGABYTE;
const PATIENCE: Duration = Duration::from_secs(60);

/// Workers with a listener each, so that the kernel spreads the connections; a process may have 20,000 descriptors
/// where the hard limit is low.
pub(crate) const NGINX: &str = "
daemon off;
worker_processes 4;
worker_rlimit_nofile 16384;
user root;
pid {{dir}}/nginx.pid;
error_log {{dir}}/error.log warn;
events { worker_connections 16000; }
http {
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    client_header_timeout 600s;
    client_body_timeout 600s;
    client_header_buffer_size 1k;
    large_client_header_buffers 8 64k;
    client_max_body_size 0;
    client_body_temp_path {{dir}}/body;
    proxy_temp_path {{dir}}/proxy;
    fastcgi_temp_path {{dir}}/fastcgi;
    scgi_temp_path {{dir}}/scgi;
    uwsgi_temp_path {{dir}}/uwsgi;
    server {
        listen 0.0.0.0:{{port}} reuseport backlog=4096;
        location / { return 200 'ok'; }
    }
}
";

#[test]
fn twenty_thousand_open_connections_are_counted_and_fit() {
    const CROWDS: usize = 4;
    const EACH: usize = 5000;
    let _machine = machine::in_company();
    let (origin, hub) = (Origin::nginx(NGINX), FakeHub::start());
    let agent = Agent::watching(origin.pid()).reporting_to(&hub).start();
    let mut crowds: Vec<_> = (0..CROWDS).map(|_| Crowd::open(origin.address(), EACH)).collect();
    let mut hostile = Hostile::against(origin.address());
    crowds.iter_mut().for_each(Crowd::ask_again);
    let memory = agent.resident_bytes();
    hostile.go_on();
    crowds.into_iter().for_each(Crowd::leave);
    let hostile = hostile.leave();
    let sent = (2 * CROWDS * EACH) as u64;
    eventually("the agent has seen it all", PATIENCE, || {
        agent.latest_ledger().filter(|ledger| ledger.get("reported") + ledger.get("lost") >= sent + hostile)
    });
    let memory = memory.max(agent.resident_bytes());
    let stopped = agent.stop();
    let ledger = stopped.ledger();
    println!(
        "{sent} sent over {} connections, {hostile} hostile; {memory} bytes resident; {ledger}",
        sent / 2
    );
    let answered = (hub.counted("GET", "/crowd", 200), hub.counted("POST", "/hostile", 200));
    assert_eq!(answered, (sent, Hostile::ANSWERED), "{ledger}");
    assert_eq!(ledger.seen(), sent + hostile, "{hostile} hostile requests: {ledger}");
    assert!(memory < RESIDENT_BYTES, "{memory} bytes resident");
}

#[test]
fn two_hundred_thousand_short_connections_are_counted_and_leave_nothing_behind() {
    const CLIENTS: u8 = 4;
    const EACH: usize = 50_000;
    const GROWTH: u64 = 4 * MEGABYTE;
    let _machine = machine::in_company();
    let (origin, hub) = (Origin::nginx(NGINX), FakeHub::start());
    let agent = Agent::watching(origin.pid()).reporting_to(&hub).start();
    // Addresses of their own, so that none runs out of ports.
    let address = |client| SocketAddr::from((Ipv4Addr::new(127, 0, 1, client), origin.port()));
    let send = |client: u8, count: usize| {
        let client = Client::of(&Address::Tcp(address(client)));
        (0..count).map(|_| client.send_fresh(&Request::get("/short")).exchange).collect::<Vec<_>>()
    };
    let all = |count: usize| -> Vec<Exchange> {
        std::thread::scope(|scope| {
            let clients: Vec<_> =
                (1..=CLIENTS).map(|client| scope.spawn(move || send(client, count))).collect();
            clients.into_iter().flat_map(|client| client.join().expect("a client finishes")).collect()
        })
    };
    // A quarter of them brings everything to its usual size.
    let mut exchanges = all(EACH / 4);
    let before = (agent.resident_bytes(), file_descriptors(agent.pid()));
    exchanges.extend(all(EACH - EACH / 4));
    let after = (agent.resident_bytes(), file_descriptors(agent.pid()));
    let maps = map_bytes(agent.pid());
    let stopped = agent.stop();
    let (sent, ledger) = (exchanges.len() as u64, stopped.ledger());
    println!("{sent} sent; resident bytes and descriptors {before:?}, then {after:?}; maps {maps}; {ledger}");
    assert_eq!(ledger.seen(), sent, "{ledger}\n{}", stopped.tap());
    if ledger.get("lost") == 0 {
        assert_same(&Totals::of(&exchanges).untimed(|_| true), &hub.totals().untimed(|_| true));
    }
    assert!(after.0 < before.0 + GROWTH, "{before:?}, then {after:?}");
    assert_eq!(after.1, before.1, "file descriptors");
    assert!(maps < MAP_BYTES, "{maps} bytes of maps");
}

/// Connections that ask for more than they give.
struct Hostile {
    /// The beginning of a head, and never its end.
    half_heads: Vec<Wire>,
    /// One field after the other.
    endless_head: Wire,
    /// A chunk size whose extension does not end.
    endless_chunk_line: Wire,
    /// Trailers, as the last.
    endless_trailers: Wire,
    bombs: u64,
}

const HALF_HEADS: usize = 500;

impl Hostile {
    /// Those whose heads the server takes, and answers before their bodies end.
    const ANSWERED: u64 = 2;

    fn against(address: SocketAddr) -> Self {
        let open = |bytes: &str| {
            let mut wire = Wire::open(address);
            wire.send(bytes);
            wire
        };
        let chunked = "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        // Heads of thousands of fields, which the server takes or not.
        let bombs = 50;
        for _ in 0..bombs {
            let fields: String = (0..4000).map(|number| format!("a{number}: b\r\n")).collect();
            let mut wire = Wire::open(address);
            wire.try_send(format!("GET /hostile HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n"));
            wire.read_to_end();
        }
        Self {
            half_heads: (0..HALF_HEADS).map(|_| open("GET /hostile HTTP/1.1\r\nHost: a\r\nX-Half")).collect(),
            endless_head: open("GET /hostile HTTP/1.1\r\nHost: a\r\n"),
            endless_chunk_line: open(&format!("{chunked}5;")),
            endless_trailers: open(&format!("{chunked}0\r\n")),
            bombs,
        }
    }

    fn go_on(&mut self) {
        for _ in 0..100 {
            self.endless_head.try_send("X-Endless: ".to_owned() + &"a".repeat(8000) + "\r\n");
            self.endless_chunk_line.try_send("x".repeat(8000));
            self.endless_trailers.try_send("X-Endless: ".to_owned() + &"a".repeat(8000) + "\r\n");
        }
        self.half_heads.iter_mut().for_each(|wire| wire.send("-and-half"));
    }

    /// How many requests all that was.
    fn leave(self) -> u64 {
        self.half_heads.len() as u64 + self.bombs + 3
    }
}
