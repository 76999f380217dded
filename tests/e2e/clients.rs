//! Who is at the other end of a connection, as the kernel's socket has it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use tests::agent::{Agent, CLIENT_ID};
use tests::app::{App, Server};
use tests::client::{Address, Request};
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::process::{ProcessGroup, ending_with_us};
use tests::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(20);

/// Listens on any free port of an address, for IPv4 too where that is `::`, and writes down which it is.
const SERVER: &str = r#"
import http.server, os, socket, sys

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

server = Server((sys.argv[1], 0), Handler)
with open(sys.argv[2] + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(sys.argv[2] + ".new", sys.argv[2])
server.serve_forever()
"#;

#[test]
fn a_server_of_ipv4_knows_its_clients() {
    check("127.0.0.1", &["127.0.0.1"]);
}

/// Of its two connections the one over IPv4 has mapped addresses, `::ffff:127.0.0.1`.
#[test]
fn a_server_of_both_kinds_knows_its_clients() {
    check("::", &["127.0.0.1", "::1"]);
}

/// A server that listens on `bind` is asked over each of these addresses, which is where the client is, too.
fn check(bind: &str, clients: &[&str]) {
    let _machine = machine::in_company();
    let (hub, dir) = (FakeHub::start(), Scratch::new("clients"));
    let port = dir.join("port");
    let mut server = ending_with_us("python3");
    server.args(["-c", SERVER, bind]).arg(&port).stdin(Stdio::null()).process_group(0);
    let server = ProcessGroup::of(server.spawn().expect("python3 can be started"));
    let port: u16 = eventually("the server listens", PATIENCE, || fs::read_to_string(&port).ok())
        .parse()
        .expect("the server writes a port");

    let file = dir.join("agent.toml");
    fs::write(&file, configuration(&hub, server.pid(), BY_ADDRESS))
        .expect("a fresh directory can be written to");
    let agent = Agent::configured_by(&file).start();
    for client in clients {
        let address: IpAddr = client.parse().expect("it is an address");
        (0..3).for_each(|_| get(SocketAddr::new(address, port)));
    }
    agent.stop();
    let want = clients.iter().map(|client| ((*client).to_owned(), 3)).collect::<BTreeMap<String, u64>>();
    assert_eq!(by_consumer(&hub), want);
}

/// Nobody had to know until the file said so; the connection is older than that.
#[test]
fn clients_are_known_from_the_reload_on_that_asks_for_them() {
    let _machine = machine::in_company();
    let (hub, dir, app) = (FakeHub::start(), Scratch::new("clients-reload"), App::start(Server::FastApi));
    let file = dir.join("agent.toml");
    let write = |consumers| {
        fs::write(&file, configuration(&hub, app.pid(), consumers))
            .expect("a fresh directory can be written to");
    };
    assert!(matches!(app.address(), Address::Tcp(_)), "a Unix socket has no address");
    let (mut old, request) = (app.client(), Request::get("/items/3"));
    write("");
    let agent = Agent::configured_by(&file).start();
    let mut send = |times| (0..times).for_each(|_| assert_eq!(old.send(&request).exchange.status, 200));
    send(2);
    let so_far = |consumer: &str| by_consumer(&hub).get(consumer).copied().unwrap_or_default();
    // What is counted already is out of the way.
    hub.eventually("what was before is reported", |_| (so_far("") == 2).then_some(()));

    write(BY_ADDRESS);
    agent.reload();
    send(3);
    let mut fresh = app.client();
    assert_eq!(fresh.send(&request).exchange.status, 200);
    hub.eventually("the clients are reported", |_| (so_far("127.0.0.1") == 4).then_some(()));

    write("");
    agent.reload();
    send(1);
    agent.stop();
    let want = BTreeMap::from([(String::new(), 3), ("127.0.0.1".to_owned(), 4)]);
    assert_eq!(by_consumer(&hub), want);
}

const BY_ADDRESS: &str = "consumers = [{ address = \"peer\" }]\n";

fn configuration(hub: &FakeHub, pid: u32, consumers: &str) -> String {
    format!(
        "hub_url = \"{}\"\nsync_interval = \"200ms\"\nclient_id = \"{CLIENT_ID}\"\n[[target]]\npid = {pid}\n{consumers}",
        hub.url()
    )
}

/// Requests by who sent them; nobody is the empty text.
fn by_consumer(hub: &FakeHub) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for (key, row) in hub.totals().0 {
        *seen.entry(key.consumer.unwrap_or_default()).or_default() += row.count;
    }
    seen
}

fn get(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("the server answers and closes");
    assert!(response.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&response));
}
