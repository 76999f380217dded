//! Real servers, from their packages, each with the same little API (see `tests/e2e/apps`).

mod compiled;
mod files;
mod node;
mod proxies;
mod python;
mod scripts;
mod server;
mod version;

use std::fs::{self};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Address, Client, Request};
use crate::eventually::eventually;
use crate::process::ProcessGroup;
use crate::scratch::Scratch;

pub use files::{FILE_SIZES, SPARSE_FILE};
pub use server::{Api, Can, ChunkedRequests, Pipelining, Row, SERVERS, Server};

/// A server that runs. Killed with its children when dropped.
#[derive(Debug)]
pub struct App {
    group: ProcessGroup,
    address: Address,
    dir: Scratch,
    behind: Option<Box<App>>,
}

/// What an [`App`] is started with.
#[derive(Debug)]
pub struct AppBuilder {
    server: Server,
    on_unix_socket: bool,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// Where a server is to listen, and what it may use for that.
#[derive(Debug)]
struct Site<'a> {
    address: &'a Address,
    /// A directory of its own.
    dir: &'a Path,
    /// The app that a proxy is before.
    behind: Option<&'a Address>,
}

/// Importing Django on a busy machine takes seconds.
const START: Duration = Duration::from_secs(30);
/// Someone else may take the port that we found free before the server does.
const TRIES: usize = 3;

impl App {
    pub fn start(server: Server) -> Self {
        Self::of(server).start()
    }

    pub fn of(server: Server) -> AppBuilder {
        AppBuilder { server, on_unix_socket: false, args: Vec::new(), env: Vec::new() }
    }

    /// The process that was started; for prefork servers the one that has the workers.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn client(&self) -> Client {
        Client::of(&self.address)
    }

    /// What runs behind a proxy, in processes that are none of the proxy's.
    pub fn behind(&self) -> Option<&App> {
        self.behind.as_deref()
    }

    /// Processes below the one that was started.
    pub fn workers(&self) -> Vec<u32> {
        self.group.children()
    }

    /// Asks the server to do what it does on this signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.group.signal_leader(signal);
    }

    /// Everything the server printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Kills the server with all its processes.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.group.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

impl AppBuilder {
    /// Only for servers whose [`Row`] says that they can.
    pub fn on_unix_socket(mut self) -> Self {
        self.on_unix_socket = true;
        self
    }

    /// Adds to the server's command line.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// When it does not, with what it printed; when it is not installed, with the command that installs it.
    pub fn start(self) -> App {
        let mut log = String::new();
        for _ in 0..TRIES {
            match self.try_to_start() {
                Ok(app) => return app,
                Err(printed) => log = printed,
            }
        }
        panic!("{:?} ended before it answered\n{log}", self.server);
    }

    /// # Errors
    /// What the server printed, when it ended.
    fn try_to_start(&self) -> Result<App, String> {
        let (row, dir) = (self.server.row(), Scratch::new("app"));
        let address = if self.on_unix_socket {
            assert!(row.on_unix_sockets, "{} listens on no Unix socket", row.name);
            Address::Unix(dir.join("socket"))
        } else {
            Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())))
        };
        let behind = row.before.map(|server| Box::new(App::start(server)));
        let site = Site { address: &address, dir: &dir, behind: behind.as_deref().map(App::address) };
        let group = self.spawn(&site);
        let mut app = App { group, address, dir, behind };
        let started = eventually(&format!("{:?} answers", self.server), START, || {
            if app.group.leader_has_exited() {
                return Some(false);
            }
            let answers = app.client().exchange(&Request::get("/items")).is_ok();
            (answers && app.workers().len() >= row.workers).then_some(true)
        });
        if started { Ok(app) } else { Err(app.log()) }
    }

    fn spawn(&self, site: &Site<'_>) -> ProcessGroup {
        let mut command = (self.server.row().command)(site);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(apps_dir());
        ProcessGroup::start(&mut command, &site.dir.join("log"))
    }
}

impl Site<'_> {
    /// The port alone, or the path.
    fn port_or_path(&self) -> String {
        match self.address {
            Address::Tcp(address) => address.port().to_string(),
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// `127.0.0.1:8000`, or the path with what the server wants to read before it.
    fn bind(&self, before_path: &str) -> String {
        match self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("{before_path}{}", path.display()),
        }
    }

    /// Writes a configuration of `tests/e2e/apps`, with `{{dir}}`, `{{apps}}` and the given names filled in.
    fn config(&self, file: &str, values: &[(&str, &str)]) -> PathBuf {
        let mut config = fs::read_to_string(apps_dir().join(file)).expect("the file is in the tree");
        let (dir, apps) = (self.dir.to_string_lossy(), apps_dir());
        for (name, value) in [("dir", &*dir), ("apps", &apps.to_string_lossy())].iter().chain(values) {
            config = config.replace(&format!("{{{{{name}}}}}"), value);
        }
        let path = self.dir.join(file);
        fs::write(&path, config).expect("a fresh directory can be written to");
        path
    }
}

/// Bytes that read like HTTP, so that whoever looks for messages inside bodies finds some.
pub fn filler(length: usize) -> Vec<u8> {
    const FILLER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n";
    FILLER.iter().copied().cycle().take(length).collect()
}

/// The same in the pieces that the apps stream: smaller than a line, larger than a buffer.
pub fn chunks(length: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut left = length;
    [1, 7, 1000, 16_384, 40_000].into_iter().cycle().map_while(move |size| {
        let size = left.min(size);
        left -= size;
        (size > 0).then(|| filler(size))
    })
}

/// A port of 127.0.0.1 that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a listener has an address").port()
}

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is below the workspace")
}

/// Where the apps lie, in the tree.
pub fn apps_dir() -> PathBuf {
    workspace().join("tests/e2e/apps")
}

/// A file below `target/servers`.
///
/// # Panics
/// When it is not there, with the command that installs it.
pub fn installed(path: &str) -> PathBuf {
    found(workspace().join("target/servers").join(path))
}

/// A file that an installation brings.
fn found(path: impl Into<PathBuf>) -> PathBuf {
    let path = path.into();
    assert!(path.exists(), "{} is missing; `cargo xtask servers` installs it", path.display());
    path
}
