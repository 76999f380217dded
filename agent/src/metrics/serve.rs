//! The server: `/metrics` and `/healthz`, to whoever reaches the address.
//!
//! A connection is for one request, of which the head alone is read. Connections, heads and the time for each are bounded,
//! and however many clients there are, the agent makes at most one page per [`FRESH`] and form.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    runtime::{self, Runtime},
    sync::{Mutex, mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::debug;

use super::{Scrape, beat::Beat, page::Form};
use crate::exit::Exit;

/// Connections that are served at a time; further ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// Longest head, bytes; hyper allows for no less.
const MAX_HEAD: usize = 8192;
/// From the beginning of a connection to its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The loop has so long to tell its numbers.
const ANSWER: Duration = Duration::from_secs(5);
/// A page is handed out again for so long.
const FRESH: Duration = Duration::from_secs(1);
/// A loop that has not gone round for so long stands still. It beats twice a second or more.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Pause when nothing can be accepted, as when there are no descriptors left.
const RECOVER: Duration = Duration::from_secs(1);

/// Someone wants to know.
pub type Question = oneshot::Sender<Scrape>;

#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {}; see --metrics-listen", reason(.error))]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

impl ListenError {
    pub fn exit(&self) -> Exit {
        match self.error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Unavailable,
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted; a port below 1024 takes CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}

/// An address that is taken, and not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// With the port that was found, where any was asked for.
    pub address: SocketAddr,
}

impl Listener {
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|error| ListenError { address, error })
    }

    /// Serves until the questions are dropped.
    ///
    /// # Errors
    /// When there is no thread to be had, or no descriptors.
    pub fn serve(self, beat: Beat) -> io::Result<Questions> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (ask, inbox) = mpsc::channel(1);
        let server = Arc::new(Server { ask, beat, latest: Mutex::default() });
        thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || run(&runtime, self.socket, server))?;
        Ok(Questions { inbox })
    }
}

/// Questions to be answered. Dropped, they end the server.
#[derive(Debug)]
pub struct Questions {
    inbox: mpsc::Receiver<Question>,
}

impl Questions {
    /// Nobody can ask.
    pub fn none() -> Self {
        Self { inbox: mpsc::channel(1).1 }
    }

    /// The next question; None when nobody can ask.
    pub async fn next(&mut self) -> Option<Question> {
        self.inbox.recv().await
    }
}

struct Server {
    ask: mpsc::Sender<Question>,
    beat: Beat,
    /// Held while a page is made: whoever else wants one waits for it.
    latest: Mutex<Option<Page>>,
}

struct Page {
    made: Instant,
    form: Form,
    text: Bytes,
}

type Answer = Response<Full<Bytes>>;

fn run(runtime: &Runtime, socket: TcpListener, server: Arc<Server>) {
    runtime.block_on(async {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => accept(listener, server).await,
            Err(error) => debug!(%error, "cannot accept on the metrics' address"),
        }
    });
}

async fn accept(listener: tokio::net::TcpListener, server: Arc<Server>) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => accepted,
            _ = clients.join_next(), if !clients.is_empty() => continue,
            () = server.ask.closed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let served = serve(stream, Arc::clone(&server));
                // One that takes too long, or went away, has had its chance.
                clients.spawn(async { drop(timeout(PATIENCE, served).await) });
            }
            Err(error) => {
                debug!(%error, "cannot accept on the metrics' address");
                sleep(RECOVER).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, server: Arc<Server>) {
    let answer = service_fn(|request| answer(request, Arc::clone(&server)));
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_HEAD).header_read_timeout(None);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        debug!(%error, "a client of the metrics was not served");
    }
}

async fn answer(request: Request<Incoming>, server: Arc<Server>) -> Result<Answer, Infallible> {
    let answer = match (request.uri().path(), request.method()) {
        ("/metrics" | "/healthz", method) if method != Method::GET && method != Method::HEAD => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("it is a header's value"));
            answer
        }
        ("/metrics", _) => server.metrics(Form::wanted_by(accepted(request.headers()))).await,
        ("/healthz", _) => server.health(),
        _ => plain(StatusCode::NOT_FOUND, "there is /metrics and /healthz\n"),
    };
    Ok(answer)
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok())
}

impl Server {
    fn health(&self) -> Answer {
        match self.standstill() {
            None => plain(StatusCode::OK, "ok\n"),
            Some(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }

    /// What to say of a loop that does not go round.
    fn standstill(&self) -> Option<String> {
        let age = self.beat.age(Instant::now());
        (age > STANDSTILL).then(|| format!("the agent's loop has stood still for {} s\n", age.as_secs()))
    }

    async fn metrics(&self, form: Form) -> Answer {
        let mut latest = self.latest.lock().await;
        let text = match &*latest {
            Some(page) if page.form == form && page.made.elapsed() < FRESH => page.text.clone(),
            _ => match self.page(form).await {
                Ok(text) => {
                    *latest = Some(Page { made: Instant::now(), form, text: text.clone() });
                    text
                }
                Err(reason) => return plain(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
        };
        drop(latest);
        respond(StatusCode::OK, form.content_type(), text)
    }

    /// A page, or why there is none.
    async fn page(&self, form: Form) -> Result<Bytes, String> {
        if let Some(reason) = self.standstill() {
            return Err(reason);
        }
        let (question, answer) = oneshot::channel();
        let ask = async {
            self.ask.send(question).await.ok()?;
            answer.await.ok()
        };
        match timeout(ANSWER, ask).await {
            Ok(Some(scrape)) => {
                let page = spawn_blocking(move || form.page(scrape)).await;
                page.map(Bytes::from).map_err(|error| format!("no page could be made: {error}\n"))
            }
            Ok(None) => Err("the agent is about to end\n".to_owned()),
            Err(_) => Err(format!("the agent's loop did not answer within {} s\n", ANSWER.as_secs())),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("it is a header's value"));
    answer
}
