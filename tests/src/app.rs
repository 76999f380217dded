//! Real servers, from their packages, each with the same little API (see `tests/e2e/apps`).

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client::{Address, Client, Request};
use crate::eventually::eventually;
use crate::process::{ProcessGroup, ending_with_us};
use crate::scratch::Scratch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Django Ninja under gunicorn, two workers with four threads each.
    Ninja,
    /// FastAPI under uvicorn, with uvloop and httptools.
    FastApi,
    /// Express on Node.
    Express,
    /// Static files by sendfile, two workers.
    Nginx,
}

/// A server that runs. Killed with its children when dropped.
#[derive(Debug)]
pub struct App {
    group: ProcessGroup,
    address: Address,
    dir: Scratch,
}

/// What an [`App`] is started with.
#[derive(Debug)]
pub struct AppBuilder {
    server: Server,
    on_unix_socket: bool,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// Importing Django on a busy machine takes seconds.
const START: Duration = Duration::from_secs(30);
/// Someone else may take the port that we found free before the server does.
const TRIES: usize = 3;

/// Sizes of the files that nginx serves below `/blob`, `/chunked` and, once stored, `/stored`.
pub const FILE_SIZES: [usize; 9] = [0, 1, 999, 1000, 4096, 65_536, 300_000, 1_000_000, 5_000_000];
/// The path and the length of a file of nothing but zeros, which takes no space.
pub const SPARSE_FILE: (&str, u64) = ("/sparse", 1 << 30);

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
    /// Only for servers under uvicorn and gunicorn.
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
        let dir = Scratch::new("app");
        let address = if self.on_unix_socket {
            Address::Unix(dir.join("socket"))
        } else {
            Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())))
        };
        let child = self.spawn(&dir, &address);
        let mut app = App { group: ProcessGroup::of(child), address, dir };
        let started = eventually(&format!("{:?} answers", self.server), START, || {
            if app.group.leader_has_exited() {
                return Some(false);
            }
            let answers = app.client().exchange(&Request::get("/items")).is_ok();
            (answers && app.workers().len() >= self.server.workers()).then_some(true)
        });
        if started { Ok(app) } else { Err(app.log()) }
    }

    fn spawn(&self, dir: &Path, address: &Address) -> Child {
        let mut command = match self.server {
            Server::Ninja => gunicorn(address),
            Server::FastApi => uvicorn(address),
            Server::Express => express(address),
            Server::Nginx => nginx(dir, address),
        };
        let log = File::create(dir.join("log")).expect("a fresh directory can be written to");
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(apps_dir())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

impl Server {
    fn workers(self) -> usize {
        match self {
            Self::Ninja | Self::Nginx => 2,
            Self::FastApi | Self::Express => 0,
        }
    }
}

fn gunicorn(address: &Address) -> Command {
    let bind = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let mut command = ending_with_us(installed("venv/bin/gunicorn"));
    command.args(["--preload", "--workers", "2", "--worker-class", "gthread", "--threads", "4"]);
    command.args(["--keep-alive", "75", "--no-control-socket", "--bind", &bind]);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg("ninja_app:application");
    command
}

fn uvicorn(address: &Address) -> Command {
    let mut command = ending_with_us(installed("venv/bin/uvicorn"));
    match address {
        Address::Tcp(address) => {
            command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()])
        }
        Address::Unix(path) => command.arg("--uds").arg(path),
    };
    command.args(["--no-access-log", "--timeout-keep-alive", "75"]);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg("fastapi_app:app");
    command
}

fn express(address: &Address) -> Command {
    let mut command = ending_with_us("node");
    command.env("NODE_PATH", installed("node/node_modules"));
    command.env("PORT", port(address).to_string()).arg("express_app.js");
    command
}

fn nginx(dir: &Path, address: &Address) -> Command {
    let program = Path::new("/usr/sbin/nginx");
    assert!(program.exists(), "nginx is not installed; `cargo xtask test` installs it");
    write_files(&dir.join("www"));
    let config = fs::read_to_string(apps_dir().join("nginx.conf")).expect("nginx.conf is in the tree");
    let config =
        config.replace("{{dir}}", &dir.to_string_lossy()).replace("{{port}}", &port(address).to_string());
    let config_file = dir.join("nginx.conf");
    fs::write(&config_file, config).expect("a fresh directory can be written to");
    let mut command = ending_with_us(program);
    command.arg("-p").arg(dir).arg("-c").arg(config_file).arg("-e").arg(dir.join("error.log"));
    command
}

fn write_files(www: &Path) {
    let write = |path: PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("it is below www")).expect("www can be written to");
        fs::write(path, bytes).expect("www can be written to");
    };
    write(www.join("items"), b"[]\n");
    for size in FILE_SIZES {
        let bytes = filler(size);
        write(www.join("blob").join(size.to_string()), &bytes);
        write(www.join("chunked").join(size.to_string()), &bytes);
    }
    fs::create_dir_all(www.join("stored")).expect("www can be written to");
    let sparse = File::create(www.join(SPARSE_FILE.0.trim_start_matches('/')));
    sparse.and_then(|file| file.set_len(SPARSE_FILE.1)).expect("a sparse file takes no space");
}

/// Bytes that read like HTTP, so that whoever looks for messages inside bodies finds some.
pub fn filler(length: usize) -> Vec<u8> {
    const FILLER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n";
    FILLER.iter().copied().cycle().take(length).collect()
}

fn port(address: &Address) -> u16 {
    match address {
        Address::Tcp(address) => address.port(),
        Address::Unix(path) => panic!("this server is not set up for {}", path.display()),
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a listener has an address").port()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is below the workspace")
}

fn apps_dir() -> PathBuf {
    workspace().join("tests/e2e/apps")
}

fn installed(path: &str) -> PathBuf {
    let path = workspace().join("target/servers").join(path);
    assert!(path.exists(), "{} is missing; `cargo xtask test` installs it", path.display());
    path
}
