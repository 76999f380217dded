//! Holds many connections open and sends a request over each when asked, see `tests::crowd`.
#![allow(clippy::print_stdout, reason = "what it prints is how tests know where it is")]

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use tests::crowd::{READY, REQUEST};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let address: SocketAddr = words.next().context("say where to connect to, as host:port")?.parse()?;
    let connections: usize = words.next().context("say how many connections to open")?.parse()?;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot ask for more descriptors")?;

    let mut streams = Vec::with_capacity(connections);
    let mut length = None;
    for number in 0..connections {
        let opened = TcpStream::connect(address);
        let mut stream = opened.with_context(|| format!("connection {number} of {connections}"))?;
        ask(&mut stream, &mut length)?;
        streams.push(stream);
    }
    println!("{READY}");
    for line in std::io::stdin().lock().lines() {
        line?;
        for stream in &mut streams {
            ask(stream, &mut length)?;
        }
        println!("{READY}");
    }
    Ok(())
}

/// Sends a request and reads the answer, which is as long as the first one.
fn ask(stream: &mut TcpStream, length: &mut Option<usize>) -> Result<()> {
    let mut buffer = [0; 1024];
    stream.write_all(REQUEST)?;
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        ensure!(count > 0, "closed after {filled} bytes");
        filled += count;
        let known = *length.get_or_insert(filled);
        ensure!(filled <= known && buffer.starts_with(b"HTTP/1.1 200 "), "not the answer of before");
        if filled == known {
            return Ok(());
        }
    }
}
