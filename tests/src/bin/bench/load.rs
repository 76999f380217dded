//! Load: as much as the server takes, by wrk; or at a rate of our own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::app::apps_dir;

use crate::subject::Subject;

/// What the client saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Whole responses with a status below 400.
    pub requests: u64,
    pub span: Duration,
    pub p50: Duration,
    pub p99: Duration,
}

impl Seen {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.span.as_secs_f64()
    }
}

/// The command line of wrk.
pub fn wrk_words(
    subject: Subject,
    address: &str,
    cpu: usize,
    connections: usize,
    seconds: u64,
) -> Vec<String> {
    let (method, path, length) = subject.request();
    let url = format!("http://{address}{path}");
    let script = "tests/e2e/apps/bench/wrk.lua";
    format!(
        "taskset --cpu-list {cpu} wrk -t1 -c{connections} -d{seconds}s --timeout 10s -s {script} {url} -- {method} {length}"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

/// As many requests as the server takes.
///
/// # Panics
/// When wrk cannot be started, any request went wrong, or none was answered.
pub fn full(subject: Subject, address: SocketAddr, cpu: usize, connections: usize, seconds: u64) -> Seen {
    let words = wrk_words(subject, &address.to_string(), cpu, connections, seconds);
    let (program, arguments) = words.split_first().expect("there is a program");
    let root = apps_dir();
    let root = root.ancestors().nth(3).expect("the apps lie in the tree");
    let output = Command::new(program).args(arguments).current_dir(root).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("{words:?}\n{text}{}", String::from_utf8_lossy(&output.stderr)));
    let measured: Value = serde_json::from_str(line).expect("the script prints JSON");
    let number = |name: &str| measured[name].as_u64().expect("a number");
    for wrong in ["broken", "timeouts", "refused"] {
        assert_eq!(number(wrong), 0, "{wrong}: {text}");
    }
    assert!(number("requests") > 0, "nothing was answered in {seconds} s: {text}");
    Seen {
        requests: number("requests"),
        span: Duration::from_micros(number("us")),
        p50: Duration::from_micros(number("p50_us")),
        p99: Duration::from_micros(number("p99_us")),
    }
}

/// Connections of [`steady`].
const CONNECTIONS: usize = 64;

/// `rate` requests per second, whatever the server does. A response time runs from when its request was due, so one that
/// had to wait for a connection, or for us, waited for the server (Gil Tene's "coordinated omission"). Looks at its
/// connections without a pause, which takes a processor of its own.
///
/// # Panics
/// When the server hangs up.
pub fn steady(subject: Subject, address: SocketAddr, rate: f64, seconds: u64) -> Seen {
    let (method, path, length) = subject.request();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n\r\n{}",
        "x".repeat(length)
    );
    let mut idle: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    let length = answer_length(&mut idle[0], &request);
    for connection in &idle {
        connection.set_nonblocking(true).expect("a socket option");
    }
    let mut waiting: VecDeque<(TcpStream, Instant, usize)> = VecDeque::new();
    let span = Duration::from_secs(seconds);
    let (start, pause) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
    let (mut due, mut times) = (start, Vec::with_capacity((rate * seconds as f64) as usize + CONNECTIONS));
    let mut buffer = [0; 16 * 1024];
    while due < start + span || !waiting.is_empty() {
        if due < start + span
            && due <= Instant::now()
            && let Some(mut connection) = idle.pop()
        {
            connection.write_all(request.as_bytes()).expect("a short request fits into the socket");
            waiting.push_back((connection, due, 0));
            due += pause;
        }
        let Some((mut connection, since, mut got)) = waiting.pop_front() else { continue };
        match connection.read(&mut buffer) {
            Ok(0) => panic!("the server hung up"),
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the server hung up: {error}"),
        }
        if got < length {
            waiting.push_back((connection, since, got));
        } else {
            times.push(since.elapsed());
            idle.push(connection);
        }
    }
    let took = start.elapsed();
    times.sort_unstable();
    let quantile = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Seen { requests: times.len() as u64, span: took, p50: quantile(0.5), p99: quantile(0.99) }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a TCP option");
    stream
}

/// Bytes of an answer, head and all: the same every time. Found out by sending a request.
fn answer_length(connection: &mut TcpStream, request: &str) -> usize {
    connection.write_all(request.as_bytes()).expect("the server reads");
    // It is over when nothing more comes.
    connection.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket option");
    let mut buffer = [0; 16 * 1024];
    let mut length = 0;
    while let Ok(count @ 1..) = connection.read(&mut buffer) {
        length += count;
    }
    assert!(length > 0, "the server does not answer");
    length
}
