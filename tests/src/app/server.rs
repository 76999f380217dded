//! The table of servers.

use std::process::Command;

use super::version::Said;
use super::{Site, compiled, files, node, proxies, python, scripts};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Django Ninja under gunicorn, two workers with four threads each.
    Ninja,
    GunicornSync,
    /// FastAPI under uvicorn, with uvloop and httptools.
    FastApi,
    UvicornWorkers,
    Hypercorn,
    Daphne,
    Waitress,
    UwsgiHttp,
    UwsgiHttp11,
    UwsgiRouter,
    NodeHttp,
    NodeCluster,
    /// Express on Node.
    Express,
    Fastify,
    /// Static files by sendfile, two workers.
    Nginx,
    Apache,
    ApachePhp,
    Php,
    Caddy,
    Haproxy,
    Go,
    Jdk,
    Tomcat,
    Puma,
    Axum,
}

/// A server: how to start it, and what of the matrix's traffic it takes.
#[derive(Debug)]
pub struct Row {
    pub server: Server,
    /// In file names and tables.
    pub name: &'static str,
    /// What is special about how it is run.
    pub run_as: &'static str,
    version: Said,
    pub(super) command: fn(&Site<'_>) -> Command,
    /// Children that are there once it is ready.
    pub workers: usize,
    /// Whether it also listens on Unix sockets; all do on TCP.
    pub on_unix_sockets: bool,
    /// The app behind it, for a proxy.
    pub before: Option<Server>,
    pub api: Api,
    pub can: Can,
}

/// What there is to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Everything that the apps of `tests/e2e/apps` offer.
    Dynamic,
    /// Files, and statuses that the configuration names.
    Files,
}

/// What of HTTP/1.1 a server does. Where it does less than all, that is its own limit and there without the agent too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Can {
    /// Keeps connections open, and says when it does not.
    pub keep_alive: bool,
    pub pipeline: Pipelining,
    /// Sends `100 Continue` when asked to.
    pub send_continue: bool,
    pub read_chunks: ChunkedRequests,
    /// Sends bodies of which it does not know the length.
    pub stream: bool,
}

/// Several requests that come in one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipelining {
    None,
    /// Without bodies, and with answers of known length.
    Plain,
    All,
}

/// Request bodies in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkedRequests {
    None,
    /// Without extensions and trailers.
    Plain,
    All,
}

impl Can {
    const EVERYTHING: Self = Self {
        keep_alive: true,
        pipeline: Pipelining::All,
        send_continue: true,
        read_chunks: ChunkedRequests::All,
        stream: true,
    };
}

impl Server {
    pub fn row(self) -> &'static Row {
        SERVERS.iter().find(|row| row.server == self).expect("each server has its row")
    }
}

impl Row {
    /// The version that is installed.
    pub fn version(&self) -> String {
        self.version.version()
    }
}

/// What most rows have in common.
const USUAL: Row = Row {
    server: Server::NodeHttp,
    name: "",
    run_as: "",
    version: Said::By(&[]),
    command: node::http,
    workers: 0,
    on_unix_sockets: true,
    before: None,
    api: Api::Dynamic,
    can: Can::EVERYTHING,
};

/// Every server that the agent is tested with.
pub static SERVERS: [Row; 25] = [
    Row {
        server: Server::Ninja,
        name: "gunicorn-gthread",
        run_as: "gunicorn with threads, under it Django Ninja",
        version: Said::ByPython("gunicorn"),
        command: python::ninja,
        workers: 2,
        ..USUAL
    },
    Row {
        server: Server::GunicornSync,
        name: "gunicorn-sync",
        run_as: "gunicorn with its usual workers",
        version: Said::ByPython("gunicorn"),
        command: python::gunicorn_sync,
        workers: 2,
        can: Can { pipeline: Pipelining::None, ..Can::EVERYTHING },
        ..USUAL
    },
    Row {
        server: Server::FastApi,
        name: "uvicorn",
        run_as: "uvicorn with uvloop and httptools, under it FastAPI",
        version: Said::ByPython("uvicorn"),
        command: python::fastapi,
        ..USUAL
    },
    Row {
        server: Server::UvicornWorkers,
        name: "uvicorn-workers",
        run_as: "uvicorn with asyncio and h11, two workers",
        version: Said::ByPython("uvicorn"),
        command: python::uvicorn_workers,
        workers: 2,
        ..USUAL
    },
    Row {
        server: Server::Hypercorn,
        name: "hypercorn",
        run_as: "Hypercorn, two workers",
        version: Said::ByPython("hypercorn"),
        command: python::hypercorn,
        workers: 2,
        ..USUAL
    },
    Row {
        server: Server::Daphne,
        name: "daphne",
        run_as: "Daphne",
        version: Said::ByPython("daphne"),
        command: python::daphne,
        ..USUAL
    },
    Row {
        server: Server::Waitress,
        name: "waitress",
        run_as: "Waitress",
        version: Said::ByPython("waitress"),
        command: python::waitress,
        can: Can { pipeline: Pipelining::Plain, ..Can::EVERYTHING },
        ..USUAL
    },
    Row {
        server: Server::UwsgiHttp,
        name: "uwsgi-http-socket",
        run_as: "uWSGI, `http-socket`",
        version: Said::By(&["uwsgi", "--version"]),
        command: python::uwsgi_http,
        workers: 2,
        can: Can {
            keep_alive: false,
            pipeline: Pipelining::None,
            send_continue: false,
            read_chunks: ChunkedRequests::Plain,
            stream: true,
        },
        ..USUAL
    },
    Row {
        server: Server::UwsgiHttp11,
        name: "uwsgi-http11-socket",
        run_as: "uWSGI, `http11-socket`",
        version: Said::By(&["uwsgi", "--version"]),
        command: python::uwsgi_http11,
        workers: 2,
        can: Can {
            keep_alive: true,
            pipeline: Pipelining::None,
            send_continue: false,
            read_chunks: ChunkedRequests::Plain,
            stream: false,
        },
        ..USUAL
    },
    Row {
        server: Server::UwsgiRouter,
        name: "uwsgi-http",
        run_as: "uWSGI, `http` (its router)",
        version: Said::By(&["uwsgi", "--version"]),
        command: python::uwsgi_router,
        workers: 3,
        can: Can {
            keep_alive: false,
            pipeline: Pipelining::None,
            send_continue: false,
            read_chunks: ChunkedRequests::Plain,
            stream: true,
        },
        ..USUAL
    },
    Row {
        server: Server::NodeHttp,
        name: "node-http",
        run_as: "Node's `http`",
        version: Said::By(&["node", "--version"]),
        command: node::http,
        ..USUAL
    },
    Row {
        server: Server::NodeCluster,
        name: "node-cluster",
        run_as: "Node's `cluster`, two workers",
        version: Said::By(&["node", "--version"]),
        command: node::cluster,
        workers: 2,
        ..USUAL
    },
    Row {
        server: Server::Express,
        name: "express",
        run_as: "Express",
        version: Said::ByNpm("express"),
        command: node::express,
        ..USUAL
    },
    Row {
        server: Server::Fastify,
        name: "fastify",
        run_as: "Fastify",
        version: Said::ByNpm("fastify"),
        command: node::fastify,
        ..USUAL
    },
    Row {
        server: Server::Nginx,
        name: "nginx",
        run_as: "nginx, static files",
        version: Said::By(&["/usr/sbin/nginx", "-v"]),
        command: files::nginx,
        workers: 2,
        api: Api::Files,
        ..USUAL
    },
    Row {
        server: Server::Apache,
        name: "apache",
        run_as: "Apache httpd, event, static files",
        version: Said::By(&["/usr/sbin/apache2", "-v"]),
        command: files::apache,
        workers: 2,
        on_unix_sockets: false,
        api: Api::Files,
        ..USUAL
    },
    Row {
        server: Server::ApachePhp,
        name: "apache-php",
        run_as: "Apache httpd, prefork, PHP as a module",
        version: Said::By(&["/usr/sbin/apache2", "-v"]),
        command: scripts::apache_php,
        workers: 2,
        on_unix_sockets: false,
        ..USUAL
    },
    Row {
        server: Server::Php,
        name: "php",
        run_as: "PHP's own server (`php -S`), two workers",
        version: Said::By(&["/usr/bin/php", "--version"]),
        command: scripts::php,
        workers: 2,
        on_unix_sockets: false,
        can: Can { pipeline: Pipelining::None, send_continue: false, ..Can::EVERYTHING },
        ..USUAL
    },
    Row {
        server: Server::Caddy,
        name: "caddy",
        run_as: "Caddy, static files",
        version: Said::By(&["/usr/bin/caddy", "version"]),
        command: files::caddy,
        api: Api::Files,
        ..USUAL
    },
    Row {
        server: Server::Haproxy,
        name: "haproxy",
        run_as: "HAProxy before an app on Node",
        version: Said::By(&["/usr/sbin/haproxy", "-v"]),
        command: proxies::haproxy,
        before: Some(Server::NodeHttp),
        ..USUAL
    },
    Row {
        server: Server::Go,
        name: "go-net-http",
        run_as: "Go's `net/http`",
        version: Said::By(&["go", "version"]),
        command: compiled::go,
        ..USUAL
    },
    Row {
        server: Server::Jdk,
        name: "jdk-httpserver",
        run_as: "the JDK's `HttpServer`",
        version: Said::By(&["java", "-version"]),
        command: compiled::jdk,
        on_unix_sockets: false,
        can: Can { read_chunks: ChunkedRequests::Plain, ..Can::EVERYTHING },
        ..USUAL
    },
    Row {
        server: Server::Tomcat,
        name: "tomcat",
        run_as: "Tomcat, embedded",
        version: Said::By(&["java", "-cp", compiled::TOMCAT_JARS, "org.apache.catalina.util.ServerInfo"]),
        command: compiled::tomcat,
        ..USUAL
    },
    Row {
        server: Server::Puma,
        name: "puma",
        run_as: "Puma, two workers",
        version: Said::By(&["/usr/bin/puma", "--version"]),
        command: scripts::puma,
        workers: 2,
        can: Can { pipeline: Pipelining::Plain, ..Can::EVERYTHING },
        ..USUAL
    },
    Row {
        server: Server::Axum,
        name: "axum",
        run_as: "axum, and so hyper",
        version: Said::ByCargo("axum"),
        command: compiled::axum,
        ..USUAL
    },
];
