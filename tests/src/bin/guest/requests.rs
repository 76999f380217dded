//! The server's side of a connection's requests: where one ends and the next begins.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::{RecvFlags, recv};

use crate::calls::{Receive, write_all};

/// Room for a head, and for what a read brings at once.
const ROOM: usize = 256 * 1024;

/// A request whose body has been taken too.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
}

/// Requests of one connection, in order.
pub struct Requests {
    receive: Receive,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were taken from the socket and not used yet.
    filled: usize,
}

struct Head {
    request: Request,
    /// In bytes, with the empty line.
    length: usize,
    body: Body,
    expects_continue: bool,
}

enum Body {
    Sized(usize),
    Chunked,
}

impl Requests {
    pub fn new(receive: Receive) -> Self {
        Self { receive, buffer: vec![0; ROOM], filled: 0 }
    }

    /// The next one; none when the client has ended.
    pub fn next(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<Request>> {
        match self.take(socket) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            taken => taken.map(Some),
        }
    }

    fn take(&mut self, socket: BorrowedFd<'_>) -> io::Result<Request> {
        let head = loop {
            if let Some(head) = Head::parse(&self.buffer[..self.filled])? {
                break head;
            }
            self.fill_head(socket)?;
        };
        self.use_up(head.length);
        if head.expects_continue {
            write_all(socket, b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match head.body {
            Body::Sized(length) => self.skip(socket, length)?,
            Body::Chunked => loop {
                let line = self.line(socket)?;
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk's size"))?;
                if size == 0 {
                    while !self.line(socket)?.is_empty() {}
                    break;
                }
                self.skip(socket, size)?;
                self.line(socket)?;
            },
        }
        Ok(head.request)
    }

    /// Takes more of a head, and nothing of the body where that is to be taken in another way.
    fn fill_head(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut most = self.buffer.len() - self.filled;
        if !self.receive.reads_bodies() {
            let there = recv(socket, &mut self.buffer[self.filled..], RecvFlags::PEEK)?.0;
            let head = Head::parse(&self.buffer[..self.filled + there])?;
            most = head.map_or(there, |head| head.length - self.filled);
        }
        let length = self.receive.take(socket, &mut self.buffer[self.filled..][..most])?;
        self.filled += some(length)?;
        Ok(())
    }

    fn skip(&mut self, socket: BorrowedFd<'_>, mut left: usize) -> io::Result<()> {
        let here = left.min(self.filled);
        self.use_up(here);
        left -= here;
        while left > 0 {
            left -= some(self.receive.throw_away(socket, left, &mut self.buffer)?)?;
        }
        Ok(())
    }

    fn line(&mut self, socket: BorrowedFd<'_>) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer[..self.filled].windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.use_up(end + 2);
                return Ok(line);
            }
            self.filled += some(self.receive.take(socket, &mut self.buffer[self.filled..])?)?;
        }
    }

    fn use_up(&mut self, length: usize) {
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}

impl Head {
    /// None when it is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut fields);
        let Ok(status) = head.parse(bytes) else { return Err(invalid("a head")) };
        let httparse::Status::Complete(length) = status else { return Ok(None) };
        let value = |name: &str| {
            let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.map(|field| String::from_utf8_lossy(field.value))
        };
        let body = match value("content-length") {
            _ if value("transfer-encoding").is_some() => Body::Chunked,
            Some(length) => Body::Sized(length.parse().map_err(|_| invalid("a length"))?),
            None => Body::Sized(0),
        };
        let expects_continue = value("expect").is_some();
        let text = |part: Option<&str>| part.expect("a complete head has it").to_owned();
        let request = Request { method: text(head.method), path: text(head.path) };
        Ok(Some(Self { request, length, body, expects_continue }))
    }
}

/// Nothing taken is the client's end.
fn some(length: usize) -> io::Result<usize> {
    if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(length) }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be read"))
}
