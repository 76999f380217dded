//! An HTTP/1.1 client that does exactly what it is told on the wire, and keeps account of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::eventually::let_pass;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A request as it goes over the wire, and what the agent should call its route.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub route: String,
    pub consumer: Option<String>,
    host: String,
    fields: String,
    body: Body,
    expects_continue: bool,
    writes: Vec<usize>,
    pause: Duration,
}

#[derive(Clone, Debug)]
enum Body {
    /// No body and no Content-Length: its size is unknown.
    None,
    Sized(Arc<[u8]>),
    /// Chunks as long as `chunks` says, in turn.
    Chunked {
        bytes: Arc<[u8]>,
        chunks: Vec<usize>,
        plain: bool,
    },
}

impl Request {
    pub fn new(method: &'static str, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            route: learned_route(path),
            consumer: None,
            host: "localhost".to_owned(),
            fields: String::new(),
            body: Body::None,
            expects_continue: false,
            writes: Vec::new(),
            pause: Duration::ZERO,
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Asks for another host than `localhost`; the request goes to the same server all the same.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields += &format!("{name}: {value}\r\n");
        self
    }

    /// Says who calls, in the field `X-Consumer-Id`.
    pub fn from_consumer(mut self, identifier: &str) -> Self {
        self.consumer = Some(identifier.to_owned());
        self.field("X-Consumer-Id", identifier)
    }

    pub fn json(self, text: &str) -> Self {
        self.field("Content-Type", "application/json").sized(text.as_bytes())
    }

    /// A body with its length said in Content-Length.
    pub fn sized(mut self, bytes: &[u8]) -> Self {
        self.body = Body::Sized(bytes.into());
        self
    }

    /// A body in chunks as long as `chunks` says, in turn; every other one with an extension, and a trailer.
    pub fn chunked(mut self, bytes: &[u8], chunks: &[usize]) -> Self {
        assert!(!chunks.is_empty() && !chunks.contains(&0), "an empty chunk ends the body");
        self.body = Body::Chunked { bytes: bytes.into(), chunks: chunks.to_vec(), plain: false };
        self
    }

    /// Chunks without extensions, and no trailer.
    pub fn plainly(mut self) -> Self {
        match &mut self.body {
            Body::Chunked { plain, .. } => *plain = true,
            other => panic!("{other:?} has no chunks"),
        }
        self
    }

    /// Whether it can be sent with others behind it. Large bodies cannot: server and client would wait for one another
    /// to read.
    pub fn can_be_pipelined(&self) -> bool {
        !self.expects_continue && self.body_size().is_none_or(|size| size <= PIPELINED_BODY)
    }

    /// The body follows only after the server's `100 Continue`.
    pub fn expecting_continue(mut self) -> Self {
        self.expects_continue = true;
        self.field("Expect", "100-continue")
    }

    /// One write for each of these lengths, in turn, whatever they cut through. Without them the head goes out in
    /// one write and the body in another.
    pub fn in_writes_of(mut self, lengths: &[usize]) -> Self {
        assert!(!lengths.contains(&0), "an empty write sends nothing");
        self.writes = lengths.to_vec();
        self
    }

    /// Waits between writes, for servers to read each of them on its own.
    pub fn pausing(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Body bytes without their coding; `None` where neither a body nor a length is sent.
    pub fn body_size(&self) -> Option<u64> {
        match &self.body {
            Body::None => None,
            Body::Sized(bytes) | Body::Chunked { bytes, .. } => Some(bytes.len() as u64),
        }
    }

    fn head(&self, keep_alive: bool) -> Vec<u8> {
        let framing = match &self.body {
            Body::None => String::new(),
            Body::Sized(bytes) => format!("Content-Length: {}\r\n", bytes.len()),
            Body::Chunked { plain: true, .. } => "Transfer-Encoding: chunked\r\n".to_owned(),
            Body::Chunked { .. } => "Transfer-Encoding: chunked\r\nTrailer: X-Check\r\n".to_owned(),
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n{framing}{}\r\n",
            self.method, self.path, self.host, self.fields
        )
        .into_bytes()
    }

    fn coded_body(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Sized(bytes) => bytes.to_vec(),
            Body::Chunked { bytes, chunks, plain } => {
                let mut coded = Vec::with_capacity(bytes.len() + bytes.len() / 8);
                let mut rest: &[u8] = bytes;
                for (turn, length) in chunks.iter().cycle().enumerate() {
                    if rest.is_empty() {
                        break;
                    }
                    let (chunk, after) = rest.split_at((*length).min(rest.len()));
                    let extension = if turn % 2 == 1 && !plain { ";note=\"a; b\"" } else { "" };
                    coded.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                    coded.extend_from_slice(chunk);
                    coded.extend_from_slice(b"\r\n");
                    rest = after;
                }
                coded.extend_from_slice(if *plain { b"0\r\n\r\n" } else { b"0\r\nX-Check: 1\r\n\r\n" });
                coded
            }
        }
    }
}

/// The route that the agent makes of a path it knows nothing about, as far as our paths need it: a segment of
/// digits is an id.
fn learned_route(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let segments = path.split('/').map(|segment| {
        let is_id = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
        if is_id { "{id}" } else { segment }
    });
    segments.collect::<Vec<_>>().join("/")
}

/// What the client knows of a request and its response.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub method: &'static str,
    pub route: String,
    pub consumer: Option<String>,
    pub status: u16,
    /// Body bytes without their coding; `None` where neither a body nor a length was sent.
    pub request_size: Option<u64>,
    pub response_size: u64,
    /// From just before the request's first byte was sent until the response's last byte was read.
    pub duration: Duration,
}

impl Exchange {
    /// One whose sizes are known beforehand, and whose time does not matter.
    pub fn known(
        method: &'static str,
        path: &str,
        status: u16,
        request_size: Option<u64>,
        response_size: u64,
    ) -> Self {
        let (route, consumer, duration) = (learned_route(path), None, Duration::ZERO);
        Self { method, route, consumer, status, request_size, response_size, duration }
    }
}

/// A response, and the account of its exchange.
#[derive(Clone, Debug)]
pub struct Reply {
    pub exchange: Exchange,
    /// The beginning of the body: at most [`KEPT_BODY`] bytes of it.
    pub body: Vec<u8>,
    pub chunked: bool,
}

/// How much of a response's body a [`Reply`] keeps.
pub const KEPT_BODY: usize = 64 * 1024;

const READ_AT_ONCE: usize = 256 * 1024;
const LARGEST_HEAD: usize = 64 * 1024;
/// A request body longer than this may not fit into the buffers of a socket while the server writes.
const PIPELINED_BODY: u64 = 4096;
/// A server that says nothing for so long has lost the request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends requests over one connection at a time.
#[derive(Debug)]
pub struct Client {
    address: Address,
    kept: Option<Connection>,
}

impl Client {
    /// Connects when the first request is sent.
    pub fn of(address: &Address) -> Self {
        Self { address: address.clone(), kept: None }
    }

    /// Opens the connection that the next request goes over.
    ///
    /// # Panics
    /// When nobody listens, here and in the ways to send; there also when the exchange does not come to its end.
    pub fn connect(&mut self) {
        let opened = Connection::open(&self.address);
        self.kept = Some(opened.unwrap_or_else(|error| panic!("{:?}: {error}", self.address)));
    }

    /// Sends over the connection that the last request left open, if it did.
    pub fn send(&mut self, request: &Request) -> Reply {
        self.exchange(request).unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.path))
    }

    /// Sends over a connection of its own, asking the server to close it.
    pub fn send_fresh(&self, request: &Request) -> Reply {
        let exchange = || Connection::open(&self.address)?.exchange(request, false);
        exchange().unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.path))
    }

    /// Sends all requests in one write, and only then reads the responses.
    pub fn pipeline(&mut self, requests: &[Request]) -> Vec<Reply> {
        if self.kept.is_none() {
            self.connect();
        }
        let mut connection = self.kept.take().expect("we just connected if we had to");
        let replies = connection.pipeline(requests).unwrap_or_else(|error| {
            let requests = requests.iter().map(|request| format!("{} {}", request.method, request.path));
            panic!("pipeline of {}: {error}", requests.collect::<Vec<_>>().join(", "))
        });
        if connection.reusable {
            self.kept = Some(connection);
        }
        replies
    }

    /// Writes bytes to the connection that the last request left open, and waits for nothing.
    ///
    /// # Errors
    /// When it left none open, or the server has closed it.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.kept.as_mut().ok_or(io::ErrorKind::NotConnected)?.stream.write(bytes)
    }

    /// As [`send`](Self::send), for servers that may not be there yet.
    ///
    /// # Errors
    /// When the server cannot be reached, closes the connection, or answers something that is not HTTP.
    pub fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address)?,
        };
        let reply = connection.exchange(request, true)?;
        if connection.reusable {
            self.kept = Some(connection);
        }
        Ok(reply)
    }
}

/// What a connection runs over.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn open(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Self::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Self::Unix(stream)
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                // Servers that leave Nagle's algorithm on wait for our acknowledgement before they send the rest;
                // delayed by 40 ms, it would be in our times but not in theirs.
                rustix::net::sockopt::set_tcp_quickack(&*stream, true)?;
                stream.read(buffer)
            }
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    buffer: Box<[u8]>,
    /// What was read and not used yet.
    unused: std::ops::Range<usize>,
    reusable: bool,
}

struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
    closes: bool,
}

impl Connection {
    fn open(address: &Address) -> io::Result<Self> {
        let stream = Stream::open(address)?;
        let buffer = vec![0; READ_AT_ONCE].into_boxed_slice();
        Ok(Self { stream, buffer, unused: 0..0, reusable: true })
    }

    fn exchange(&mut self, request: &Request, keep_alive: bool) -> io::Result<Reply> {
        let (head, body) = (request.head(keep_alive), request.coded_body());
        let started = Instant::now();
        if request.expects_continue {
            self.write(&head, request)?;
            let interim = self.read_head()?;
            if interim.status != 100 {
                return Err(invalid(format!("{} instead of 100", interim.status)));
            }
            self.write(&body, request)?;
        } else if request.writes.is_empty() {
            self.stream.write(&head)?;
            self.stream.write(&body)?;
        } else {
            self.write(&[head, body].concat(), request)?;
        }
        let reply = self.read_reply(request, started)?;
        if !self.unused.is_empty() {
            return Err(invalid(format!("{} bytes after the response", self.unused.len())));
        }
        Ok(reply)
    }

    fn pipeline(&mut self, requests: &[Request]) -> io::Result<Vec<Reply>> {
        let bytes: Vec<u8> =
            requests.iter().flat_map(|request| [request.head(true), request.coded_body()].concat()).collect();
        let started = Instant::now();
        self.stream.write(&bytes)?;
        let replies = requests.iter().enumerate().map(|(index, request)| {
            let reply = self.read_reply(request, started);
            reply.map_err(|error| io::Error::new(error.kind(), format!("reply {}: {error}", index + 1)))
        });
        replies.collect()
    }

    fn write(&mut self, mut bytes: &[u8], request: &Request) -> io::Result<()> {
        for length in request.writes.iter().cycle() {
            if bytes.is_empty() {
                return Ok(());
            }
            let (now, later) = bytes.split_at((*length).min(bytes.len()));
            self.stream.write(now)?;
            if !request.pause.is_zero() {
                let_pass(request.pause);
            }
            bytes = later;
        }
        self.stream.write(bytes)
    }

    fn read_reply(&mut self, request: &Request, started: Instant) -> io::Result<Reply> {
        let head = loop {
            let head = self.read_head()?;
            if head.status >= 200 {
                break head;
            }
        };
        let mut kept = Vec::new();
        let bodiless = request.method == "HEAD" || matches!(head.status, 204 | 304);
        let response_size = match (bodiless, head.chunked, head.length) {
            (true, _, _) => 0,
            (false, true, _) => self.read_chunks(&mut kept)?,
            (false, false, Some(length)) => self.read_body(length, &mut kept).map(|()| length)?,
            (false, false, None) => self.read_until_close(&mut kept)?,
        };
        let duration = started.elapsed();
        self.reusable &= !head.closes && (bodiless || head.chunked || head.length.is_some());
        let exchange = Exchange {
            method: request.method,
            route: request.route.clone(),
            consumer: request.consumer.clone(),
            status: head.status,
            request_size: request.body_size(),
            response_size,
            duration,
        };
        Ok(Reply { exchange, body: kept, chunked: head.chunked })
    }

    fn read_head(&mut self) -> io::Result<Head> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response.parse(&self.buffer[self.unused.clone()]).map_err(invalid)?;
            if let httparse::Status::Complete(head_length) = parsed {
                let head = Head::from(&response)?;
                self.unused.start += head_length;
                return Ok(head);
            }
            if self.unused.len() > LARGEST_HEAD {
                return Err(invalid("an endless head"));
            }
            self.read_more()?;
        }
    }

    fn read_chunks(&mut self, kept: &mut Vec<u8>) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let line = self.read_line()?;
            let length = line.split(';').next().unwrap_or_default().trim();
            let length =
                u64::from_str_radix(length, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
            if length == 0 {
                while !self.read_line()?.is_empty() {}
                return Ok(total);
            }
            self.read_body(length, kept)?;
            total += length;
            if !self.read_line()?.is_empty() {
                return Err(invalid("bytes after a chunk"));
            }
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            let unused = &self.buffer[self.unused.clone()];
            if let Some(end) = unused.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8(unused[..end].to_vec()).map_err(invalid)?;
                self.unused.start += end + 2;
                return Ok(line);
            }
            self.read_more()?;
        }
    }

    fn read_body(&mut self, mut left: u64, kept: &mut Vec<u8>) -> io::Result<()> {
        while left > 0 {
            if self.unused.is_empty() {
                self.read_more()?;
            }
            let here = self.unused.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.use_up(here, kept);
            left -= here as u64;
        }
        Ok(())
    }

    fn read_until_close(&mut self, kept: &mut Vec<u8>) -> io::Result<u64> {
        let mut total = 0;
        loop {
            total += self.unused.len() as u64;
            self.use_up(self.unused.len(), kept);
            match self.read_more() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    fn use_up(&mut self, length: usize, kept: &mut Vec<u8>) {
        let keep = length.min(KEPT_BODY - kept.len());
        kept.extend_from_slice(&self.buffer[self.unused.start..][..keep]);
        self.unused.start += length;
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.unused.clone(), 0);
        self.unused = 0..self.unused.len();
        match self.stream.read(&mut self.buffer[self.unused.end..])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            length => {
                self.unused.end += length;
                Ok(())
            }
        }
    }
}

impl Head {
    fn from(response: &httparse::Response<'_, '_>) -> io::Result<Self> {
        let value = |name: &str| {
            let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.map(|field| String::from_utf8_lossy(field.value).to_ascii_lowercase())
        };
        let says = |name: &str, word: &str| value(name).is_some_and(|value| value.contains(word));
        let length = value("content-length").map(|length| length.parse().map_err(invalid)).transpose()?;
        Ok(Self {
            status: response.code.ok_or_else(|| invalid("no status"))?,
            length,
            chunked: says("transfer-encoding", "chunked"),
            closes: says("connection", "close") || response.version == Some(0),
        })
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
