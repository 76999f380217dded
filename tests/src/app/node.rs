//! Servers on Node.

use std::process::Command;

use super::{Site, installed};
use crate::process::ending_with_us;

pub(super) fn express(site: &Site<'_>) -> Command {
    node(site, &["express_app.js"])
}

pub(super) fn http(site: &Site<'_>) -> Command {
    node(site, &["node_app.js", "http"])
}

pub(super) fn cluster(site: &Site<'_>) -> Command {
    node(site, &["node_app.js", "cluster"])
}

pub(super) fn fastify(site: &Site<'_>) -> Command {
    node(site, &["node_app.js", "fastify"])
}

fn node(site: &Site<'_>, args: &[&str]) -> Command {
    let mut command = ending_with_us("node");
    command.env("NODE_PATH", installed("node/node_modules")).env("LISTEN", site.port_or_path()).args(args);
    command
}
