//! `docs/tested.md`: what was tested with which version.

use std::path::PathBuf;

use crate::app::{Api, ChunkedRequests, Pipelining, Row, SERVERS, workspace};

const HEAD: &str = "\
# Servers that are tested

Each was watched under real traffic, and counted exactly: requests, statuses and sums of body sizes are what the
client knows them to be. `tests/e2e/servers.rs` does this for every kind of socket named here. Where a server does
less than all of HTTP/1.1 the traffic leaves that out; these limits are the server's own. None of them reads or writes
its sockets through io_uring, which the agent does not see.

Written by `cargo xtask record`, with the versions that were installed then.

| server | version | sockets | not in its traffic |
| --- | --- | --- | --- |
";

pub fn path() -> PathBuf {
    workspace().join("docs/tested.md")
}

/// The whole file, given the versions in the order of [`SERVERS`].
pub fn table(versions: &[String]) -> String {
    let lines = SERVERS.iter().zip(versions).map(|(row, version)| line(row, version));
    HEAD.to_owned() + &lines.collect::<String>()
}

fn line(row: &Row, version: &str) -> String {
    let sockets = if row.on_unix_sockets { "TCP, Unix" } else { "TCP" };
    format!("| {} | {version} | {sockets} | {} |\n", row.run_as, limits(row).join(", "))
}

fn limits(row: &Row) -> Vec<&'static str> {
    let can = row.can;
    let pipelining = match can.pipeline {
        Pipelining::None => Some("pipelining"),
        Pipelining::Plain => Some("pipelining of requests with bodies and of streamed answers"),
        Pipelining::All => None,
    };
    let chunks = match can.read_chunks {
        ChunkedRequests::None => Some("request bodies in chunks"),
        ChunkedRequests::Plain => Some("chunk extensions and trailers in requests"),
        ChunkedRequests::All => None,
    };
    let uploads = (row.api == Api::Files).then_some("uploads");
    let others = [
        (!can.keep_alive).then_some("keep-alive"),
        (!can.send_continue).then_some("`100 Continue`"),
        (!can.stream).then_some("answers without a length"),
    ];
    let (head, tail) = others.split_at(1);
    let limits =
        head.iter().copied().chain([pipelining]).chain(tail.iter().copied()).chain([chunks, uploads]);
    limits.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_in_the_table_as_it_is_tested() {
        let written = std::fs::read_to_string(path()).expect("docs/tested.md is in the tree");
        let version_of = |row: &Row| {
            let line = written.lines().find(|line| line.starts_with(&format!("| {} | ", row.run_as)));
            line.and_then(|line| line.split(" | ").nth(1)).unwrap_or("a version").to_owned()
        };
        let versions = SERVERS.each_ref().map(version_of);
        assert_eq!(written, table(&versions), "`cargo xtask record` writes docs/tested.md anew");
    }
}
