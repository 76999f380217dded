//! A hub to report to in tests and demos: takes what the real one takes, remembers it, and misbehaves on
//! request. Also takes what an OTLP collector takes, below any path.
//!
//! ```no_run
//! use tests::fake_hub::{FakeHub, Kind, Reply};
//!
//! let hub = FakeHub::start();
//! hub.reply_to_next(3, Kind::Sync, 503); // status codes, ...
//! hub.reply_to_next(1, Kind::Sync, Reply::Garbage); // ... or worse
//! println!("report to {}", hub.url());
//! hub.eventually_counts("GET", "/items/{id}", 200, 3);
//! ```
//!
//! Speaks HTTP/1.1 with its own few lines over plain sockets, since a proper server could neither hang up nor
//! talk nonsense. Also stands in for an HTTP proxy: it answers requests for any host.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    io::{self, Read, Write},
    iter, mem,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};
use serde_json::Value;

use crate::{
    eventually::eventually,
    otlp::{self, Signal},
    totals::Totals,
};

/// How long is waited for something to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub on a port of 127.0.0.1. Gone, and its connections closed, when dropped.
#[derive(Debug)]
pub struct FakeHub {
    addr: SocketAddr,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    /// None while the hub is down.
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Sync,
    Log,
    Otlp(Signal),
    /// A request for something the hub does not have; always answered with 404.
    Unknown,
}

/// What the hub does with a request, once it has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Status(u16),
    /// 200, and asks for so many seconds between exports.
    Interval(u64),
    /// 200, and says that it did not take so many of what it was sent, for the reason "too old".
    Partial(u8),
    /// 402, and asks for nothing of the kind for so many seconds.
    QuotaUsedUp(u64),
    /// 202, but only after this long. Counts as accepted at once.
    Late(Duration),
    /// Keeps the connection open and says nothing.
    Silence,
    /// Something that is not HTTP.
    Garbage,
    /// Closes the connection.
    HangUp,
}

impl From<u16> for Reply {
    fn from(status: u16) -> Self {
        Self::Status(status)
    }
}

/// One request, in the order of arrival.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    pub kind: Kind,
    /// As on the request line: a path, or a whole URL if the hub was used as a proxy.
    pub target: String,
    pub client_id: String,
    pub env: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub raw_body: Vec<u8>,
    /// Null if it is not JSON, or not what was to be sent there.
    pub body: Value,
    /// What it was answered.
    pub reply: Reply,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// That of a log file is in the URL. Empty if there is none.
    pub fn message_uuid(&self) -> &str {
        let in_url = self.target.split_once("?uuid=").map(|(_, uuid)| uuid);
        in_url.or(self.body["message_uuid"].as_str()).unwrap_or_default()
    }

    /// The hub said yes, or was about to.
    pub fn accepted(&self) -> bool {
        matches!(
            self.reply,
            Reply::Status(200..=299) | Reply::Late(_) | Reply::Interval(_) | Reply::Partial(_)
        )
    }

    /// What a repetition has in common with the first.
    fn identity(&self) -> Vec<u8> {
        match self.kind {
            Kind::Otlp(_) => self.raw_body.clone(),
            _ => self.message_uuid().into(),
        }
    }
}

impl FakeHub {
    /// Plain HTTP, on a free port.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// HTTPS with a new certificate for 127.0.0.1, signed by itself.
    pub fn start_tls() -> Self {
        Self::start_with(Some(Tls::new()))
    }

    fn start_with(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("127.0.0.1 has a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let hub = Self { addr, tls, shared: Arc::default(), acceptor: Mutex::default() };
        hub.listen(listener);
        hub
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.addr)
    }

    /// What a client must trust to talk to a hub with TLS.
    pub fn certificate_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.certificate_pem.as_str())
    }

    /// From now on, unless [`Self::reply_to_next`] has something else in store. At first it is 202.
    pub fn reply_with(&self, reply: impl Into<Reply>) {
        self.shared.lock().reply = reply.into();
    }

    /// Treats the next `times` requests of this kind so, after those promised earlier.
    pub fn reply_to_next(&self, times: usize, kind: Kind, reply: impl Into<Reply>) {
        self.shared.lock().promised.push_back(Promise { kind, times, reply: reply.into() });
    }

    /// Closes the port and all connections: whoever connects is refused.
    pub fn go_down(&self) {
        let Some(acceptor) = self.lock_acceptor().take() else { return };
        for connection in self.shared.go_down().values() {
            // Fails if the client was faster.
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor, so that it sees that we are down.
        let _ = TcpStream::connect(self.addr);
        acceptor.join().expect("the acceptor does not panic");
    }

    /// Opens the same port again.
    ///
    /// # Panics
    /// If it cannot be had back.
    pub fn come_back(&self) {
        let bind = || TcpListener::bind(self.addr).ok();
        self.listen(eventually("the hub gets its port back", PATIENCE, bind));
    }

    /// Everything that arrived, whatever was answered.
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// Likewise, of one kind.
    pub fn received_of(&self, kind: Kind) -> Vec<Received> {
        self.shared.lock().received.iter().filter(|message| message.kind == kind).cloned().collect()
    }

    /// Accepted messages, each once.
    pub fn accepted(&self) -> Vec<Received> {
        let mut seen = BTreeSet::new();
        let mut messages = self.received();
        messages.retain(|message| message.accepted() && seen.insert(message.identity()));
        messages
    }

    /// Identities of messages that were accepted more than once, once for each time too many.
    pub fn duplicates(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let accepted = self.received().into_iter().filter(Received::accepted);
        accepted
            .map(|message| message.message_uuid().to_owned())
            .filter(|id| !seen.insert(id.clone()))
            .collect()
    }

    /// What the real hub would show: sums over accepted syncs, each message counted once.
    pub fn totals(&self) -> Totals {
        let accepted = self.accepted();
        let syncs = accepted.iter().filter(|message| message.kind == Kind::Sync);
        Totals::of_syncs(syncs.map(|message| &message.body))
    }

    /// Requests in the totals for this route and status, of any consumer.
    pub fn counted(&self, method: &str, route: &str, status: u16) -> u64 {
        let rows = self.totals().0.into_iter();
        let rows = rows.filter(|(key, _)| key.method == method && key.route == route && key.status == status);
        rows.map(|(_, row)| row.count).sum()
    }

    /// Waits until `check` finds what it looks for, and gives it.
    ///
    /// # Panics
    /// After 20 s, with `what` and everything that arrived.
    pub fn eventually<T>(&self, what: &str, mut check: impl FnMut(&Self) -> Option<T>) -> T {
        let _explain = TranscriptOnPanic(self);
        eventually(what, PATIENCE, || check(self))
    }

    /// Waits for `times` messages of this kind, whatever they were answered.
    ///
    /// # Panics
    /// As [`Self::eventually`].
    pub fn eventually_receives(&self, times: usize, kind: Kind) -> Vec<Received> {
        self.eventually(&format!("{times} x {kind:?} arrive"), |hub| {
            let received = hub.received_of(kind);
            (received.len() >= times).then_some(received)
        })
    }

    /// Waits until the totals say `requests` for this route and status; more is as wrong as less.
    ///
    /// # Panics
    /// As [`Self::eventually`].
    pub fn eventually_counts(&self, method: &str, route: &str, status: u16, requests: u64) {
        self.eventually(&format!("{method} {route} {status} is counted {requests} times"), |hub| {
            (hub.counted(method, route, status) == requests).then_some(())
        });
    }

    /// What arrived and what was answered, one line each, for people.
    pub fn transcript(&self) -> String {
        let mut text = String::from("the hub received:\n");
        let received = self.received();
        let start = received.first().map(|message| message.at);
        for Received { at, kind, reply, body, .. } in &received {
            let seconds = start.map_or(0.0, |start| (*at - start).as_secs_f64());
            writeln!(text, "{seconds:7.3} s  {kind:?} -> {reply:?}  {body}").expect("a String takes it all");
        }
        text
    }

    fn listen(&self, listener: TcpListener) {
        self.shared.lock().up = true;
        let (shared, tls) = (self.shared.clone(), self.tls.clone());
        let accept = move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let Ok(client) = stream.peer_addr() else { continue };
                if !shared.adopt(client, &stream) {
                    return;
                }
                let (shared, tls) = (shared.clone(), tls.clone());
                thread::spawn(move || {
                    // An error is the client's going away, or ours.
                    let _ = match tls {
                        None => serve(stream, &shared),
                        Some(tls) => serve(tls.accept(stream), &shared),
                    };
                    shared.lock().connections.remove(&client);
                });
            }
        };
        *self.lock_acceptor() = Some(thread::spawn(accept));
    }

    fn lock_acceptor(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.acceptor.lock().expect("nobody panics while going up or down")
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.go_down();
    }
}

struct TranscriptOnPanic<'a>(&'a FakeHub);

impl Drop for TranscriptOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0.transcript());
        }
    }
}

/// What the threads of the connections share with whoever holds the hub.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    went_down: Condvar,
}

#[derive(Debug)]
struct State {
    up: bool,
    received: Vec<Received>,
    reply: Reply,
    promised: VecDeque<Promise>,
    /// By the client's address.
    connections: BTreeMap<SocketAddr, TcpStream>,
}

#[derive(Debug)]
struct Promise {
    kind: Kind,
    times: usize,
    reply: Reply,
}

impl Default for State {
    fn default() -> Self {
        let (received, promised, connections) = Default::default();
        Self { up: false, received, reply: Reply::Status(202), promised, connections }
    }
}

impl State {
    fn next_reply(&mut self, kind: Kind) -> Reply {
        if kind == Kind::Unknown {
            return Reply::Status(404);
        }
        let Some(index) = self.promised.iter().position(|promise| promise.kind == kind) else {
            return self.reply;
        };
        let promise = &mut self.promised[index];
        let reply = promise.reply;
        promise.times = promise.times.saturating_sub(1);
        if promise.times == 0 {
            self.promised.remove(index);
        }
        reply
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the state in hand")
    }

    /// Remembers the connection, to be closed when the hub goes down. False if it is down already.
    fn adopt(&self, client: SocketAddr, stream: &TcpStream) -> bool {
        let mut state = self.lock();
        if state.up {
            state.connections.extend(stream.try_clone().map(|stream| (client, stream)));
        }
        state.up
    }

    /// Gives the connections to be closed.
    fn go_down(&self) -> BTreeMap<SocketAddr, TcpStream> {
        let mut state = self.lock();
        state.up = false;
        self.went_down.notify_all();
        mem::take(&mut state.connections)
    }

    fn wait_while_up(&self, time: Duration) {
        let waited = self.went_down.wait_timeout_while(self.lock(), time, |state| state.up);
        drop(waited.expect("nobody panics with the state in hand"));
    }

    /// Remembers the request and decides on the reply.
    fn take(&self, request: Request) -> Reply {
        let (kind, client_id, env) = resource(&request.method, &request.target);
        let mut state = self.lock();
        let reply = state.next_reply(kind);
        state.received.push(Received {
            at: Instant::now(),
            kind,
            target: request.target,
            client_id,
            env,
            headers: request.headers,
            body: match kind {
                Kind::Otlp(signal) => otlp::gunzip(&request.body)
                    .and_then(|plain| otlp::decode(signal, &plain))
                    .unwrap_or_default(),
                _ => serde_json::from_slice(&request.body).unwrap_or_default(),
            },
            raw_body: request.body,
            reply,
        });
        reply
    }
}

/// `POST /v2/{client_id}/{env}/{kind}` or `POST .../v1/{signal}`, whatever the host.
fn resource(method: &str, target: &str) -> (Kind, String, String) {
    let path = match target.split_once("://") {
        None => target,
        Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
    };
    let path = path.split('?').next().unwrap_or_default();
    let (kind, client_id, env) = match iter::once(method).chain(path.split('/')).collect::<Vec<_>>()[..] {
        ["POST", "", "v2", client_id, env, "startup"] => (Kind::Startup, client_id, env),
        ["POST", "", "v2", client_id, env, "sync"] => (Kind::Sync, client_id, env),
        ["POST", "", "v2", client_id, env, "log"] => (Kind::Log, client_id, env),
        ["POST", .., "v1", "traces"] => (Kind::Otlp(Signal::Traces), "", ""),
        ["POST", .., "v1", "logs"] => (Kind::Otlp(Signal::Logs), "", ""),
        ["POST", .., "v1", "metrics"] => (Kind::Otlp(Signal::Metrics), "", ""),
        _ => (Kind::Unknown, "", ""),
    };
    (kind, client_id.to_owned(), env.to_owned())
}

/// Answers the requests of one connection, one after the other.
fn serve(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer)? {
        let location = request.target.clone();
        match shared.take(request) {
            Reply::Status(status) => write_status(&mut stream, status, &location)?,
            Reply::QuotaUsedUp(seconds) => {
                write_reply(&mut stream, 402, &format!("retry-after: {seconds}\r\n"), b"")?;
            }
            Reply::Interval(seconds) => {
                let field = format!("apitally-export-interval: {seconds}\r\n");
                write_reply(&mut stream, 200, &field, b"")?;
            }
            Reply::Partial(rejected) => {
                // partial_success { rejected, error_message }
                let body = [&[0x0a, 11, 0x08, rejected, 0x12, 7][..], b"too old"].concat();
                write_reply(&mut stream, 200, "", &body)?;
            }
            Reply::Late(time) => {
                shared.wait_while_up(time);
                write_status(&mut stream, 202, &location)?;
            }
            Reply::Silence => {
                while stream.read(&mut [0; 1024])? > 0 {}
                return Ok(());
            }
            Reply::Garbage => {
                stream.write_all(b"220 mail.example.org ESMTP ready\r\n")?;
                return stream.flush();
            }
            Reply::HangUp => return Ok(()),
        }
    }
    Ok(())
}

/// Redirects lead back to where the request came from.
fn write_status(stream: &mut impl Write, status: u16, location: &str) -> io::Result<()> {
    let redirect =
        matches!(status, 300..=399).then(|| format!("location: {location}\r\n")).unwrap_or_default();
    write_reply(stream, status, &redirect, b"")
}

/// `fields`: whole lines.
fn write_reply(stream: &mut impl Write, status: u16, fields: &str, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n{fields}\r\n", body.len());
    // In one call: between two the kernel waits for an acknowledgement, and the client takes 40 ms for that.
    stream.write_all(&[head.as_bytes(), body].concat())?;
    stream.flush()
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// None at the end of the connection. What follows the request stays in the buffer.
fn read_request(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let (method, target, headers, head_len): (_, _, Vec<(String, String)>, _) = loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(len) = head.parse(buffer).map_err(io::Error::other)? {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = head.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect();
            let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
            break (owned(head.method), owned(head.path), headers, len);
        }
        if !read_more(stream, buffer)? {
            return Ok(None);
        }
    };
    let body_len = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let end = head_len + body_len.parse::<usize>().map_err(io::Error::other)?;
    while buffer.len() < end {
        if !read_more(stream, buffer)? {
            return Ok(None);
        }
    }
    let body = buffer[head_len..end].to_vec();
    buffer.drain(..end);
    Ok(Some(Request { method, target, headers, body }))
}

/// False at the end of the connection.
fn read_more(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; 16 * 1024];
    let len = stream.read(&mut bytes)?;
    buffer.extend_from_slice(&bytes[..len]);
    Ok(len > 0)
}

#[derive(Clone, Debug)]
struct Tls {
    config: Arc<ServerConfig>,
    certificate_pem: String,
}

impl Tls {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])
            .expect("an address is a valid name for a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("the key belongs to the certificate");
        Self { config: Arc::new(config), certificate_pem: made.cert.pem() }
    }
    fn accept(&self, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        let connection = ServerConnection::new(self.config.clone()).expect("the configuration is complete");
        StreamOwned::new(connection, stream)
    }
}
