//! Apps that report by their official client, all with the same API (see `tests/e2e/apps/official`).

use std::fs::{self};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::app::{apps_dir, free_port, installed};
use crate::client::{Address, Client};
use crate::eventually::eventually;
use crate::process::{ProcessGroup, ending_with_us};
use crate::scratch::Scratch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// Under uvicorn, on asyncio and h11.
    FastApi,
    /// Django Ninja under gunicorn, one worker.
    Ninja,
    Express,
}

/// Where an official client reports to, which decides on its generation.
#[derive(Clone, Copy, Debug)]
pub enum Reporting<'a> {
    /// The hub's own protocol: 0.25 in Python and JavaScript.
    ToHub { url: &'a str, client_id: &'a str },
    /// OTLP: 1.0, in Python alone. Each answer takes [`PAUSE`] longer.
    ToCollector { url: &'a str, write_token: &'a str },
}

/// An app that runs. Killed with its children when dropped.
#[derive(Debug)]
pub struct Official {
    group: ProcessGroup,
    address: Address,
    dir: Scratch,
}

/// A bucket of an exponential histogram is a tenth of the value that is in it. With this much in every answer, that is
/// more than what a server does before and after the app, which only one of the two measures.
pub const PAUSE: Duration = Duration::from_millis(100);

/// The last messages go out before it ends.
const END: Duration = Duration::from_secs(20);

impl Official {
    /// Starts it. It is ready once its client has announced it.
    ///
    /// # Panics
    /// When it is not installed, with the command that installs it.
    pub fn start(framework: Framework, reporting: Reporting<'_>) -> Self {
        let (dir, port) = (Scratch::new("official"), free_port());
        let mut command = framework.command(reporting, port);
        match reporting {
            Reporting::ToHub { url, client_id } => {
                command.env("APITALLY_HUB_BASE_URL", url).env("APITALLY_CLIENT_ID", client_id)
            }
            Reporting::ToCollector { url, write_token } => {
                command.env("APITALLY_OTLP_ENDPOINT", url).env("APITALLY_WRITE_TOKEN", write_token);
                command.env("PAUSE", PAUSE.as_secs_f64().to_string())
            }
        };
        command
            // The clients keep their identity in the directory for temporary files.
            .env("TMPDIR", &*dir)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(apps_dir().join("official"));
        let group = ProcessGroup::start(&mut command, &dir.join("log"));
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self { group, address, dir }
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    pub fn client(&self) -> Client {
        Client::of(&self.address)
    }

    /// Asks it to end, on which clients in Python send what they have, and waits until it has.
    pub fn end(&mut self) {
        self.group.signal_leader(Signal::TERM);
        eventually("the app ends", END, || self.group.leader_has_exited().then_some(()));
    }
}

impl Drop for Official {
    fn drop(&mut self) {
        self.group.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the app\n{}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        }
    }
}

impl Framework {
    /// The OpenAPI document of the API where one lies beside the app: where its official client announces none.
    pub fn document(self) -> Option<String> {
        let path = apps_dir().join("official/express_openapi.json");
        (self == Self::Express)
            .then(|| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn command(self, reporting: Reporting<'_>, port: u16) -> Command {
        let environment = match reporting {
            Reporting::ToHub { .. } => "official-0.25",
            Reporting::ToCollector { .. } => "official-1.0",
        };
        let python = |program: &str| ending_with_us(installed(&format!("{environment}/bin/{program}")));
        match self {
            Self::FastApi => {
                let mut command = python("uvicorn");
                command.args(["--port", &port.to_string(), "--no-access-log", "fastapi_app:app"]);
                command
            }
            Self::Ninja => {
                let mut command = python("gunicorn");
                command.args(["--bind", &format!("127.0.0.1:{port}"), "--workers", "1"]);
                command.args(["--no-control-socket", "ninja_app:application"]);
                command
            }
            Self::Express => {
                let mut command = ending_with_us("node");
                command
                    .env("LISTEN", port.to_string())
                    .env("NODE_PATH", installed("official-node/node_modules"));
                command.arg("express_app.mjs");
                command
            }
        }
    }
}
