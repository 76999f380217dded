//! What `check` says of a target: what it runs, who its clients are, and what will not be seen of it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::{Address, Request};
use tests::fake_hub::FakeHub;
use tests::machine;

use super::errors::attempt::Attempt;

/// How a client that knows that the server speaks HTTP/2 begins (RFC 9113 section 3.4), with an empty SETTINGS frame.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn port_of(app: &App) -> u16 {
    let Address::Tcp(address) = app.address() else { panic!("it listens on TCP") };
    address.port()
}

/// A request over TLS, as Python makes it.
fn request_over_tls(port: u16) {
    let script = format!(
        "import ssl, urllib.request as r; r.urlopen('https://127.0.0.1:{port}/', context=ssl._create_unverified_context())"
    );
    // The hub of the tests may well answer that there is no such page.
    let status = Command::new("python3").args(["-c", &script]).stderr(Stdio::null()).status();
    status.expect("python3 can be started");
}

#[test]
fn software_clients_and_a_proxy_in_front_are_named() {
    let _machine = machine::in_company();
    let proxy = App::start(Server::Haproxy);
    let app = proxy.behind().expect("haproxy is before an app");
    // haproxy keeps the connection to the app for as long as ours.
    let mut client = proxy.client();
    let outcome = Attempt::of(&format!("check --port {}", port_of(app))).run_while(|| {
        client.send(&Request::get("/items"));
    });
    let parts =
        ["connections from haproxy on this host\n", "behind         haproxy; ", "requests of HTTP/1.1 on "];
    outcome.assert_printed(0, &parts);
    assert!(!outcome.stdout.contains("blind"), "{outcome:#?}");

    let app = App::start(Server::FastApi);
    let outcome = Attempt::of(&format!("check --pid {} --for 0s", app.pid())).run();
    outcome.assert_printed(0, &["  software       ", "fastapi ", "uvicorn "]);
    assert!(!outcome.stdout.contains("  heard "), "{outcome:#?}");
}

#[test]
fn tls_that_ends_in_the_target_is_named() {
    let _machine = machine::in_company();
    let server = FakeHub::start_tls();
    let port = server
        .url()
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("the hub listens on a port");
    let outcome = Attempt::of(&format!("check --port {port}")).run_while(|| request_over_tls(port));
    outcome.assert_printed(
        0,
        &["  heard          0 requests ", "connections are TLS that ends in it: end TLS in a proxy"],
    );

    let agent = Agent::watching_port(port).start();
    request_over_tls(port);
    agent.eventually_says("TLS ends in the target, requests in it are not seen; end it in a proxy", 1);
    let stopped = agent.stop();
    assert_eq!(stopped.ledger().seen(), 0);
}

#[test]
fn http2_is_named() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let port = port_of(&app);
    let outcome = Attempt::of(&format!("check --pid {}", app.pid())).run_while(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("nginx listens");
        stream.write_all(HTTP2_PREFACE).expect("nginx reads");
        // It says that this is no request, or that it has had enough.
        let _ = stream.read(&mut [0; 512]);
    });
    outcome.assert_printed(0, &["connections are HTTP/2: have the proxy in front of it speak HTTP/1.1"]);
}
