//! Clients of the sample API: several at once, over kept and fresh connections, well-behaved and otherwise. Each
//! keeps account of what it sent and got.

use std::io::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::client::{Address, Client, Exchange, Request};
use tests::eventually::let_pass;

/// A client and what it does, over and over.
struct Caller {
    /// Field and value that say who it is.
    identity: Option<(&'static str, &'static str)>,
    habits: fn(u64) -> Request,
    /// Between two requests.
    pause: Duration,
    /// Every so many requests one goes over a connection of its own.
    fresh_every: u64,
}

const CALLERS: [Caller; 5] = [
    Caller { identity: Some(("X-Consumer", "web-shop")), habits: web_shop, pause: ms(4), fresh_every: 9 },
    Caller { identity: Some(("X-Consumer", "mobile-app")), habits: mobile_app, pause: ms(6), fresh_every: 3 },
    Caller { identity: Some(("X-API-Key", "demo-key-1")), habits: partner, pause: ms(15), fresh_every: 20 },
    Caller { identity: Some(("X-API-Key", "demo-key-2")), habits: partner, pause: ms(40), fresh_every: 1 },
    Caller { identity: None, habits: stranger, pause: ms(20), fresh_every: 4 },
];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs all callers for that long, telling now and then how many requests were answered.
pub(crate) fn drive(server: &Address, span: Duration, progress: impl Fn(u64)) -> Result<Vec<Exchange>> {
    let until = Instant::now() + span;
    let answered = AtomicU64::new(0);
    // A route is known once it has answered something else than 404.
    let mut sent = vec![Client::of(server).exchange(&Request::get("/items/1"))?.exchange];
    answered.fetch_add(1, Ordering::Relaxed);
    let by_callers = thread::scope(|scope| {
        let callers = CALLERS.map(|caller| {
            let answered = &answered;
            scope.spawn(move || caller.call(server, until, answered))
        });
        while callers.iter().any(|caller| !caller.is_finished()) {
            progress(answered.load(Ordering::Relaxed));
            let_pass(ms(50));
        }
        progress(answered.load(Ordering::Relaxed));
        callers.map(|caller| caller.join().unwrap_or_else(|_| Err(Error::other("a caller failed"))))
    });
    for exchanges in by_callers {
        sent.extend(exchanges?);
    }
    Ok(sent)
}

impl Caller {
    fn call(&self, server: &Address, until: Instant, answered: &AtomicU64) -> Result<Vec<Exchange>> {
        let mut client = Client::of(server);
        let mut exchanges = Vec::new();
        for turn in 0.. {
            if Instant::now() >= until {
                break;
            }
            let mut request = (self.habits)(turn);
            if let Some((name, value)) = self.identity {
                request = request.field(name, value);
            }
            let reply = if turn % self.fresh_every == 0 {
                client.send_fresh(&request)
            } else {
                client.exchange(&request)?
            };
            exchanges.push(reply.exchange);
            answered.fetch_add(1, Ordering::Relaxed);
            let_pass(self.pause);
        }
        Ok(exchanges)
    }
}

fn web_shop(turn: u64) -> Request {
    match turn % 12 {
        0 => Request::get("/items"),
        1 => Request::new("POST", "/items").json(r#"{"name": "fountain pen", "price": 24.5}"#),
        2 => Request::new("POST", "/items").json(r#"{"name": "a pen without a price"}"#),
        3 => Request::new("PUT", &format!("/items/{}", turn % 90 + 1)).json(r#"{"name": "ink", "price": 7}"#),
        // Made by this caller's own POST, or gone already.
        4 => Request::new("DELETE", &format!("/items/{}", 100 + turn / 12)),
        5 => Request::get(&format!("/items/{}", 5000 + turn)),
        6..=8 => Request::get(&format!("/users/{}/orders/{}", turn % 23 + 1, turn)),
        _ => Request::get(&format!("/items/{}", turn % 90 + 1)),
    }
}

fn mobile_app(turn: u64) -> Request {
    match turn % 10 {
        0 => Request::get("/stream"),
        1 | 2 => Request::get("/items"),
        3 => Request::new("POST", "/echo").sized(&[b'.'; 20_000]),
        4 => Request::new("POST", "/echo").chunked(&[b'.'; 6_000], &[1_500, 700]),
        5 => Request::get("/slow?ms=120"),
        _ => Request::get(&format!("/items/{}", turn % 90 + 1)),
    }
}

fn partner(turn: u64) -> Request {
    if turn % 4 == 3 { Request::get(&format!("/items/{}", turn % 90 + 1)) } else { Request::get("/private") }
}

fn stranger(turn: u64) -> Request {
    match turn % 8 {
        0 => Request::get("/private"),
        1 => Request::get("/error"),
        2 => Request::get("/wp-login.php"),
        3 => Request::new("HEAD", "/items"),
        _ => Request::get("/healthz"),
    }
}
