//! More connections than one process may have open: the program `crowd`, of which a test starts some.
//!
//! It opens its connections, sends a request over each, says `ready`, and does the same again for each line that it is
//! given. At the end of its input it closes them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::origin::built;
use crate::process::ending_with_us;

/// What each connection asks for; the answer's length is known after the first.
pub const REQUEST: &[u8] = b"GET /crowd HTTP/1.1\r\nHost: a\r\n\r\n";
pub const READY: &str = "ready";

#[derive(Debug)]
pub struct Crowd {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Crowd {
    /// Opens so many connections, over each of which a request is answered before this returns.
    ///
    /// # Panics
    /// When that does not work, here and below.
    pub fn open(address: SocketAddr, connections: usize) -> Self {
        let mut command: Command = ending_with_us(built("crowd"));
        command.arg(address.to_string()).arg(connections.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut crowd = Self { child, said };
        crowd.wait_until_ready();
        crowd
    }

    /// Sends another request over each connection and waits for the answers.
    pub fn ask_again(&mut self) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        input.write_all(b"again\n").expect("the crowd listens");
        self.wait_until_ready();
    }

    /// Closes all connections.
    pub fn leave(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "the crowd ended with {status}");
    }

    fn wait_until_ready(&mut self) {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("the crowd speaks");
        assert_eq!(line.trim(), READY, "the crowd fell apart");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
