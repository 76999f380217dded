//! Traffic for an app: requests drawn from everything that it offers, sent by several clients in every way that
//! a client can, and checked against what the app should answer.

use std::sync::{PoisonError, RwLock};

use tests::app::{App, FILE_SIZES, Server, filler};
use tests::client::{Client, Exchange, Reply, Request};

/// What the clients know after the last response.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Exchanges that have to be in the agent's rows.
    pub(crate) exchanges: Vec<Exchange>,
    /// Requests to paths that never answered anything but 404.
    pub(crate) unmatched: u64,
    /// OPTIONS.
    pub(crate) excluded: u64,
}

/// Which of the account's counts a request adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Row,
    Unmatched,
    Excluded,
}

/// A request, and how the app should answer.
struct Order {
    request: Request,
    statuses: &'static [u16],
    body_size: Option<usize>,
    body_says: Option<String>,
    fate: Fate,
}

const CLIENTS: u64 = 4;
const ORDERS_EACH: usize = 300;
/// One in so many times the clients pipeline some requests instead of sending one.
const PIPELINE_EVERY: u64 = 25;
const PIPELINED: usize = 5;

const SIZES: [usize; 10] = [0, 1, 2, 999, 1000, 1001, 4096, 20_000, 65_536, 300_000];
const LARGE_SIZES: [usize; 3] = [1_000_000, 2_500_000, 5_000_000];
const STATUSES: [&[u16]; 9] = [&[200], &[204], &[304], &[400], &[401], &[403], &[409], &[500], &[503]];
const ITEMS: u64 = 1000;

/// Sends at least a thousand requests.
///
/// # Panics
/// When the app answers anything unexpected.
pub(crate) fn drive(app: &App, server: Server) -> Account {
    let mut account = warm_up(app, server);
    let parts = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (1..=CLIENTS).map(|number| scope.spawn(move || drive_one(app, server, number))).collect();
        clients.into_iter().map(|client| client.join().expect("a client finishes")).collect::<Vec<_>>()
    });
    for part in parts {
        account.exchanges.extend(part.exchanges);
        account.unmatched += part.unmatched;
        account.excluded += part.excluded;
    }
    account
}

/// One request for every route, answered by something else than 404: from then on a 404 there is a row.
fn warm_up(app: &App, server: Server) -> Account {
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

fn drive_one(app: &App, server: Server, number: u64) -> Account {
    // What is sent while a large body moves waits for longer than a bin of the histogram, some of it before the
    // server knows of it.
    static LARGE_BODY: RwLock<()> = RwLock::new(());

    let mut dice = Dice(number);
    let mut account = Account::default();
    let mut client = app.client();
    for turn in 0..ORDERS_EACH {
        if dice.roll(PIPELINE_EVERY) == 0 {
            let _moving = LARGE_BODY.read().unwrap_or_else(PoisonError::into_inner);
            pipeline(&mut client, &mut dice, &mut account, server);
        }
        let large = turn % 30 == 29;
        let order = match server {
            Server::Nginx => file_order(&mut dice, number, large),
            _ => api_order(&mut dice, large),
        };
        let _alone = large.then(|| LARGE_BODY.write().unwrap_or_else(PoisonError::into_inner));
        let _moving = (!large).then(|| LARGE_BODY.read().unwrap_or_else(PoisonError::into_inner));
        let reply = match dice.roll(10) {
            0 => client.send_fresh(&order.request),
            1 => app.client().send(&order.request),
            _ => client.send(&order.request),
        };
        account.settle(&order, reply);
    }
    account
}

fn pipeline(client: &mut Client, dice: &mut Dice, account: &mut Account, server: Server) {
    let orders: Vec<_> = (0..PIPELINED)
        .map(|_| match server {
            Server::Nginx => {
                Order::new(Request::get(&format!("/blob/{}", FILE_SIZES[dice.index(5)])), &[200])
            }
            _ => match dice.roll(3) {
                0 => Order::new(Request::new("POST", "/items").json(VALID), &[201]),
                1 => Order::new(Request::new("HEAD", "/items"), &[200]),
                _ => Order::new(Request::get(&format!("/items/{}", dice.roll(ITEMS))), &[200]),
            },
        })
        .collect();
    let requests: Vec<_> = orders.iter().map(|order| order.request.clone()).collect();
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
        16 => Order::new(Request::get(&format!("/slow/{}", dice.roll(60))), &[200]),
        17 => Order::new(Request::get(&format!("/drip/{}", dice.roll(60))), &[200]).answering(11),
        18 => Order::new(Request::new("OPTIONS", "/items"), &[200, 405]).fated(Fate::Excluded),
        _ => Order::new(Request::get("/nothing/there"), &[404]).fated(Fate::Unmatched),
    }
}

/// For a server of files. `number` keeps clients from storing what another one deletes.
fn file_order(dice: &mut Dice, number: u64, large: bool) -> Order {
    let size = if large { 5_000_000 } else { FILE_SIZES[dice.index(FILE_SIZES.len() - 2)] };
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

impl Order {
    fn new(request: Request, statuses: &'static [u16]) -> Self {
        Self { request, statuses, body_size: None, body_says: None, fate: Fate::Row }
    }

    fn answering(self, body_size: usize) -> Self {
        Self { body_size: Some(body_size), ..self }
    }

    fn saying(self, text: String) -> Self {
        Self { body_says: Some(text), ..self }
    }

    fn fated(self, fate: Fate) -> Self {
        Self { fate, ..self }
    }
}

impl Account {
    fn settle(&mut self, order: &Order, reply: Reply) {
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

    /// Requests of every fate.
    pub(crate) fn sent(&self) -> u64 {
        self.exchanges.len() as u64 + self.unmatched + self.excluded
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    /// From 0 to `sides` - 1.
    fn roll(&mut self, sides: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).expect("an index is small")
    }
}
