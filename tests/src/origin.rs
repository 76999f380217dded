//! Servers that a test sets up for itself: nginx with a configuration of the test's own, a script for Node, and
//! [`crate::scripted`]. Those with the common API are in [`crate::app`].

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::client::{Address, Client};
use crate::eventually::eventually;
use crate::process::{ProcessGroup, ending_with_us};
use crate::scratch::Scratch;

/// A busy machine takes its time.
const START: Duration = Duration::from_secs(30);
/// Someone else may take the port that we found free before the server does.
const TRIES: usize = 3;

/// A server that runs. Killed with its children when dropped; a failing test prints what it said.
#[derive(Debug)]
pub struct Origin {
    group: ProcessGroup,
    address: SocketAddr,
    dir: Scratch,
}

impl Origin {
    /// nginx in the foreground. In `config`, `{{dir}}` stands for a directory of its own, `{{port}}` for the port.
    pub fn nginx(config: &str) -> Self {
        let program = Path::new("/usr/sbin/nginx");
        assert!(program.exists(), "nginx is not installed; `cargo xtask test` installs it");
        Self::start(|dir, address| {
            let file = dir.join("nginx.conf");
            let config = config.replace("{{dir}}", &dir.to_string_lossy());
            let config = config.replace("{{port}}", &address.port().to_string());
            fs::write(&file, config).expect("a fresh directory can be written to");
            let mut command = ending_with_us(program);
            command.arg("-p").arg(dir).arg("-c").arg(file).arg("-e").arg(dir.join("error.log"));
            command
        })
    }

    /// A script from `tests/e2e/apps` under Node, which finds its port in `PORT`.
    pub fn node(script: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/apps").join(script);
        Self::start(|_, address| {
            let mut command = ending_with_us("node");
            command.arg(&script).env("PORT", address.port().to_string());
            command
        })
    }

    /// The server of [`crate::scripted`].
    pub fn scripted() -> Self {
        Self::start(|_, address| scripted_server(address))
    }

    /// Ends a scripted server, and starts another one in its place.
    ///
    /// # Panics
    /// When that does not listen in time, as when somebody else has taken the port.
    pub fn restart_scripted(self) -> Self {
        let address = self.address;
        drop(self);
        Self::start_at(address, |_, address| scripted_server(address))
            .unwrap_or_else(|log| panic!("the server did not come back\n{log}"))
    }

    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// Processes below the one that was started.
    pub fn workers(&self) -> Vec<u32> {
        self.group.children()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn client(&self) -> Client {
        Client::of(&Address::Tcp(self.address))
    }

    /// Asks the server to do what it does on this signal.
    pub fn signal(&self, signal: Signal) {
        self.group.signal_leader(signal);
    }

    /// Everything the server printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// # Panics
    /// When the server does not listen in time, with what it printed.
    fn start(command: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        let mut log = String::new();
        for _ in 0..TRIES {
            match Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), &command) {
                Ok(origin) => return origin,
                Err(printed) => log = printed,
            }
        }
        panic!("the server ended before it listened\n{log}");
    }

    /// # Errors
    /// What the server printed, when it ended.
    fn start_at(address: SocketAddr, command: impl Fn(&Path, SocketAddr) -> Command) -> Result<Self, String> {
        let dir = Scratch::new("origin");
        let file = File::create(dir.join("log")).expect("a fresh directory can be written to");
        let mut command = command(&dir, address);
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut origin = Self { group: ProcessGroup::of(child), address, dir };
        let listens = eventually(&format!("{command:?} listens"), START, || {
            if origin.group.leader_has_exited() {
                return Some(false);
            }
            TcpStream::connect(address).is_ok().then_some(true)
        });
        if listens { Ok(origin) } else { Err(origin.log()) }
    }
}

fn scripted_server(address: SocketAddr) -> Command {
    let mut command = ending_with_us(built("scripted-server"));
    command.arg(address.to_string());
    command
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.group.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

/// A program of this crate, beside the test program.
///
/// # Panics
/// When it is not there, saying how to build it.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/e2e-0123456789abcdef
    let path = test.ancestors().nth(2).expect("cargo puts tests two directories deep").join(name);
    assert!(path.exists(), "{} is missing; build it with `cargo build --package tests`", path.display());
    path
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a listener has an address").port()
}
