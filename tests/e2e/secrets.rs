//! Secrets stay on the host: planted wherever a request or a response can hold one, and looked for in everything that
//! the agent wrote or sent.

use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tests::agent::{Agent, Stopped};
use tests::app::{App, Server};
use tests::client::Address;
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::scratch::Scratch;

/// Part of every secret, and of nothing else.
const MARK: &str = "Zq7Kx";
/// In a field that may leave when headers are logged.
const HARMLESS: &str = "harmless-5b1e";
/// Where a body is that was logged.
const LOGGED_BODY: &str = "a Log message, response body";

const EVERYTHING: &str = "[request_log]\nenabled = true\nrequest_headers = true\nrequest_body = true\n\
                          response_headers = true\nresponse_body = true\n";

/// A secret for one place, so that a failure says where it comes from.
fn secret(place: &str) -> String {
    format!("{MARK}-{place}")
}

/// Requests with a secret in every place that the log's rules know.
fn requests() -> Vec<Vec<u8>> {
    let s = secret;
    let json = |body: String, fields: &str| {
        let length = body.len();
        format!("POST /mirror HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let fields = [
        ["Content-Type".to_owned(), "application/json".to_owned()],
        ["Set-Cookie".to_owned(), format!("session={}; Path=/", s("set-cookie"))],
        [
            "Location".to_owned(),
            format!("https://u:{}@h/x?token={}#id_token={}", s("loc-user"), s("loc"), s("fragment")),
        ],
        ["X-Auth-Token".to_owned(), s("response-header")],
        ["X-Plain".to_owned(), HARMLESS.to_owned()],
    ];
    let fields: Vec<String> = fields.iter().map(|[name, value]| format!("[{name:?}, {value:?}]")).collect();
    let mirror = format!(
        r#"{{"password": "{}", "user": {{"ssn": "{}", "cards": [{{"card number": "{}"}}]}}, "tokens": ["{}"],
            "callback": "http:\/\/u:{}@h\/", "to\u006ben": "{}", "secret_fields": [{}],
            "secret_body": ["filled below"]}}"#,
        s("password"),
        s("ssn"),
        s("card"),
        s("list"),
        s("json-user"),
        s("escaped"),
        fields.join(","),
    );
    // The app answers with an object; in the request it is in a list under a secret name, where only texts are masked.
    let answer = format!(
        r#"{{"access_token": "{}", "nested": [{{"api_secret": "{}"}}], "note": "{HARMLESS}"}}"#,
        s("response-body"),
        s("response-nested")
    );
    let mirror = mirror.replace(r#"["filled below"]"#, &answer);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(format!(r#"{{"secret": "{}"}}"#, s("gzip")).as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let upload = |kind: &str, coding: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{coding}Content-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    };
    let text = format!(r#"{{"pwd": "{}", "db": "postgres://u:{}@db/x"}}"#, s("text-json"), s("text-user"));
    vec![
        format!(
            "GET /blob/3?token={}&to%6ben={}&next=%2Fcb%3Fapi_key%3D{}&back=http%3A%2F%2Fu:{}@h%2F&a=1 HTTP/1.1\r\n\
             Host: u:{}@a\r\nAuthorization: Bearer {}\r\nCookie: a=b; session={}\r\nX-API-Key: {}\r\nX-Plain: {HARMLESS}\r\n\
             Proxy-Authorization: Basic {}\r\nX-Else: Bearer {}\r\nReferer: https://u:{}@h/?access_token={}\r\n\r\n",
            s("query"), s("encoded-name"), s("inner-query"), s("query-user"), s("host-user"), s("authorization"),
            s("cookie"), s("api-key"), s("proxy"), s("scheme"), s("referer-user"), s("referer-query"),
        )
        .into_bytes(),
        format!("GET http://user:{}@a/blob/4?secret={} HTTP/1.1\r\nHost: a\r\n\r\n", s("absolute-user"), s("absolute-query")).into_bytes(),
        json(mirror, ""),
        upload("application/json", "Content-Encoding: gzip\r\n", &gzip),
        upload("application/json", "", format!(r#"{{"secret": "{}""#, s("broken-json")).as_bytes()),
        upload("text/plain", "", text.as_bytes()),
    ]
}

/// Requests with secrets where nobody can tell.
fn unmarked_requests() -> Vec<Vec<u8>> {
    let s = secret;
    let body = format!(r#"{{"note": "{}"}}"#, s("unmarked-body"));
    let length = body.len();
    vec![
        format!("GET /blob/5?q={} HTTP/1.1\r\nHost: a\r\nX-Plain: {}\r\n\r\n", s("unmarked-query"), s("unmarked-header")).into_bytes(),
        format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes(),
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", s("unmatched-path")).into_bytes(),
        format!("{} / HTTP/1.1\r\n\r\n", s("METHOD")).into_bytes(),
        format!("GET /blob/6 HTTP/1.1\r\n{}\r\n\r\n", s("no-header")).into_bytes(),
    ]
}

/// Sends each on a connection of its own; what comes back is the test's secret.
fn send(app: &App, requests: &[Vec<u8>]) -> Vec<String> {
    let Address::Tcp(address) = app.address() else { panic!("it listens on TCP") };
    let ask = |request: &Vec<u8>| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let end = request.windows(2).position(|window| window == b"\r\n").unwrap() + 2;
        stream.write_all(&[&request[..end], b"Connection: close\r\n", &request[end..]].concat()).unwrap();
        let mut response = Vec::new();
        // A server that has had enough may reset.
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    };
    requests.iter().map(ask).collect()
}

/// Everything that a run of the agent left or sent, by where it was found. What is compressed is there unpacked, too.
#[derive(Default)]
struct Traces(Vec<(String, Vec<u8>)>);

impl Traces {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        let (place, bytes) = (place.into(), bytes.into());
        for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&[0x1f, 0x8b, 8])) {
            let mut unpacked = Vec::new();
            // As much as there is: a file may be cut.
            let _ = GzDecoder::new(&bytes[at..]).read_to_end(&mut unpacked);
            for line in unpacked.split(|&byte| byte == b'\n') {
                self.add_item(&place, line);
            }
            self.0.push((format!("{place}, unpacked"), unpacked));
        }
        self.add_item(&place, &bytes);
        self.0.push((place, bytes));
    }

    /// The bodies of an item of a log.
    fn add_item(&mut self, place: &str, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<serde_json::Value>(line) else { return };
        let item = line.get("message").unwrap_or(&line);
        for part in ["request", "response"] {
            if let Some(body) = item[part]["body"].as_str() {
                self.0.push((format!("{place}, {part} body"), BASE64_STANDARD.decode(body).unwrap()));
            }
        }
    }

    fn add_files(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            self.add(format!("the name of {}", path.display()), path.display().to_string());
            if path.is_dir() {
                self.add_files(&path);
            } else if path.is_file() {
                self.add(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }

    fn add_hub(&mut self, hub: &FakeHub) {
        for message in hub.received() {
            let place = format!("a {:?} message", message.kind);
            self.add(&place, message.target);
            self.add(&place, format!("{:?}", message.headers));
            self.add(place, message.raw_body);
        }
    }

    fn add_stopped(&mut self, stopped: &Stopped) {
        for line in &stopped.log {
            self.add("the log", line.text.clone());
        }
        for message in &stopped.messages {
            self.add("standard output", message.to_string());
        }
    }

    fn holding(&self, what: &str) -> Vec<String> {
        let holds = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what.as_bytes());
        let found = self.0.iter().filter(|(_, bytes)| holds(bytes));
        found.map(|(place, bytes)| format!("{place}: {}", String::from_utf8_lossy(bytes))).collect()
    }

    fn assert_no_secret(&self) {
        let found = self.holding(MARK);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// Runs an agent with this configuration over these requests, with a hub that goes away in the middle so that something
/// is left in the state directory, too.
fn traces(configuration: &str, requests: &[Vec<u8>]) -> Traces {
    let app = App::start(Server::GunicornSync);
    let hub = FakeHub::start();
    let state = Arc::new(Scratch::new("secrets"));
    let files = Scratch::new("secrets-config");
    let file = files.join("agent.toml");
    fs::write(&file, configuration).unwrap();
    let agent = Agent::watching(app.pid())
        .reporting_to(&hub)
        .state_dir(&state)
        .consumer_header("X-API-Key")
        .arg("--config")
        .arg(file.to_str().unwrap())
        .start();
    let answers = send(&app, requests);
    assert!(answers[0].starts_with("HTTP/1.1 200"), "{answers:#?}");
    eventually("the requests are reported", Duration::from_secs(20), || {
        (hub.totals().count() >= 2).then_some(())
    });
    if configuration == EVERYTHING {
        eventually("bodies are in the log", Duration::from_secs(20), || {
            let mut logged = Traces::default();
            logged.add_hub(&hub);
            logged.holding(HARMLESS).iter().any(|found| found.starts_with(LOGGED_BODY)).then_some(())
        });
    }
    let mut traces = Traces::default();
    traces.add("the status", agent.status().to_string());
    hub.go_down();
    send(&app, requests);
    // Until what was read has been handed on: the agent looks every 100 ms, and sends every 500 ms.
    eventually("messages wait", Duration::from_secs(20), || {
        let status = agent.status();
        (status["hubs"][0]["queued"].as_u64() > Some(0)).then_some(())
    });
    let stopped = agent.stop();
    traces.add_hub(&hub);
    traces.add_stopped(&stopped);
    traces.add_files(&state);
    traces
}

#[test]
fn with_default_settings_no_secret_leaves_the_host() {
    let _machine = machine::in_company();
    let traces = traces("", &[requests(), unmarked_requests()].concat());
    traces.assert_no_secret();
    assert!(traces.holding(HARMLESS).is_empty(), "nothing of a header or a body leaves");
}

#[test]
fn with_everything_logged_no_secret_leaves_the_host() {
    let _machine = machine::in_company();
    let traces = traces(EVERYTHING, &requests());
    traces.assert_no_secret();
    // The same way a secret would have been found.
    for place in ["a Log message, unpacked", LOGGED_BODY] {
        assert!(traces.holding(HARMLESS).iter().any(|found| found.starts_with(place)), "nothing in {place}");
    }
    let masked = traces.holding("******");
    assert!(masked.iter().any(|found| found.contains(r#""access_token":"******""#)), "{masked:#?}");
}

#[test]
fn a_dry_run_prints_what_would_be_sent_and_no_more() {
    let _machine = machine::in_company();
    let app = App::start(Server::GunicornSync);
    let files = Scratch::new("secrets-config");
    let file = files.join("agent.toml");
    fs::write(&file, EVERYTHING).unwrap();
    let agent = Agent::watching(app.pid()).arg("--config").arg(file.to_str().unwrap()).start();
    send(&app, &requests());
    let stopped = agent.stop();
    let items: Vec<_> = stopped.messages_of("log").collect();
    assert_eq!(items.len(), requests().len(), "{items:#?}");
    let mut traces = Traces::default();
    traces.add_stopped(&stopped);
    traces.assert_no_secret();
    assert!(!traces.holding(HARMLESS).is_empty());
}

#[test]
fn a_recording_is_its_owners_alone() {
    let _machine = machine::in_company();
    let app = App::start(Server::GunicornSync);
    let files = Scratch::new("secrets-record");
    let file = files.join("tap");
    // Whoever made it before us let everybody read it.
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let agent = Agent::watching(app.pid()).arg("--record").arg(file.to_str().unwrap()).start();
    send(&app, &requests());
    let stopped = agent.stop();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let warned = stopped.log.iter().any(|line| line.level() == Some("WARN") && line.text.contains("secrets"));
    assert!(warned, "nobody was told what is in a recording");
    let mut traces = Traces::default();
    traces.add_files(&files);
    assert!(!traces.holding(&secret("authorization")).is_empty(), "it is there to hold what was captured");
}
