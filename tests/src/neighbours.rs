//! Other programs on the host: those that a target is a client of.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::eventually::let_pass;

/// Long enough for the other side to read what came before on its own.
const BETWEEN_WRITES: Duration = Duration::from_millis(5);

/// A server in a thread of the test. It listens as long as the test program runs.
#[derive(Debug)]
pub struct Neighbour {
    address: SocketAddr,
    answered: Arc<AtomicU64>,
}

impl Neighbour {
    /// An HTTP server that keeps connections open. Bodies come on their own and begin with a word and a space, as
    /// requests do.
    pub fn http() -> Self {
        Self::serving(|stream, answered| {
            let mut lines = BufReader::new(stream.try_clone()?).lines();
            let mut stream = stream;
            while let Some(line) = lines.next().transpose()? {
                // A request without a body ends at the first empty line.
                if line.is_empty() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")?;
                    let_pass(BETWEEN_WRITES);
                    stream.write_all(b"Hello neighbour")?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })
    }

    /// A database: a greeting, then for each command a length and, on its own, a value. The command is three lines,
    /// the last of which names the value: `ROW` is plain, `REQ` reads like a request.
    pub fn database() -> Self {
        Self::serving(|mut stream, answered| {
            stream.write_all(b"+ready\r\n")?;
            let mut lines = BufReader::new(stream.try_clone()?).lines();
            while let (Some(_), Some(_), Some(name)) = (lines.next(), lines.next(), lines.next()) {
                let value = match name?.as_str() {
                    "REQ" => "GET /value HTTP/1.1\r\nHost: nowhere\r\n\r\n",
                    _ => "7;seven;1.75",
                };
                write!(stream, "${}\r\n", value.len())?;
                let_pass(BETWEEN_WRITES);
                stream.write_all(value.as_bytes())?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn serving(serve: fn(TcpStream, &AtomicU64) -> io::Result<()>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let answered = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&answered);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // A client that went away is nothing to report.
                std::thread::spawn(move || serve(stream, &counter).ok());
            }
        });
        Self { address, answered }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}
