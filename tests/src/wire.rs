//! A TCP connection on which a test sends and reads whatever bytes it likes, and that it ends as it likes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// A server that says nothing for so long has nothing to say.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_AT_ONCE: usize = 64 * 1024;

#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// # Panics
    /// When nobody listens; below, when the connection does not do what the test expects of it.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a socket of ours");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket of ours");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket of ours");
        Self { stream }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server takes what we send");
    }

    /// Sends what the server may not want to take: it may have closed the connection.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// The next bytes from the server, so many of them.
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => panic!("closed after {}", shown(&bytes[..filled])),
                Ok(count) => filled += count,
                Err(error) => panic!("{error} after {}", shown(&bytes[..filled])),
            }
        }
        bytes
    }

    /// What the server sends until it ends the connection, in whatever way.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; READ_AT_ONCE];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return bytes,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return bytes,
                Err(error) => panic!("{error} after {}", shown(&bytes)),
            }
        }
    }

    /// Sends no more, and goes on reading.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("a socket of ours");
    }

    /// Closes the connection. The kernel resets it when something is left to be read.
    pub fn close(self) {
        drop(self);
    }

    /// Resets the connection.
    pub fn reset(self) {
        set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a socket of ours");
    }
}

fn shown(bytes: &[u8]) -> String {
    let last = &bytes[bytes.len().saturating_sub(300)..];
    format!("{} bytes, {:?}", bytes.len(), String::from_utf8_lossy(last))
}
