//! The traffic that every server of the table gets: everything it can do, in each way a client can ask for it.

use std::thread;

use crate::app::{Api, App, Can, ChunkedRequests, FILE_SIZES, Row, filler};
use crate::client::{Client, Request};
use crate::order::{Account, Dice, Fate, Order};

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Some 200 requests with bodies of up to 1 MB, the larger part of them by several clients at once.
    Full,
    /// Some dozens with small bodies, by one client: for recordings.
    Brief,
}

/// Clients that send at once, and how many requests each.
const CLIENTS: u64 = 4;
const EACH: usize = 25;
const PIPELINED: usize = 5;
/// One in so many requests has a connection of its own.
const FRESH_EVERY: u64 = 4;
const STATUSES: [&[u16]; 7] = [&[200], &[204], &[304], &[400], &[404], &[422], &[500]];

impl Extent {
    /// Lengths of bodies. Files have those too.
    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Full => &FILE_SIZES[..8],
            Self::Brief => &[0, 1, 4096],
        }
    }

    fn pipelines_one_in(self) -> usize {
        match self {
            Self::Full => 1,
            Self::Brief => 4,
        }
    }
}

/// Sends the traffic to an app that nobody else sends any to.
///
/// # Panics
/// When the app answers anything unexpected.
pub fn drive(app: &App, row: &Row, extent: Extent) -> Account {
    let mut account = Account::default();
    let mut sender = Sender::new(app, row.can);
    let orders = orders(row, extent);
    // The first of them answer something else than 404: from then on a 404 there is a row.
    for order in &orders {
        sender.send(order, &mut account);
    }
    for order in orders.iter().step_by(8) {
        sender.send_fresh(order, &mut account);
    }
    // A connection that nothing comes over.
    app.client().connect();
    let pipelined: Vec<_> = orders.iter().filter(|order| order.can_be_pipelined(row.can.pipeline)).collect();
    for orders in pipelined.chunks(PIPELINED).step_by(extent.pipelines_one_in()) {
        sender.pipeline(orders, &mut account);
    }
    // Servers with a process or thread for each connection have one more for the others.
    drop(sender);
    if extent == Extent::Full {
        account.add(drive_at_once(app, row.can, &orders));
    }
    account
}

fn drive_at_once(app: &App, can: Can, orders: &[Order]) -> Account {
    thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let (mut dice, mut account) = (Dice::seeded(number), Account::default());
                    let mut sender = Sender::new(app, can);
                    for _ in 0..EACH {
                        let order = &orders[dice.index(orders.len())];
                        match dice.roll(FRESH_EVERY) {
                            0 => sender.send_fresh(order, &mut account),
                            _ => sender.send(order, &mut account),
                        }
                    }
                    account
                })
            })
            .collect();
        let mut account = Account::default();
        for client in clients {
            account.add(client.join().expect("a client finishes"));
        }
        account
    })
}

/// A client that asks for nothing that its server cannot do.
struct Sender<'a> {
    client: Client,
    app: &'a App,
    can: Can,
}

impl<'a> Sender<'a> {
    fn new(app: &'a App, can: Can) -> Self {
        Self { client: app.client(), app, can }
    }

    fn send(&mut self, order: &Order, account: &mut Account) {
        if self.can.keep_alive {
            account.settle(order, self.client.send(&order.request));
        } else {
            self.send_fresh(order, account);
        }
    }

    fn send_fresh(&self, order: &Order, account: &mut Account) {
        account.settle(order, self.app.client().send_fresh(&order.request));
    }

    fn pipeline(&mut self, orders: &[&Order], account: &mut Account) {
        let requests: Vec<_> = orders.iter().map(|order| order.request.clone()).collect();
        for (order, reply) in orders.iter().zip(self.client.pipeline(&requests)) {
            account.settle(order, reply);
        }
    }
}

/// One of each thing that the server can do.
fn orders(row: &Row, extent: Extent) -> Vec<Order> {
    match row.api {
        Api::Dynamic => api_orders(row.can, extent),
        Api::Files => file_orders(extent),
    }
}

fn api_orders(can: Can, extent: Extent) -> Vec<Order> {
    let mut orders = Vec::new();
    for &size in extent.sizes() {
        orders.push(Order::new(Request::get(&format!("/blob/{size}")), &[200]).answering(size));
        orders.push(Order::new(Request::new("HEAD", &format!("/blob/{size}")), &[200]).answering(0));
        if can.stream {
            orders
                .push(Order::new(Request::get(&format!("/chunked/{size}?again=1")), &[200]).answering(size));
        }
        for request in uploads(can, size) {
            orders.push(Order::new(request, &[200]).saying(format!("\"received\":{size}")));
        }
    }
    for statuses in STATUSES {
        orders.push(Order::new(Request::get(&format!("/status/{}", statuses[0])), statuses));
    }
    orders.push(Order::new(Request::new("DELETE", "/items/7"), &[204]).answering(0));
    orders.push(Order::new(Request::get("/slow/20"), &[200]));
    orders.push(Order::new(Request::new("OPTIONS", "/blob/1"), &[200, 204, 404, 405]).fated(Fate::Excluded));
    orders.push(Order::new(Request::get("/nothing/there"), &[404]).fated(Fate::Unmatched));
    orders
}

/// A body that goes up in each way that the server takes.
fn uploads(can: Can, size: usize) -> Vec<Request> {
    let (request, body) = (Request::new("POST", "/upload"), filler(size));
    let mut uploads =
        vec![request.clone().sized(&body), request.clone().sized(&body).in_writes_of(&[100, 1000, 30_000])];
    if can.send_continue && size > 0 {
        uploads.push(request.clone().sized(&body).expecting_continue());
    }
    if can.read_chunks >= ChunkedRequests::Plain {
        uploads.push(request.clone().chunked(&body, &[1, 10, 1000, 100_000]).plainly());
    }
    if can.read_chunks >= ChunkedRequests::All {
        uploads.push(request.chunked(&body, &[5, 700, 65_536]).in_writes_of(&[100, 9, 4000, 50_000]));
    }
    uploads
}

fn file_orders(extent: Extent) -> Vec<Order> {
    let mut orders = Vec::new();
    for &size in extent.sizes() {
        orders.push(Order::new(Request::get(&format!("/blob/{size}")), &[200]).answering(size));
        orders.push(Order::new(Request::new("HEAD", &format!("/blob/{size}")), &[200]).answering(0));
        orders.push(Order::new(Request::get(&format!("/chunked/{size}?again=1")), &[200]).answering(size));
    }
    orders.push(Order::new(Request::get("/items"), &[200]).answering(3));
    let part = Request::get("/blob/4096").field("Range", "bytes=1000-2999");
    orders.push(Order::new(part, &[206]).answering(2000));
    orders.push(Order::new(Request::get("/blob/4096").field("If-None-Match", "*"), &[304]).answering(0));
    orders.push(Order::new(Request::get("/blob/7"), &[404]));
    // Apache answers with the file.
    orders.push(Order::new(Request::new("POST", "/blob/1").sized(b"not here"), &[200, 405]));
    for statuses in [&[403], &[410], &[503]] as [&[u16]; 3] {
        orders.push(Order::new(Request::get(&format!("/status/{}", statuses[0])), statuses));
    }
    orders.push(Order::new(Request::get("/nothing/there"), &[404]).fated(Fate::Unmatched));
    orders
}
