//! What the client sends, and what must become of each request.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tests::client::{Address, Client, Exchange, Request};

use crate::calls::{Receive, Transmit};
use crate::server::{Ending, Places, Workers, name_of};

const SMALL: usize = 10;
const USUAL: usize = 30_000;
const LARGE: usize = 1 << 20;
/// Chunks of one `writev` that fit, with a head and an end, into what is walked without `bpf_loop`.
const CHUNKS: usize = 60;
const BURST: usize = 3000;
const FLOODING: usize = 8;
const FLOOD: usize = 500;

/// Requests that were sent.
#[derive(Debug, Default)]
pub struct Account {
    /// Those that have to be in the agent's rows.
    pub exchanges: Vec<Exchange>,
    /// Those that have to be lost, by cause.
    pub lost: BTreeMap<&'static str, u64>,
    /// Connections with a request that nobody answers, open until this is dropped.
    unanswered: Vec<TcpStream>,
}

impl Account {
    pub fn sent(&self) -> u64 {
        self.exchanges.len() as u64 + self.lost.values().sum::<u64>()
    }

    fn send(&mut self, client: &mut Client, request: &Request) {
        self.exchanges.push(client.send(request).exchange);
    }

    fn send_fresh(&mut self, address: &Address, request: &Request) {
        self.exchanges.push(Client::of(address).send_fresh(request).exchange);
    }

    fn lose(&mut self, cause: &'static str) {
        *self.lost.entry(cause).or_default() += 1;
    }
}

/// The server, as its clients know it.
pub struct Server<'a> {
    pub places: &'a Places,
    pub dir: &'a Path,
}

impl Server<'_> {
    /// Where these workers listen, with what paths there begin with.
    fn addresses(&self, workers: Workers) -> impl Iterator<Item = (String, Address)> {
        let addresses = self.places.addresses(self.dir, workers).into_iter();
        addresses.map(move |(transport, address)| (format!("/{transport}/{}", workers.name()), address))
    }

    fn tcp(&self, workers: Workers) -> Address {
        let [(_, tcp), _] = self.places.addresses(self.dir, workers);
        tcp
    }
}

/// Connections from before the agent: some have had an exchange, some have not.
pub struct Early(Vec<(String, Client)>);

impl Early {
    pub fn open(server: &Server<'_>) -> Self {
        let mut clients = Vec::new();
        for workers in [Workers::Threads(Receive::Read), Workers::Pair, Workers::Fork] {
            for (prefix, address) in server.addresses(workers) {
                let (mut used, mut unused) = (Client::of(&address), Client::of(&address));
                used.send(&get(&prefix, "write", SMALL));
                unused.connect();
                clients.extend([used, unused].map(|client| (prefix.clone(), client)));
            }
        }
        Self(clients)
    }
}

/// Everything but the flood. `bpf_loop`: the kernel has it.
pub fn run(server: &Server<'_>, early: Early, bpf_loop: bool) -> Account {
    let mut account = Account::default();
    for (prefix, mut client) in early.0 {
        for size in [SMALL, USUAL] {
            account.send(&mut client, &get(&format!("{prefix}/early"), "write", size));
            account.send(&mut client, &post(&format!("{prefix}/early"), "writev", size));
        }
    }
    for receive in Receive::value_variants() {
        calls(&mut account, server, *receive, bpf_loop);
    }
    for workers in [Workers::Pair, Workers::Prefork, Workers::Fork] {
        for (prefix, address) in server.addresses(workers) {
            processes(&mut account, &prefix, &address);
        }
    }
    for (prefix, address) in server.addresses(Workers::Threads(Receive::Read)) {
        messages(&mut account, &prefix, &address);
    }
    for ending in Ending::value_variants() {
        endings(&mut account, server, *ending);
    }
    unfinished(&mut account, &server.tcp(Workers::Threads(Receive::Read)));

    let mut client = Client::of(&server.tcp(Workers::Threads(Receive::Read)));
    let request = get("/burst", "write-once", SMALL);
    (0..BURST).for_each(|_| account.send(&mut client, &request));
    account
}

/// One way to receive, with each way to send; over kept connections and fresh ones, with bodies of all sizes.
fn calls(account: &mut Account, server: &Server<'_>, receive: Receive, bpf_loop: bool) {
    for (prefix, address) in server.addresses(Workers::Threads(receive)) {
        let mut client = Client::of(&address);
        for way in Transmit::value_variants() {
            let way = &name_of(way);
            account.send(&mut client, &get(&prefix, way, SMALL));
            account.send(&mut client, &post(&prefix, way, USUAL));
            account.send_fresh(&address, &get(&prefix, way, USUAL));
        }
        account.send(&mut client, &get(&prefix, "chunked", CHUNKS));
        if bpf_loop {
            account.send(&mut client, &get(&prefix, "chunked", 900));
        }
        account.send(&mut client, &get(&prefix, "chunks", CHUNKS));
        // One of each a time: bodies like these in a row are more than an emulated machine's agent keeps up with.
        let large = ["write", "writev", "writev900", "pwritev2", "sendmsg", "sendmmsg", "sendfile", "splice"];
        let position = Receive::value_variants().iter().position(|known| *known == receive);
        let way = large[position.expect("it is one of them") % large.len()];
        account.send(&mut client, &post(&prefix, way, LARGE));
        if receive.reads_bodies() {
            let body = vec![b'x'; USUAL];
            let chunked = |chunks| Request::new("PUT", &path(&prefix, "write", SMALL)).chunked(&body, chunks);
            account.send(&mut client, &chunked(&[10_000]));
            account.send(&mut client, &chunked(&[1, 100, 17]));
        }
    }
}

/// Kept connections and fresh ones, and requests that do not wait for the response before.
fn processes(account: &mut Account, prefix: &str, address: &Address) {
    let mut client = Client::of(address);
    for way in ["write", "writev40", "sendfile"] {
        account.send(&mut client, &get(prefix, way, USUAL));
        account.send(&mut client, &post(prefix, way, USUAL));
    }
    pipeline(account, &mut client, prefix, 20);
    drop(client);
    for _ in 0..5 {
        account.send_fresh(address, &get(prefix, "write", SMALL));
    }
}

/// Kinds of messages.
fn messages(account: &mut Account, prefix: &str, address: &Address) {
    let mut client = Client::of(address);
    account.send(&mut client, &Request::new("HEAD", &path(prefix, "write", USUAL)));
    for status in [204, 304, 204] {
        account.send(&mut client, &get(prefix, "status", status));
    }
    account.send(&mut client, &get(prefix, "interim", SMALL));
    for size in [SMALL, LARGE] {
        account.send(&mut client, &post(prefix, "write", size).expecting_continue());
    }
    let in_pieces = get(prefix, "write", SMALL).in_writes_of(&[3, 11]).pausing(Duration::from_millis(2));
    account.send(&mut client, &in_pieces);
    for count in [2, 50] {
        pipeline(account, &mut client, prefix, count);
    }
}

fn pipeline(account: &mut Account, client: &mut Client, prefix: &str, count: usize) {
    let requests: Vec<Request> =
        (0..count).map(|size| get(&format!("{prefix}/pipeline"), "writev", size)).collect();
    account.exchanges.extend(client.pipeline(&requests).into_iter().map(|reply| reply.exchange));
}

fn endings(account: &mut Account, server: &Server<'_>, ending: Ending) {
    // Nobody else is to end with the process.
    let workers = match ending {
        Ending::Exit | Ending::SilentExit => Workers::Fork,
        _ => Workers::Threads(Receive::Read),
    };
    for (prefix, address) in server.addresses(workers) {
        let request = get(&prefix, &name_of(&ending), USUAL);
        if matches!(ending, Ending::Silence | Ending::SilentExit) {
            let answered = Client::of(&address).exchange(&request);
            assert!(answered.is_err(), "{} got an answer: {answered:?}", request.path);
            account.lose("aborted_before_response");
        } else {
            account.send_fresh(&address, &request);
        }
    }
}

/// Requests that their clients do not send to the end.
fn unfinished(account: &mut Account, address: &Address) {
    let Address::Tcp(address) = address else { panic!("{address:?} is not TCP") };
    let send = |bytes: &[u8]| {
        let mut client = TcpStream::connect(address).expect("the server listens");
        client.write_all(bytes).expect("the server takes it");
        client
    };
    drop(send(b"GET /unfinished HTTP/1.1\r\nHost: loc"));
    account.lose("incomplete_head");
    account.unanswered.push(send(b"POST /unfinished HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345"));
    account.lose("open_at_exit");
}

/// Many clients at once; every other one opens a connection for each request. To the agent they are consumers by their
/// address.
pub fn flood(server: &Server<'_>) -> Account {
    let address = server.tcp(Workers::Threads(Receive::Read));
    let mut request = get("/flood", "write-once", SMALL);
    request.consumer = Some("127.0.0.1".to_owned());
    let (address, request) = (&address, &request);
    let keeping = || {
        let mut client = Client::of(address);
        (0..FLOOD).map(|_| client.send(request).exchange).collect::<Vec<_>>()
    };
    let reconnecting = || {
        let client = Client::of(address);
        (0..FLOOD).map(|_| client.send_fresh(request).exchange).collect()
    };
    let exchanges = thread::scope(|scope| {
        let pairs = (0..FLOODING / 2).map(|_| [scope.spawn(keeping), scope.spawn(reconnecting)]);
        let clients: Vec<_> = pairs.flatten().collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    });
    Account { exchanges, ..Account::default() }
}

fn path(prefix: &str, kind: &str, number: usize) -> String {
    format!("{prefix}/{kind}/{number}")
}

fn get(prefix: &str, kind: &str, number: usize) -> Request {
    Request::get(&path(prefix, kind, number))
}

/// As long a body as the answer will have.
fn post(prefix: &str, kind: &str, number: usize) -> Request {
    Request::new("POST", &path(prefix, kind, number)).sized(&vec![b'x'; number])
}
