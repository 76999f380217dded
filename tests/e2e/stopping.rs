//! What is under way when the agent is told to stop.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tests::agent::Agent;
use tests::eventually::eventually;
use tests::machine;
use tests::process::{ProcessGroup, ending_with_us, signal_to};
use tests::scratch::Scratch;

/// Answers two requests with one write, which returns when the client has taken most of it.
const SERVER: &str = r#"
import socket, sys

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    connection, _ = listener.accept()
    received = b""
    while received.count(b"\r\n\r\n") < 2 and (read := connection.recv(65536)):
        received += read
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % 5 + b"hello" + head % 4_000_000 + b"x" * 4_000_000)
    connection.close()
"#;

const REQUESTS: &[u8] = b"GET /short HTTP/1.1\r\nHost: a\r\n\r\nGET /long HTTP/1.1\r\nHost: a\r\n\r\n";
const SHORT_ANSWER: usize = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".len();
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn answer_that_the_client_has_counts_even_if_its_write_has_not_returned() {
    let _machine = machine::in_company();
    let dir = Scratch::new("stopping");
    let path = dir.join("server.sock");
    let mut command = ending_with_us("python3");
    command.args(["-c", SERVER]).arg(&path).stdin(Stdio::null()).process_group(0);
    let server = ProcessGroup::of(command.spawn().expect("python3 can be started"));
    let mut client = eventually("the server listens", PATIENCE, || UnixStream::connect(&path).ok());
    let agent = Agent::watching(server.pid()).start();

    client.write_all(REQUESTS).expect("the server reads");
    let mut answer = [0; SHORT_ANSWER];
    client.read_exact(&mut answer).expect("the server answers");
    assert!(answer.ends_with(b"hello"));

    signal_to(agent.pid(), Signal::TERM);
    eventually("the agent is told", PATIENCE, || {
        agent.log().iter().any(|line| line.message() == Some("stopping")).then_some(())
    });
    client.read_to_end(&mut Vec::new()).expect("the server answers in full");
    let ledger = agent.wait().ledger();
    assert_eq!((ledger.get("reported"), ledger.get("open_at_exit")), (2, 0), "{ledger}");
}
