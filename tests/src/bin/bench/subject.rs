//! What is measured: servers of which each request costs little, each on one processor of its own.

use std::fs::{self};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use tests::agent::{CLIENT_ID, WRITE_TOKEN};
use tests::app::{apps_dir, free_port, installed};
use tests::client::{Address, Client, Request};
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::process::{ProcessGroup, children, cpu_time, ending_with_us};
use tests::scratch::Scratch;

/// Importing Django on a busy machine takes seconds.
const START: Duration = Duration::from_secs(30);
/// The length of nginx's longer answer, bytes.
pub const KILOBYTE: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Two bytes for a request without a body: the harshest.
    Nginx,
    /// A kilobyte each way.
    NginxKilobyte,
    /// Axum, and so hyper.
    Axum,
    /// Under uvicorn.
    FastApi,
    /// Django Ninja under gunicorn with threads.
    Ninja,
}

/// The official client of an app in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Official {
    /// 0.25, which reports to the hub.
    Hub,
    /// 1.0, which reports by OTLP, with what it does unless told otherwise.
    Otlp,
}

/// A server that runs. Killed with its children when dropped.
pub struct Server {
    group: ProcessGroup,
    address: SocketAddr,
    dir: Scratch,
}

impl Subject {
    pub const ALL: [Self; 5] = [Self::Nginx, Self::NginxKilobyte, Self::Axum, Self::FastApi, Self::Ninja];

    /// On the command line, and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::NginxKilobyte => "nginx-1k",
            Self::Axum => "axum",
            Self::FastApi => "fastapi",
            Self::Ninja => "ninja",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Nginx => "nginx, `return 200`",
            Self::NginxKilobyte => "nginx, 1 KB each way",
            Self::Axum => "axum (hyper), 1 KB",
            Self::FastApi => "uvicorn + FastAPI",
            Self::Ninja => "gunicorn + Django Ninja",
        }
    }

    pub fn has_official_client(self) -> bool {
        matches!(self, Self::FastApi | Self::Ninja)
    }

    /// Method, path and length of the request's body.
    pub fn request(self) -> (&'static str, &'static str, usize) {
        match self {
            Self::Nginx => ("GET", "/plain", 0),
            Self::NginxKilobyte => ("POST", "/kilobyte", KILOBYTE),
            Self::Axum => ("GET", "/blob/1000", 0),
            Self::FastApi | Self::Ninja => ("GET", "/items/7", 0),
        }
    }

    /// Starts it on this processor and waits until it answers.
    ///
    /// # Panics
    /// When it does not, with what it printed; when it is not installed, with the command that installs it.
    pub fn start(self, cpu: usize, official: Option<(Official, &FakeHub)>) -> Server {
        let (dir, port) = (Scratch::new("bench"), free_port());
        let mut command = ending_with_us("taskset");
        command.args(["--cpu-list", &cpu.to_string()]);
        self.add_words(&mut command, &dir, port, official.map(|(client, _)| client));
        match official {
            Some((Official::Hub, hub)) => {
                command.env("APITALLY_CLIENT_ID", CLIENT_ID).env("APITALLY_HUB_BASE_URL", hub.url());
            }
            Some((Official::Otlp, hub)) => {
                command.env("APITALLY_WRITE_TOKEN", WRITE_TOKEN).env("APITALLY_OTLP_ENDPOINT", hub.url());
            }
            None => {}
        }
        command
            // The official clients keep their identity in the directory for temporary files.
            .env("TMPDIR", &*dir)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(apps_dir().join("bench"));
        let group = ProcessGroup::start(&mut command, &dir.join("log"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server { group, address, dir };
        let (method, path, length) = self.request();
        let request = Request::new(method, path).sized(&vec![b'x'; length]);
        eventually(&format!("{} answers", self.name()), START, || {
            assert!(!server.group.leader_has_exited(), "{} ended\n{}", self.name(), server.log());
            Client::of(&Address::Tcp(address))
                .exchange(&request)
                .ok()
                .filter(|reply| reply.exchange.status == 200)
        });
        server
    }

    fn add_words(self, command: &mut Command, dir: &Scratch, port: u16, official: Option<Official>) {
        let environment = match official {
            Some(Official::Otlp) => "official-1.0",
            Some(Official::Hub) | None => "official-0.25",
        };
        let python = |program: &str| installed(&format!("{environment}/bin/{program}"));
        let port_text = port.to_string();
        match self {
            Self::Nginx | Self::NginxKilobyte => {
                let config = apps_dir().join("bench/nginx.conf");
                let mut config = fs::read_to_string(config).expect("the file is in the tree");
                let kilobyte = "x".repeat(KILOBYTE);
                for (name, value) in
                    [("dir", &*dir.to_string_lossy()), ("port", &port_text), ("kilobyte", &kilobyte)]
                {
                    config = config.replace(&format!("{{{{{name}}}}}"), value);
                }
                let path = dir.join("nginx.conf");
                fs::write(&path, config).expect("a fresh directory can be written to");
                command.args(["nginx", "-c"]).arg(path);
            }
            Self::Axum => {
                let ours = std::env::current_exe().expect("a program knows its own path");
                command.arg(ours.with_file_name("axum-app")).arg(port_text);
            }
            Self::FastApi => {
                command.arg(python("uvicorn")).args([
                    "--port",
                    &port_text,
                    "--no-access-log",
                    "fastapi_app:app",
                ]);
            }
            Self::Ninja => {
                command.arg(python("gunicorn")).args(["--bind", &format!("127.0.0.1:{port_text}")]);
                command.args([
                    "--workers",
                    "1",
                    "--threads",
                    "4",
                    "--keep-alive",
                    "75",
                    "--no-control-socket",
                ]);
                command.arg("ninja_app:application");
            }
        }
    }
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time of all its processes.
    pub fn cpu_time(&self) -> Duration {
        children(self.pid()).into_iter().chain([self.pid()]).map(cpu_time).sum()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}
