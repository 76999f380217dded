//! Connections that speak correct HTTP, and what is said on them.

use std::fmt;

use agent_common::conn::{ConnId, Direction};
use arbitrary::{Result, Unstructured};

/// Something that happens on a connection.
#[derive(Clone, Debug)]
pub struct Step {
    pub conn: ConnId,
    /// Time since the step before.
    pub after_ms: u64,
    pub act: Act,
}

#[derive(Clone, Debug)]
pub enum Act {
    /// A system call that moved these bytes.
    Call(Direction, Vec<u8>),
    End(Direction),
    Close,
}

/// In the notation of `agent::pipeline::transcript`, with what repeats left out.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = |direction| if direction == INGRESS { '>' } else { '<' };
        write!(f, "{} ~ {}ms ", self.conn, self.after_ms)?;
        match &self.act {
            Act::Call(direction, bytes) => {
                let shown = &bytes[..bytes.len().min(300)];
                write!(f, "{} {} ({} bytes)", arrow(*direction), shown.escape_ascii(), bytes.len())
            }
            Act::End(direction) => write!(f, "{}x", arrow(*direction)),
            Act::Close => write!(f, "x"),
        }
    }
}

/// An exchange that is to be reported. No two of a dialog have the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub method: &'static str,
    pub path: String,
    pub status: u16,
    /// Bytes; None when it has no body and does not say so.
    pub request_size: Option<u64>,
    pub response_size: u64,
    /// The connection was closed before the whole response was sent.
    pub aborted: bool,
}

/// What happens on some connections, interleaved.
#[derive(Clone, Debug, Default)]
pub struct Dialog {
    pub steps: Vec<Step>,
    pub exchanges: Vec<Exchange>,
    /// Exchanges that are lost for a reason of their own: upgraded.
    pub upgraded: u64,
    /// A server answered before it had read the body.
    pub answers_early: bool,
    /// Each exchange is a turn of its own: nobody pipelines, waits for a 100, or leaves HTTP.
    pub is_plain: bool,
}

impl Dialog {
    pub fn arbitrary(choices: &mut Unstructured<'_>) -> Result<Self> {
        let mut dialog = Dialog { is_plain: choices.ratio(1, 3)?, ..Dialog::default() };
        let mut connections = Vec::new();
        for conn in 0..choices.int_in_range(1..=3)? {
            let mut connection = Connection { conn, acts: Vec::new(), dialog: &mut dialog, closed: false };
            connection.talk(choices)?;
            connections.push((u64::from(conn), connection.acts.into_iter().peekable()));
        }
        while !connections.is_empty() {
            let index = choices.choose_index(connections.len())?;
            let (conn, acts) = &mut connections[index];
            if let Some(act) = acts.next() {
                let after_ms = choices.int_in_range(0..=40)?;
                dialog.steps.push(Step { conn: *conn + 7, after_ms, act });
            }
            if acts.peek().is_none() {
                let _ = connections.remove(index);
            }
        }
        Ok(dialog)
    }

    /// The same steps, with calls cut in several.
    pub fn cut(&self, choices: &mut Unstructured<'_>) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for step in &self.steps {
            let Act::Call(direction, bytes) = &step.act else {
                steps.push(step.clone());
                continue;
            };
            let (mut rest, mut after_ms) = (&bytes[..], step.after_ms);
            while rest.len() > 1 && choices.ratio(1, 3)? && !choices.is_empty() {
                let (part, left) = rest.split_at(choices.int_in_range(1..=rest.len() - 1)?);
                steps.push(Step { after_ms, act: Act::Call(*direction, part.to_vec()), ..*step });
                (rest, after_ms) = (left, 0);
            }
            steps.push(Step { after_ms, act: Act::Call(*direction, rest.to_vec()), ..*step });
        }
        Ok(steps)
    }
}

/// One connection in the making.
struct Connection<'a> {
    conn: u8,
    acts: Vec<Act>,
    dialog: &'a mut Dialog,
    closed: bool,
}

/// A message in the making.
struct Message {
    head: Vec<u8>,
    /// As it goes over the wire.
    body: Vec<u8>,
    /// Without its transfer coding; None without a body.
    size: Option<u64>,
}

const INGRESS: Direction = Direction::Ingress;
const EGRESS: Direction = Direction::Egress;

impl Connection<'_> {
    fn talk(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..choices.int_in_range(1..=6)? {
            match choices.int_in_range(0..=9)? {
                _ if self.dialog.is_plain => self.exchange(choices)?,
                0 => self.pipeline(choices)?,
                1 => self.expect_continue(choices)?,
                2 => self.answer_early(choices)?,
                _ => self.exchange(choices)?,
            }
            if choices.is_empty() {
                break;
            }
        }
        match choices.int_in_range(0..=5)? {
            0 => self.until_close(choices)?,
            1 if !self.dialog.is_plain => self.upgrade(choices)?,
            2 => self.abort(choices)?,
            _ => {}
        }
        if !self.closed && choices.ratio(1, 2)? {
            self.acts.push(Act::End(INGRESS));
        }
        self.acts.push(Act::Close);
        Ok(())
    }

    /// One request, one response.
    fn exchange(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let (request, response) = self.pair(choices)?;
        self.send(choices, INGRESS, request)?;
        self.send(choices, EGRESS, response)
    }

    /// Several requests in one call, and their responses.
    fn pipeline(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let (mut requests, mut responses) = (Vec::new(), Vec::new());
        for _ in 0..choices.int_in_range(2..=5)? {
            let (request, response) = self.pair(choices)?;
            requests.extend([request.head, request.body].concat());
            responses.push(response);
        }
        self.acts.push(Act::Call(INGRESS, requests));
        for response in responses {
            self.send(choices, EGRESS, response)?;
        }
        Ok(())
    }

    /// The client waits for a 100 before it sends the body.
    fn expect_continue(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let (request, response) = self.pair(choices)?;
        self.acts.push(Act::Call(INGRESS, request.head));
        if !request.body.is_empty() {
            self.acts.push(Act::Call(EGRESS, b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
            self.acts.push(Act::Call(INGRESS, request.body));
        }
        self.send(choices, EGRESS, response)
    }

    /// The server answers before it has read the body.
    fn answer_early(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let (request, response) = self.pair(choices)?;
        self.acts.push(Act::Call(INGRESS, request.head));
        self.send(choices, EGRESS, response)?;
        if !request.body.is_empty() {
            self.acts.push(Act::Call(INGRESS, request.body));
            self.dialog.answers_early = true;
        }
        Ok(())
    }

    /// The response ends with the connection.
    fn until_close(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let request = self.request(choices, "GET", Framing::None)?;
        self.send(choices, INGRESS, request)?;
        let body = content(choices)?;
        self.report("GET", 200, None, body.len() as u64);
        let head = b"HTTP/1.0 200 OK\r\nserver: old\r\n\r\n".to_vec();
        self.send(choices, EGRESS, Message { head, body, size: None })?;
        if choices.ratio(1, 2)? {
            self.acts.push(Act::End(EGRESS));
        }
        self.closed = true;
        Ok(())
    }

    /// The connection leaves HTTP.
    fn upgrade(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let (request, answer): (&[u8], &[u8]) = if choices.ratio(1, 2)? {
            (b"GET /chat HTTP/1.1\r\nupgrade: websocket\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n")
        } else {
            (b"CONNECT host:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n")
        };
        self.acts.push(Act::Call(INGRESS, request.to_vec()));
        self.acts.push(Act::Call(EGRESS, answer.to_vec()));
        for direction in [INGRESS, EGRESS, INGRESS] {
            self.acts
                .push(Act::Call(direction, [b"GET /no HTTP/1.1\r\n\r\n", &content(choices)?[..]].concat()));
        }
        self.dialog.upgraded += 1;
        self.closed = true;
        Ok(())
    }

    /// The connection is closed before the whole response was sent.
    fn abort(&mut self, choices: &mut Unstructured<'_>) -> Result<()> {
        let request = self.request(choices, "GET", Framing::None)?;
        self.send(choices, INGRESS, request)?;
        let mut body = content(choices)?;
        body.push(b'!');
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        body.truncate(choices.int_in_range(0..=body.len() - 1)?);
        self.report("GET", 200, None, body.len() as u64);
        if let Some(exchange) = self.dialog.exchanges.last_mut() {
            exchange.aborted = true;
        }
        self.send(choices, EGRESS, Message { head, body, size: None })?;
        self.closed = true;
        Ok(())
    }

    /// A request and its response, which is to be reported.
    fn pair(&mut self, choices: &mut Unstructured<'_>) -> Result<(Message, Message)> {
        let method = *choices.choose(&["GET", "GET", "POST", "HEAD", "PUT", "DELETE", "M-SEARCH"])?;
        let framing = match (method, choices.int_in_range(0..=2)?) {
            ("POST" | "PUT", 0) => Framing::Chunked,
            ("POST" | "PUT", _) | ("DELETE", 0) => Framing::Length,
            _ => Framing::None,
        };
        let request = self.request(choices, method, framing)?;
        let status = *choices.choose(&[200, 200, 201, 204, 304, 400, 500])?;
        let mut head = Vec::new();
        for _ in 0..choices.int_in_range(0..=9_usize)?.saturating_sub(7) {
            head.extend(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        }
        head.extend(format!("HTTP/1.1 {status} Whatever\r\n").bytes());
        let framing = if choices.ratio(1, 3)? { Framing::Chunked } else { Framing::Length };
        let mut response = finish(choices, head, framing)?;
        if method == "HEAD" || matches!(status, 204 | 304) {
            // The fields say what a GET would have got.
            response.body.clear();
            response.size = None;
        }
        self.report(method, status, request.size, response.size.unwrap_or(0));
        Ok((request, response))
    }

    /// Of the exchange that is reported next.
    fn request(&self, choices: &mut Unstructured<'_>, method: &str, framing: Framing) -> Result<Message> {
        let mut head = Vec::new();
        // Told on its own, it would hide that the request behind it was lost.
        if !self.dialog.is_plain && choices.ratio(1, 8)? {
            head.extend(b"\r\n");
        }
        let query = if choices.ratio(1, 4)? { "?q=/x#y" } else { "" };
        head.extend(format!("{method} {}{query} HTTP/1.1\r\nHost: a\r\n", self.path()).bytes());
        finish(choices, head, framing)
    }

    /// Letters only, so that the path is its own route.
    fn path(&self) -> String {
        let number = self.dialog.exchanges.len();
        let letter = |number: usize| (b'a' + (number % 26) as u8) as char;
        format!("/{}{}{}", letter(self.conn.into()), letter(number / 26), letter(number))
    }

    fn report(&mut self, method: &'static str, status: u16, request_size: Option<u64>, response_size: u64) {
        let path = self.path();
        let exchange = Exchange { method, path, status, request_size, response_size, aborted: false };
        self.dialog.exchanges.push(exchange);
    }

    /// Head and body, in one call or two.
    fn send(&mut self, choices: &mut Unstructured<'_>, direction: Direction, message: Message) -> Result<()> {
        let Message { mut head, body, .. } = message;
        if choices.ratio(1, 2)? || body.is_empty() {
            head.extend(body);
            self.acts.push(Act::Call(direction, head));
        } else {
            self.acts.push(Act::Call(direction, head));
            self.acts.push(Act::Call(direction, body));
        }
        Ok(())
    }
}

/// How a message says where it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length,
    Chunked,
}

/// Adds the fields about the body, and the body, to what there is of a head.
fn finish(choices: &mut Unstructured<'_>, mut head: Vec<u8>, framing: Framing) -> Result<Message> {
    if choices.ratio(1, 8)? {
        let length = choices.int_in_range(0..=3000)?;
        head.extend(format!("X-Long: {}\r\n", "y".repeat(length)).bytes());
    }
    let (mut body, mut size) = (Vec::new(), None);
    match framing {
        Framing::None => {}
        Framing::Length => {
            body = content(choices)?;
            head.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
            size = Some(body.len() as u64);
        }
        Framing::Chunked => {
            head.extend(b"transfer-encoding: Chunked\r\n");
            let content = content(choices)?;
            size = Some(content.len() as u64);
            let longest = *choices.choose(&[5000, 1, 16, 40, 100_000])?;
            let extension = if choices.ratio(1, 4)? { ";a=\"b\"" } else { "" };
            for chunk in content.chunks(longest.max(content.len() / 200)) {
                body.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(if choices.ratio(1, 4)? { &b"0\r\nsum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
        }
    }
    head.extend(b"\r\n");
    Ok(Message { head, body, size })
}

/// What a parser might take for the end, or for a message.
fn content(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const PATTERNS: [&[u8]; 5] = [
        b"body",
        b"0\r\n\r\n",
        b"GET /evil HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 299 Evil\r\ncontent-length: 0\r\n\r\n",
        b"\r\n",
    ];
    let pattern = *choices.choose(&PATTERNS)?;
    let length = match choices.int_in_range(0..=5)? {
        0 => 0,
        // Worth muting.
        1 => choices.int_in_range(4_000..=20_000)?,
        _ => choices.int_in_range(1..=120)?,
    };
    Ok(pattern.iter().copied().cycle().take(length).collect())
}
