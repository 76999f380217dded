//! Requests with what is expected of their answers, and the account of them that a client keeps.

use crate::app::Pipelining;
use crate::client::{Exchange, Reply, Request};

/// A request, and how the app should answer.
#[derive(Clone, Debug)]
pub struct Order {
    pub request: Request,
    /// The server only waits.
    pub idle: bool,
    statuses: &'static [u16],
    body_size: Option<usize>,
    body_says: Option<String>,
    fate: Fate,
}

/// Which of the account's counts a request adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Row,
    Unmatched,
    Excluded,
}

/// What the clients know after the last response.
#[derive(Debug, Default)]
pub struct Account {
    /// Exchanges that have to be in the agent's rows.
    pub exchanges: Vec<Exchange>,
    /// Requests to paths that never answered anything but 404.
    pub unmatched: u64,
    /// OPTIONS.
    pub excluded: u64,
}

impl Order {
    pub fn new(request: Request, statuses: &'static [u16]) -> Self {
        Self { request, statuses, body_size: None, body_says: None, fate: Fate::Row, idle: false }
    }

    /// Whether it can be sent with others behind it: many servers close the connection after an error.
    pub fn can_be_pipelined(&self, pipelining: Pipelining) -> bool {
        let request = &self.request;
        let takes = match pipelining {
            Pipelining::None => false,
            Pipelining::Plain => request.path.starts_with("/blob/"),
            Pipelining::All => true,
        };
        takes && request.can_be_pipelined() && self.statuses.iter().all(|status| *status < 400)
    }

    /// With a body of this length.
    pub fn answering(self, body_size: usize) -> Self {
        Self { body_size: Some(body_size), ..self }
    }

    /// With a body that contains this text, spaces aside.
    pub fn saying(self, text: String) -> Self {
        Self { body_says: Some(text), ..self }
    }

    pub fn idly(self) -> Self {
        Self { idle: true, ..self }
    }

    pub fn fated(self, fate: Fate) -> Self {
        Self { fate, ..self }
    }
}

impl Account {
    /// # Panics
    /// When the reply is not as ordered.
    pub fn settle(&mut self, order: &Order, reply: Reply) {
        let (request, exchange) = (&order.request, &reply.exchange);
        let what = format!("{} {}", request.method, request.path);
        assert!(order.statuses.contains(&exchange.status), "{what} was answered {}", exchange.status);
        if let Some(size) = order.body_size {
            assert_eq!(exchange.response_size, size as u64, "{what}");
        }
        if let Some(text) = &order.body_says {
            // Serializers differ in where they put spaces.
            let body = String::from_utf8_lossy(&reply.body).replace(' ', "");
            assert!(body.contains(text.as_str()), "{what}: {body} does not say {text}");
        }
        match order.fate {
            Fate::Row => self.exchanges.push(reply.exchange),
            Fate::Unmatched => self.unmatched += 1,
            Fate::Excluded => self.excluded += 1,
        }
    }

    pub fn add(&mut self, other: Self) {
        self.exchanges.extend(other.exchanges);
        self.unmatched += other.unmatched;
        self.excluded += other.excluded;
    }

    /// Requests of every fate.
    pub fn sent(&self) -> u64 {
        self.exchanges.len() as u64 + self.unmatched + self.excluded
    }
}

/// Numbers that look random and are the same in every run.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to `sides` - 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).expect("an index is small")
    }
}
