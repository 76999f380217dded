//! Answers each request as the request asks for, see `tests::scripted`. `scripted-server HOST:PORT`; prints a
//! line for each answer that it could not send to its end.
#![allow(clippy::print_stdout, reason = "what it prints is the truth that tests compare with")]

use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tests::app::filler;
use tests::eventually::let_pass;
use tests::scripted::{Answer, FIELD, Step, bytes_of};

const READ_AT_ONCE: usize = 64 * 1024;
const LARGEST_HEAD: usize = 64 * 1024;
const STACK: usize = 256 * 1024;

fn main() -> Result<()> {
    let address = std::env::args().nth(1).context("say where to listen, as host:port")?;
    let listener = TcpListener::bind(&address).with_context(|| format!("cannot listen on {address}"))?;
    for stream in listener.incoming() {
        // One that went away before it was accepted is nothing to report.
        let Ok(stream) = stream else { continue };
        let serve = move || {
            // So is one that goes away in the middle: what was sent has been printed.
            let _ = Connection { stream, unused: Vec::new() }.serve();
        };
        std::thread::Builder::new().stack_size(STACK).spawn(serve).context("cannot start a thread")?;
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// Read and not used yet.
    unused: Vec<u8>,
}

/// What a request's head says.
struct Head {
    path: String,
    answer: Answer,
    body: Body,
}

enum Body {
    Length(usize),
    Chunked,
}

impl Connection {
    fn serve(&mut self) -> Result<()> {
        self.stream.set_nodelay(true)?;
        while let Some(head) = self.read_head()? {
            let (mut sent, mut body) = (0, Some(head.body));
            if !head.answer.0.contains(&Step::TakeBody) {
                self.take_body(&mut body)?;
            }
            let outcome = head.answer.0.iter().try_for_each(|step| self.take(step, &mut sent, &mut body));
            if let Err(error) = outcome {
                println!("{} {sent} sent: {error}", head.path);
                return Err(error);
            }
            if head.answer.0.iter().any(|step| matches!(step, Step::Close | Step::Reset | Step::Echo)) {
                return Ok(());
            }
            self.take_body(&mut body)?;
        }
        Ok(())
    }

    fn take(&mut self, step: &Step, sent: &mut usize, body: &mut Option<Body>) -> Result<()> {
        match step {
            Step::Send(text) => self.send(&bytes_of(text), sent)?,
            Step::SendVectored(each, text) => {
                let bytes = bytes_of(text);
                let pieces: Vec<_> = bytes.chunks(*each).map(IoSlice::new).collect();
                *sent += self.stream.write_vectored(&pieces)?;
            }
            Step::Fill(length) => self.send(&filler(*length), sent)?,
            Step::Pause(ms) => let_pass(Duration::from_millis(*ms)),
            Step::TakeBody => self.take_body(body)?,
            Step::Echo => self.echo()?,
            Step::Close => {}
            Step::Reset => rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))?,
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8], sent: &mut usize) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.stream.write(bytes)?;
            *sent += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// `None`: the client sends no more.
    fn read_head(&mut self) -> Result<Option<Head>> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            if let httparse::Status::Complete(length) = request.parse(&self.unused)? {
                let head = Head::of(&request)?;
                self.unused.drain(..length);
                return Ok(Some(head));
            }
            if self.unused.len() > LARGEST_HEAD {
                bail!("an endless head");
            }
            if !self.read_more()? {
                return Ok(None);
            }
        }
    }

    fn take_body(&mut self, body: &mut Option<Body>) -> Result<()> {
        match body.take() {
            None => {}
            Some(Body::Length(length)) => self.drop_bytes(length)?,
            Some(Body::Chunked) => loop {
                let line = self.take_line()?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
                if size == 0 {
                    while !self.take_line()?.is_empty() {}
                    break;
                }
                self.drop_bytes(size + 2)?;
            },
        }
        Ok(())
    }

    fn drop_bytes(&mut self, mut length: usize) -> Result<()> {
        loop {
            let here = length.min(self.unused.len());
            self.unused.drain(..here);
            length -= here;
            if length == 0 {
                return Ok(());
            }
            self.must_read_more()?;
        }
    }

    fn take_line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.unused.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.unused[..end]).into_owned();
                self.unused.drain(..end + 2);
                return Ok(line);
            }
            self.must_read_more()?;
        }
    }

    fn echo(&mut self) -> Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.unused);
            self.stream.write_all(&bytes)?;
            if !self.read_more()? {
                return Ok(());
            }
        }
    }

    fn must_read_more(&mut self) -> Result<()> {
        if self.read_more()? { Ok(()) } else { bail!("the client went away in the middle of a body") }
    }

    /// `false`: the client sends no more.
    fn read_more(&mut self) -> Result<bool> {
        let mut buffer = [0; READ_AT_ONCE];
        let count = self.stream.read(&mut buffer)?;
        self.unused.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

impl Head {
    fn of(request: &httparse::Request<'_, '_>) -> Result<Self> {
        let value = |name: &str| {
            let field = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.map(|field| String::from_utf8_lossy(field.value).into_owned())
        };
        let answer = match value(FIELD) {
            None => Answer::plain(),
            Some(text) => Answer::read(&text).with_context(|| format!("no script: {text}"))?,
        };
        let body = match value("Transfer-Encoding") {
            Some(_) => Body::Chunked,
            None => Body::Length(value("Content-Length").map_or(Ok(0), |length| length.parse())?),
        };
        Ok(Self { path: request.path.unwrap_or_default().to_owned(), answer, body })
    }
}
