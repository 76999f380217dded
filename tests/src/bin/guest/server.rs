//! A server that does as the request's path says: `/../KIND/NUMBER`. Where it listens decides how it takes requests
//! and which process answers them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use rustix::net::Shutdown;
use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, wait};
use tests::client::Address;

use crate::calls::{Receive, Transmit, write_all, write_vectored};
use crate::requests::{Request, Requests};

/// Beginning of every body, and all of a large one.
static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];
const CHUNK: &[u8] = b"a\r\nxxxxxxxxxx\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const PREFORKED: usize = 2;
const PORTS: &str = "ports";
const CONTENT: &str = "content";

/// Who takes the requests of a connection, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// A thread for each connection.
    Threads(Receive),
    /// One thread reads and another one writes, each through a descriptor of its own.
    Pair,
    /// Processes that were there before the first connection.
    Prefork,
    /// A process for each connection, which is accepted before it is forked.
    Fork,
}

impl Workers {
    pub fn all() -> Vec<Self> {
        let threads = Receive::value_variants().iter().map(|receive| Self::Threads(*receive));
        threads.chain([Self::Pair, Self::Prefork, Self::Fork]).collect()
    }

    pub fn name(self) -> String {
        match self {
            Self::Threads(receive) => name_of(&receive),
            Self::Pair => "pair".to_owned(),
            Self::Prefork => "prefork".to_owned(),
            Self::Fork => "fork".to_owned(),
        }
    }
}

/// How a connection ends whose response does not say where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ending {
    Close,
    /// Something else takes the descriptor's place.
    Dup2,
    Dup3,
    Shutdown,
    /// The body goes out through a second descriptor, the first one being closed.
    Duplicate,
    /// The process ends.
    Exit,
    /// The connection is closed and nothing was said.
    Silence,
    /// The process ends and nothing was said.
    SilentExit,
}

/// The name of a kind in paths.
pub fn name_of(kind: &impl ValueEnum) -> String {
    kind.to_possible_value().expect("no kind is skipped").get_name().to_owned()
}

/// Where each kind of workers listens.
pub struct Places(BTreeMap<String, u16>);

impl Places {
    /// None as long as the server in `dir` is not ready.
    pub fn of(dir: &Path) -> Option<Self> {
        let ports = fs::read_to_string(dir.join(PORTS)).ok()?;
        let ports = ports.lines().map(|line| {
            let (name, port) = line.split_once(' ')?;
            Some((name.to_owned(), port.parse().ok()?))
        });
        ports.collect::<Option<_>>().map(Self)
    }

    /// Addresses over TCP and over a Unix socket, each with its name.
    pub fn addresses(&self, dir: &Path, workers: Workers) -> [(&'static str, Address); 2] {
        let name = workers.name();
        let tcp = SocketAddr::from((Ipv4Addr::LOCALHOST, self.0[&name]));
        [("tcp", Address::Tcp(tcp)), ("unix", Address::Unix(dir.join(name)))]
    }
}

/// Serves in `dir` until it is killed.
pub fn serve(dir: &Path) -> Result<()> {
    fs::write(dir.join(CONTENT), BODY).context("cannot write the file to send from")?;
    let mut ports = String::new();
    let mut threaded = Vec::new();
    for workers in Workers::all() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        ports += &format!("{} {}\n", workers.name(), tcp.local_addr().context("it is bound")?.port());
        let unix = UnixListener::bind(dir.join(workers.name())).context("cannot listen")?;
        for listener in [Listener::Tcp(tcp), Listener::Unix(unix)] {
            match workers {
                Workers::Threads(_) | Workers::Pair => threaded.push((workers, listener)),
                Workers::Prefork => {
                    for _ in 0..PREFORKED {
                        if fork()? == Side::Child {
                            serve_in_turn(&listener, dir);
                        }
                    }
                }
                Workers::Fork => {
                    if fork()? == Side::Child {
                        fork_for_each(&listener, dir);
                    }
                }
            }
        }
    }
    // From here on there are threads, and no process is forked.
    thread::scope(|scope| -> Result<()> {
        for (workers, listener) in &threaded {
            scope.spawn(|| {
                loop {
                    let connection = listener.accept();
                    thread::Builder::new()
                        .spawn_scoped(scope, || serve_connection(connection, *workers, dir))
                        .expect("a thread can be started");
                }
            });
        }
        let unfinished = dir.join("ports.new");
        fs::write(&unfinished, &ports).context("cannot write the ports")?;
        fs::rename(&unfinished, dir.join(PORTS)).context("cannot write the ports")
    })
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> OwnedFd {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(connection, _)| {
                connection.set_nodelay(true)?;
                Ok(connection.into())
            }),
            Self::Unix(listener) => listener.accept().map(|(connection, _)| connection.into()),
        };
        accepted.expect("connections can be accepted")
    }
}

#[derive(PartialEq, Eq)]
enum Side {
    Parent,
    Child,
}

fn fork() -> Result<Side> {
    // SAFETY: no thread has been started, so the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot fork"),
        0 => {
            set_parent_process_death_signal(Some(Signal::KILL)).context("cannot die with our parent")?;
            Ok(Side::Child)
        }
        _ => Ok(Side::Parent),
    }
}

fn serve_in_turn(listener: &Listener, dir: &Path) -> ! {
    loop {
        serve_connection(listener.accept(), Workers::Prefork, dir);
    }
}

fn fork_for_each(listener: &Listener, dir: &Path) -> ! {
    loop {
        let connection = listener.accept();
        if fork().expect("a process can be forked") == Side::Child {
            serve_connection(connection, Workers::Fork, dir);
            std::process::exit(0);
        }
        drop(connection);
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

fn serve_connection(connection: OwnedFd, workers: Workers, dir: &Path) {
    let served = match workers {
        Workers::Threads(receive) => serve_alone(connection, receive, dir),
        Workers::Pair => serve_as_pair(&connection, dir),
        Workers::Prefork | Workers::Fork => serve_alone(connection, Receive::Read, dir),
    };
    if let Err(error) = served {
        let _ = writeln!(io::stderr(), "server, {}: {error:#}", workers.name());
    }
}

fn serve_alone(mut connection: OwnedFd, receive: Receive, dir: &Path) -> Result<()> {
    let file = content(dir)?;
    let mut requests = Requests::new(receive);
    while let Some(request) = requests.next(connection.as_fd())? {
        let Some(still_open) = answer(connection, &request, &file)? else { break };
        connection = still_open;
    }
    Ok(())
}

fn serve_as_pair(reading: &OwnedFd, dir: &Path) -> Result<()> {
    let (file, mut writing) = (content(dir)?, reading.try_clone()?);
    let (sender, taken) = mpsc::channel::<Request>();
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> Result<()> {
            for request in taken {
                let Some(still_open) = answer(writing, &request, &file)? else { break };
                writing = still_open;
            }
            Ok(())
        });
        let mut requests = Requests::new(Receive::Read);
        while let Some(request) = requests.next(reading.as_fd())? {
            sender.send(request).context("the writer has ended")?;
        }
        drop(sender);
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    })
}

fn content(dir: &Path) -> Result<File> {
    File::open(dir.join(CONTENT)).context("cannot open the file to send from")
}

/// Answers as the path says; none when that ended the connection.
fn answer(connection: OwnedFd, request: &Request, file: &File) -> Result<Option<OwnedFd>> {
    let mut words = request.path.rsplit('/');
    let (number, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let number: usize = number.parse().with_context(|| format!("no number in {}", request.path))?;
    let head = format!("HTTP/1.1 200 OK\r\nServer: guest\r\nContent-Length: {number}\r\n\r\n");
    if request.method == "HEAD" {
        write_all(&connection, head.as_bytes())?;
    } else if let Ok(way) = Transmit::from_str(kind, false) {
        way.send(connection.as_fd(), head.as_bytes(), &BODY[..number], file)?;
    } else if let Ok(ending) = Ending::from_str(kind, false) {
        return end(connection, ending, &BODY[..number]).map(|()| None);
    } else {
        match kind {
            "status" => write_all(&connection, format!("HTTP/1.1 {number} X\r\n\r\n").as_bytes())?,
            "interim" => {
                write_all(&connection, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")?;
                write_vectored(&connection, &[head.as_bytes(), &BODY[..number]])?;
            }
            "chunks" => {
                write_all(&connection, CHUNKED)?;
                (0..number).try_for_each(|_| write_all(&connection, CHUNK))?;
                write_all(&connection, LAST_CHUNK)?;
            }
            "chunked" => {
                let chunks = std::iter::repeat_n(CHUNK, number);
                let buffers: Vec<&[u8]> = [CHUNKED].into_iter().chain(chunks).chain([LAST_CHUNK]).collect();
                write_vectored(&connection, &buffers)?;
            }
            _ => bail!("no kind of answer: {kind}"),
        }
    }
    Ok(Some(connection))
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Answers with a body that goes on until the end, and ends.
fn end(mut connection: OwnedFd, ending: Ending, body: &[u8]) -> Result<()> {
    if !matches!(ending, Ending::Silence | Ending::SilentExit) {
        write_all(&connection, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        if ending == Ending::Duplicate {
            let second = connection.try_clone()?;
            drop(std::mem::replace(&mut connection, second));
        }
        write_all(&connection, body)?;
    }
    match ending {
        Ending::Close | Ending::Duplicate | Ending::Silence => drop(connection),
        Ending::Dup2 => rustix::io::dup2(File::open("/dev/null")?, &mut connection)?,
        Ending::Dup3 => {
            rustix::io::dup3(File::open("/dev/null")?, &mut connection, rustix::io::DupFlags::empty())?;
        }
        Ending::Shutdown => {
            rustix::net::shutdown(&connection, Shutdown::Write)?;
            // The client ends too.
            Receive::Read.take(connection.as_fd(), &mut [0; 16])?;
        }
        Ending::Exit | Ending::SilentExit => std::process::exit(0),
    }
    Ok(())
}
