//! `--port`: whoever listens there, now and after a restart; and nothing else that it serves.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use tests::agent::Agent;
use tests::client::{Address, Client, Exchange, Request};
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::process::{ProcessGroup, ending_with_us};
use tests::totals::{Totals, assert_same};

/// Serves the same two paths on every port it is given.
const SERVER: &str = r#"
import http.server, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

servers = [http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler) for port in sys.argv[1:]]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
"#;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn port_is_watched_across_restarts_and_other_ports_are_not() {
    let _machine = machine::in_company();
    let hub = FakeHub::start();
    let [watched, other] = free_ports();
    let server = serve([watched, other]);
    let agent = Agent::watching_port(watched).reporting_to(&hub).start();
    let mut exchanges = get(watched, 5);
    get(other, 3);
    drop(server);
    eventually("the agent notices that the server is gone", PATIENCE, || {
        lines(&agent, "target is gone").then_some(())
    });

    let _server = serve([watched, other]);
    eventually("the agent watches the new server", PATIENCE, || {
        let watching = agent.log().iter().filter(|line| line.message() == Some("watching")).count();
        (watching == 2).then_some(())
    });
    exchanges.extend(get(watched, 7));
    get(other, 3);
    let stopped = agent.stop();
    assert_same(&Totals::of(&exchanges).untimed(|_| true), &hub.totals().untimed(|_| true));
    let ledger = stopped.ledger();
    assert_eq!((ledger.get("reported"), ledger.seen()), (12, 12), "{ledger}");
}

fn lines(agent: &Agent, message: &str) -> bool {
    agent.log().iter().any(|line| line.message() == Some(message))
}

fn get(port: u16, times: u32) -> Vec<Exchange> {
    let mut client = Client::of(&address(port));
    (0..times).map(|_| client.send(&Request::get("/hello")).exchange).collect()
}

fn serve(ports: [u16; 2]) -> ProcessGroup {
    let mut command = ending_with_us("python3");
    command.args(["-c", SERVER]).args(ports.map(|port| port.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let server = ProcessGroup::of(command.spawn().expect("python3 can be started"));
    for port in ports {
        eventually("the server listens", PATIENCE, || {
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok().map(drop)
        });
    }
    server
}

fn free_ports() -> [u16; 2] {
    let listeners = [0, 0].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a listener has an address").port())
}

fn address(port: u16) -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
