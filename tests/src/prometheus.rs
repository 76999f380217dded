//! Prometheus and its linter, as Debian has them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::app::free_port;
use crate::eventually::eventually;
use crate::process::{ProcessGroup, ending_with_us};
use crate::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(60);

/// A Prometheus that scrapes one target every second. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    _server: ProcessGroup,
    address: SocketAddr,
    _dir: Scratch,
}

/// What a query gives: labels and value.
pub type Sample = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// # Panics
    /// When it cannot be started.
    pub fn scraping(target: SocketAddr) -> Self {
        let dir = Scratch::new("prometheus");
        let config = dir.join("prometheus.yml");
        // A scrape of a second may fail on a busy machine; the next one then has all that it would have had.
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: agent, static_configs: [{{targets: [\"{target}\"]}}]}}]\n"
        );
        fs::write(&config, text).expect("a fresh directory can be written to");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = ending_with_us("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let server = ProcessGroup::start(&mut command, &dir.join("log"));
        let prometheus = Self { _server: server, address, _dir: dir };
        eventually("Prometheus is ready; `cargo xtask servers` installs it", PATIENCE, || {
            let answer = TcpStream::connect(address).is_ok().then(|| get(address, "/-/ready", ""));
            answer.filter(|answer| answer.status == 200)
        });
        prometheus
    }

    /// What PromQL gives at this moment.
    ///
    /// # Panics
    /// When it is no query that gives a vector.
    pub fn query(&self, query: &str) -> Vec<Sample> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in query.bytes() {
            path += &format!("%{byte:02X}");
        }
        let answer = get(self.address, &path, "");
        let json: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        let samples = json["data"]["result"].as_array();
        let samples = samples.unwrap_or_else(|| panic!("{query}: {}", answer.body)).iter();
        samples.map(sample).collect()
    }
}

fn sample(sample: &Value) -> Sample {
    let labels = sample["metric"].as_object().expect("a sample has labels").iter();
    let text = |value: &Value| value.as_str().expect("labels are strings").to_owned();
    let value = sample["value"][1].as_str().and_then(|value| value.parse().ok());
    (labels.map(|(name, value)| (name.clone(), text(value))).collect(), value.expect("a sample has a value"))
}

/// What Prometheus's linter says of a page in its own text format; empty when it finds nothing wrong.
///
/// # Panics
/// When it cannot be started.
pub fn lint(page: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("promtool: {error}; `cargo xtask servers` installs it"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(page.as_bytes()).expect("it reads what it is to check");
    drop(stdin);
    let output = child.wait_with_output().expect("it is our child");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() || !said.is_empty() { said } else { output.status.to_string() }
}

/// The first sample in a page that begins so; zero when there is none.
pub fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// An answer in full.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Asks with this value of `Accept`; none when it is empty.
///
/// # Panics
/// When nobody answers, or with something else than HTTP.
pub fn get(address: SocketAddr, path: &str, accept: &str) -> Answer {
    let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{accept}\r\n"))
}

/// Sends these bytes, and reads until the other side closes.
///
/// # Panics
/// Likewise.
pub fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    stream.write_all(request.as_bytes()).unwrap_or_else(|error| panic!("{address}: {error}"));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{address}: {error}"));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?} is no HTTP"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("{head:?} has no status"));
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        dechunked(body)
    } else {
        body.to_owned()
    };
    Answer { status, head: head.to_owned(), body }
}

fn dechunked(mut coded: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = coded.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("the length of a chunk");
        body += rest.get(..length).expect("a whole chunk");
        coded = rest.get(length + 2..).unwrap_or_default();
    }
    body
}
