//! A server that answers each request as the request asks for: what to send, how it is cut, when to stop.
//!
//! The script of an answer travels in a field of the request, as JSON, so that a test says in one place what
//! goes each way. The server is the program `scripted-server`, a process of its own with blocking sockets and a
//! thread per connection; both sides of the script are here.

use std::fmt;

use serde_json::{Value, json};

/// The field of a request that says how to answer it. Without it the answer is [`Answer::plain`].
pub const FIELD: &str = "X-Answer";

/// What a server does to answer a request, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer(pub Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One write. Each character is a byte, so none may lie above U+00FF.
    Send(String),
    /// One vectored write, in pieces of so many bytes.
    SendVectored(usize, String),
    /// So many bytes that read like HTTP.
    Fill(usize),
    /// Nothing for so many milliseconds.
    Pause(u64),
    /// Takes the body of the request. Without this step it is taken before the first one.
    TakeBody,
    /// Sends back what comes until the client sends no more: it is not HTTP any more.
    Echo,
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

impl Answer {
    /// A 200 with two bytes.
    pub fn plain() -> Self {
        Self::new().send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    }

    pub fn new() -> Self {
        Self::default()
    }

    pub fn send(self, bytes: &str) -> Self {
        self.then(Step::Send(bytes.to_owned()))
    }

    /// In one call, but in buffers of `each` bytes.
    pub fn send_vectored(self, each: usize, bytes: &str) -> Self {
        self.then(Step::SendVectored(each, bytes.to_owned()))
    }

    /// In writes of `each` bytes, with a pause of 1 ms after each, for them to be seen one by one.
    pub fn send_in_pieces(mut self, each: usize, bytes: &str) -> Self {
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = rest.char_indices().nth(each).map_or(rest.len(), |(at, _)| at);
            let (piece, after) = rest.split_at(cut);
            self = self.send(piece).pause(1);
            rest = after;
        }
        self
    }

    pub fn fill(self, length: usize) -> Self {
        self.then(Step::Fill(length))
    }

    pub fn pause(self, ms: u64) -> Self {
        self.then(Step::Pause(ms))
    }

    pub fn take_body(self) -> Self {
        self.then(Step::TakeBody)
    }

    pub fn echo(self) -> Self {
        self.then(Step::Echo)
    }

    pub fn close(self) -> Self {
        self.then(Step::Close)
    }

    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// Bytes that the steps send, without what an echo does.
    pub fn length(&self) -> usize {
        let lengths = self.0.iter().map(|step| match step {
            Step::Send(text) | Step::SendVectored(_, text) => text.chars().count(),
            Step::Fill(length) => *length,
            _ => 0,
        });
        lengths.sum()
    }

    fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Reads what [`Answer`]'s `Display` wrote.
    pub fn read(text: &str) -> Option<Self> {
        let Ok(Value::Array(steps)) = serde_json::from_str(text) else { return None };
        steps.iter().map(Step::read).collect::<Option<_>>().map(Self)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<Value> = self.0.iter().map(Step::write).collect();
        write!(f, "{}", Value::Array(steps))
    }
}

impl Step {
    fn write(&self) -> Value {
        match self {
            Self::Send(text) => json!(["send", text]),
            Self::SendVectored(each, text) => json!(["vectored", text, each]),
            Self::Fill(length) => json!(["fill", length]),
            Self::Pause(ms) => json!(["pause", ms]),
            Self::TakeBody => json!(["body"]),
            Self::Echo => json!(["echo"]),
            Self::Close => json!(["close"]),
            Self::Reset => json!(["reset"]),
        }
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |at: usize| value[at].as_str().map(str::to_owned);
        let number = |at: usize| value[at].as_u64();
        let size = |at: usize| usize::try_from(number(at)?).ok();
        Some(match value[0].as_str()? {
            "send" => Self::Send(text(1)?),
            "vectored" => Self::SendVectored(size(2)?, text(1)?),
            "fill" => Self::Fill(size(1)?),
            "pause" => Self::Pause(number(1)?),
            "body" => Self::TakeBody,
            "echo" => Self::Echo,
            "close" => Self::Close,
            "reset" => Self::Reset,
            _ => return None,
        })
    }
}

/// The bytes of a script's text.
pub fn bytes_of(text: &str) -> Vec<u8> {
    let byte = |c| u8::try_from(u32::from(c)).expect("a script's characters are bytes");
    text.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_the_journey() {
        let answer = Answer::new()
            .send_in_pieces(3, "HTTP/1.1 200 OK\r\n\r\n\u{ff}\u{0}")
            .send_vectored(2, "abcde")
            .fill(7)
            .take_body()
            .pause(1)
            .echo()
            .close()
            .reset();
        let line = answer.to_string();
        assert!(!line.contains(['\r', '\n']), "{line}");
        assert_eq!(Answer::read(&line), Some(answer));
        assert_eq!(Answer::read("[[\"dance\"]]"), None);
    }
}
