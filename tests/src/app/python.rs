//! Servers in Python, and uWSGI.

use std::process::Command;

use super::{Site, installed};
use crate::client::Address;
use crate::process::ending_with_us;

/// Seconds that a connection may be idle; more than any test takes.
const KEEP_ALIVE: &str = "75";

pub(super) fn ninja(site: &Site<'_>) -> Command {
    let mut command = gunicorn(site, "gthread", "ninja_app:application");
    command.args(["--threads", "4", "--preload"]);
    command
}

pub(super) fn gunicorn_sync(site: &Site<'_>) -> Command {
    gunicorn(site, "sync", "wsgi_app:application")
}

fn gunicorn(site: &Site<'_>, worker_class: &str, app: &str) -> Command {
    let mut command = python("gunicorn");
    command.args(["--workers", "2", "--worker-class", worker_class, "--keep-alive", KEEP_ALIVE]);
    command.args(["--no-control-socket", "--bind", &site.bind("unix:"), app]);
    command
}

pub(super) fn fastapi(site: &Site<'_>) -> Command {
    uvicorn(site, "fastapi_app:app")
}

pub(super) fn uvicorn_workers(site: &Site<'_>) -> Command {
    let mut command = uvicorn(site, "asgi_app:app");
    command.args(["--workers", "2", "--loop", "asyncio", "--http", "h11"]);
    command
}

fn uvicorn(site: &Site<'_>, app: &str) -> Command {
    let mut command = python("uvicorn");
    match site.address {
        Address::Tcp(address) => {
            command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()])
        }
        Address::Unix(path) => command.arg("--uds").arg(path),
    };
    command.args(["--no-access-log", "--timeout-keep-alive", KEEP_ALIVE, app]);
    command
}

pub(super) fn hypercorn(site: &Site<'_>) -> Command {
    let mut command = python("hypercorn");
    command.args([
        "--workers",
        "2",
        "--keep-alive",
        KEEP_ALIVE,
        "--bind",
        &site.bind("unix:"),
        "asgi_app:app",
    ]);
    command
}

pub(super) fn daphne(site: &Site<'_>) -> Command {
    let mut command = python("daphne");
    match site.address {
        Address::Tcp(address) => {
            command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
        }
        Address::Unix(path) => command.arg("-u").arg(path),
    };
    command.args(["--verbosity", "0", "asgi_app:app"]);
    command
}

pub(super) fn waitress(site: &Site<'_>) -> Command {
    let mut command = python("waitress-serve");
    match site.address {
        Address::Tcp(address) => command.arg(format!("--listen={address}")),
        Address::Unix(path) => command.arg(format!("--unix-socket={}", path.display())),
    };
    command.args(["--threads=4", "--channel-timeout=75", "wsgi_app:application"]);
    command
}

pub(super) fn uwsgi_http(site: &Site<'_>) -> Command {
    uwsgi(site, "--http-socket")
}

pub(super) fn uwsgi_http11(site: &Site<'_>) -> Command {
    let mut command = uwsgi(site, "--http11-socket");
    // A connection that is kept open keeps its thread.
    command.args(["--threads", "8"]);
    command
}

/// A process of its own speaks HTTP, and hands the requests to the workers in uWSGI's protocol.
pub(super) fn uwsgi_router(site: &Site<'_>) -> Command {
    let mut command = uwsgi(site, "--http");
    command.args(["--http-keepalive", "--http-chunked-input"]);
    command
}

fn uwsgi(site: &Site<'_>, socket: &str) -> Command {
    let mut command = ending_with_us("uwsgi");
    command.args([
        "--plugins",
        "http,python3",
        "--need-app",
        "--master",
        "--processes",
        "2",
        "--die-on-term",
    ]);
    command.args([socket, &site.bind(""), "--wsgi-file", "wsgi_app.py"]);
    without_bytecode(&mut command);
    command
}

fn python(program: &str) -> Command {
    let mut command = ending_with_us(installed(&format!("venv/bin/{program}")));
    without_bytecode(&mut command);
    command
}

/// The apps lie in the tree, where nothing is to appear.
fn without_bytecode(command: &mut Command) {
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", super::apps_dir());
}
