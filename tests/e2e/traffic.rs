//! Traffic for an app: requests drawn from everything that it offers, sent by several clients in every way that
//! a client can, and checked against what the app should answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tests::app::{App, FILE_SIZES, Server, filler};
use tests::client::{Client, Request};
use tests::order::{Account, Dice, Fate, Order};

/// How the clients get along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The server has one thing to do at a time: a request that waits for the server to read it costs the client
    /// time that the server knows nothing of. Requests that the server sleeps over do not count as a thing to do.
    InTurn,
    /// Everybody at once. Times say nothing then, so these requests come from a consumer of their own.
    Rush,
}

/// Who sends the requests of a rush.
pub(crate) const RUSH: &str = "rush";

/// One in so many times the clients pipeline some requests instead of sending one.
const PIPELINE_EVERY: u64 = 25;
const PIPELINED: usize = 5;
/// One in so many requests has or gets a large body.
const LARGE_EVERY: usize = 20;

const SIZES: [usize; 9] = [0, 1, 2, 999, 1000, 1001, 4096, 20_000, 65_536];
const LARGE_SIZES: [usize; 4] = [300_000, 1_000_000, 2_500_000, 5_000_000];
/// How many of the files are large, from the end of the list.
const LARGE_FILES: usize = 3;
const STATUSES: [&[u16]; 9] = [&[200], &[204], &[304], &[400], &[401], &[403], &[409], &[500], &[503]];
const ITEMS: u64 = 1000;

impl Pace {
    /// Clients, and how many requests each of them sends.
    fn size(self) -> (u64, usize) {
        match self {
            Self::InTurn => (4, 270),
            Self::Rush => (8, 60),
        }
    }

    fn turn(self) -> Option<MutexGuard<'static, ()>> {
        static TURN: Mutex<()> = Mutex::new(());
        (self == Self::InTurn).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn mark(self, request: Request) -> Request {
        match self {
            Self::InTurn => request,
            Self::Rush => request.from_consumer(RUSH),
        }
    }
}

/// Sends some hundreds of requests.
///
/// # Panics
/// When the app answers anything unexpected.
pub(crate) fn drive(app: &App, server: Server, pace: Pace) -> Account {
    std::thread::scope(|scope| {
        let (clients, orders) = pace.size();
        let clients: Vec<_> = (1..=clients)
            .map(|number| scope.spawn(move || drive_one(app, server, pace, number, orders)))
            .collect();
        let mut account = Account::default();
        for client in clients {
            account.add(client.join().expect("a client finishes"));
        }
        account
    })
}

/// One request for every route, answered by something else than 404: from then on a 404 there is a row.
pub(crate) fn warm_up(app: &App, server: Server) -> Account {
    let mut account = Account::default();
    let mut client = app.client();
    let orders = match server {
        Server::Nginx => vec![
            Order::new(Request::get("/blob/1"), &[200]),
            Order::new(Request::new("PUT", "/stored/1").sized(b"1"), &[201]),
            Order::new(Request::new("DELETE", "/stored/1"), &[204]),
        ],
        _ => vec![
            Order::new(Request::get("/items/1"), &[200]),
            Order::new(Request::new("PUT", "/items/1").json(VALID), &[200]),
            Order::new(Request::new("DELETE", "/items/1"), &[204]),
        ],
    };
    for order in orders {
        account.settle(&order, client.send(&order.request));
    }
    account
}

fn drive_one(app: &App, server: Server, pace: Pace, number: u64, orders: usize) -> Account {
    let mut dice = Dice::seeded(number);
    let mut account = Account::default();
    let mut client = app.client();
    for turn in 0..orders {
        if dice.roll(PIPELINE_EVERY) == 0 {
            let _turn = pace.turn();
            pipeline(&mut client, &mut dice, &mut account, server, pace);
        }
        let large = turn % LARGE_EVERY == 0;
        let mut order = match server {
            Server::Nginx => file_order(&mut dice, number, large),
            _ => api_order(&mut dice, large),
        };
        order.request = pace.mark(order.request);
        let _turn = (!order.idle).then(|| pace.turn());
        let reply = match dice.roll(10) {
            0 => client.send_fresh(&order.request),
            1 => app.client().send(&order.request),
            _ => client.send(&order.request),
        };
        account.settle(&order, reply);
    }
    account
}

fn pipeline(client: &mut Client, dice: &mut Dice, account: &mut Account, server: Server, pace: Pace) {
    let order = |dice: &mut Dice| match server {
        Server::Nginx => Order::new(Request::get(&format!("/blob/{}", FILE_SIZES[dice.index(5)])), &[200]),
        _ => match dice.roll(3) {
            0 => Order::new(Request::new("POST", "/items").json(VALID), &[201]),
            1 => Order::new(Request::new("HEAD", "/items"), &[200]),
            _ => Order::new(Request::get(&format!("/items/{}", dice.roll(ITEMS))), &[200]),
        },
    };
    let orders: Vec<_> = (0..PIPELINED).map(|_| order(dice)).collect();
    let requests: Vec<_> = orders.iter().map(|order| pace.mark(order.request.clone())).collect();
    for (order, reply) in orders.iter().zip(client.pipeline(&requests)) {
        account.settle(order, reply);
    }
}

const VALID: &str = r#"{"name": "lamp", "price": 12.5}"#;
const INVALID: &str = r#"{"name": "lamp"}"#;

/// For the apps that are written in a framework.
fn api_order(dice: &mut Dice, large: bool) -> Order {
    let sizes: &[usize] = if large { &LARGE_SIZES } else { &SIZES };
    let size = sizes[dice.index(sizes.len())];
    let kinds = if large { 3 } else { 20 };
    match dice.roll(kinds) {
        0 => Order::new(Request::get(&format!("/blob/{size}")), &[200]).answering(size),
        1 => Order::new(Request::get(&format!("/chunked/{size}")), &[200]).answering(size),
        2 => Order::new(upload(Request::new("POST", "/upload"), size, dice), &[200])
            .saying(format!("\"received\":{size}")),
        3..=6 => {
            let id = dice.roll(ITEMS * 5 / 4);
            let statuses: &[u16] = if id < ITEMS { &[200] } else { &[404] };
            Order::new(Request::get(&format!("/items/{id}?verbose=1")), statuses)
        }
        7 => Order::new(Request::get("/items"), &[200]),
        8 => Order::new(Request::new("HEAD", "/items"), &[200]).answering(0),
        9 => Order::new(Request::new("HEAD", &format!("/blob/{size}")), &[200]).answering(0),
        10 => Order::new(Request::new("POST", "/items").json(VALID), &[201]),
        11 => Order::new(Request::new("POST", "/items").json(VALID).in_writes_of(&[40, 3, 7, 1]), &[201]),
        12 => Order::new(Request::new("POST", "/items").json(INVALID), &[422]),
        13 => {
            let id = dice.roll(ITEMS * 2);
            let statuses: &[u16] = if id < ITEMS { &[200] } else { &[404] };
            Order::new(Request::new("PUT", &format!("/items/{id}")).json(VALID), statuses)
        }
        14 => {
            let id = dice.roll(ITEMS * 2);
            let statuses: &[u16] = if id < ITEMS { &[204] } else { &[404] };
            Order::new(Request::new("DELETE", &format!("/items/{id}")), statuses)
        }
        15 => {
            let statuses = STATUSES[dice.index(STATUSES.len())];
            Order::new(Request::get(&format!("/status/{}", statuses[0])), statuses)
        }
        16 => Order::new(Request::get(&format!("/slow/{}", dice.roll(60))), &[200]).idly(),
        17 => Order::new(Request::get(&format!("/drip/{}", dice.roll(60))), &[200]).answering(11).idly(),
        18 => Order::new(Request::new("OPTIONS", "/items"), &[200, 405]).fated(Fate::Excluded),
        _ => Order::new(Request::get("/nothing/there"), &[404]).fated(Fate::Unmatched),
    }
}

/// For a server of files. `number` keeps clients from storing what another one deletes.
fn file_order(dice: &mut Dice, number: u64, large: bool) -> Order {
    let (small, bodies) = FILE_SIZES.split_at(FILE_SIZES.len() - LARGE_FILES);
    let sizes = if large { bodies } else { small };
    let size = sizes[dice.index(sizes.len())];
    let stored = format!("/stored/{}", number * 1000 + dice.roll(20));
    let kinds = if large { 3 } else { 14 };
    match dice.roll(kinds) {
        0 => Order::new(Request::get(&format!("/blob/{size}")), &[200]).answering(size),
        // A file that is empty goes out with its length.
        1 => Order::new(Request::get(&format!("/chunked/{size}")), &[200]).answering(size),
        2 => Order::new(upload(Request::new("PUT", &stored), size, dice), &[201, 204]),
        3 | 4 => Order::new(Request::new("DELETE", &stored), &[204, 404]),
        5 => Order::new(Request::get("/items"), &[200]).answering(3),
        6 => Order::new(Request::new("HEAD", &format!("/blob/{size}")), &[200]).answering(0),
        7 => Order::new(Request::get(&format!("/blob/{}", 7 + dice.roll(9))), &[404]),
        8 => {
            let request = Request::get("/blob/300000").field("Range", "bytes=1000-200999");
            Order::new(request, &[206]).answering(200_000)
        }
        9 => Order::new(Request::get("/blob/4096").field("If-None-Match", "*"), &[304]).answering(0),
        10 => Order::new(Request::new("POST", "/blob/1").sized(b"not here"), &[405]),
        11 => {
            let statuses = [&[403], &[418], &[503]][dice.index(3)];
            Order::new(Request::get(&format!("/status/{}", statuses[0])), statuses)
        }
        12 => Order::new(Request::new("OPTIONS", "/blob/1"), &[405]).fated(Fate::Excluded),
        _ => Order::new(Request::get("/nothing/there"), &[404]).fated(Fate::Unmatched),
    }
}

/// A body that goes up in one of many ways.
fn upload(request: Request, size: usize, dice: &mut Dice) -> Request {
    let body = filler(size);
    match dice.roll(6) {
        0 => request.sized(&body),
        1 => request.sized(&body).expecting_continue(),
        2 => request.sized(&body).in_writes_of(&[100, 1000, 30_000]),
        3 => request.chunked(&body, &[8192]),
        4 => request.chunked(&body, &[1, 10, 1000, 100_000]),
        _ => request.chunked(&body, &[5, 700, 65_536]).in_writes_of(&[100, 9, 4000, 50_000]),
    }
}
