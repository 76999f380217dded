//! A small shop as people write such APIs: what the demo watches, and something to try the agent on.
//!
//! Prints one line when it is ready: `listening on ADDRESS`.
#![allow(clippy::print_stdout, reason = "that line is the interface to whoever started us")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
#[command(name = "sample-api", about = "A small HTTP API to watch")]
struct Args {
    /// Where to listen, on 127.0.0.1; 0 takes a free port
    #[arg(long, default_value_t = 8000)]
    port: u16,
}

/// Items by id. At most [`SHELF`] of them; a new one beyond that replaces the oldest that was added.
type Items = Arc<Mutex<BTreeMap<u64, Item>>>;

#[derive(Clone, Debug, PartialEq)]
struct Item {
    name: String,
    price: f64,
}

/// Items that are there from the start, with ids from 1.
const STOCK: u64 = 100;
const SHELF: usize = 1000;
const LARGEST_BODY: usize = 8 * 1024 * 1024;
const API_KEYS: [&str; 2] = ["demo-key-1", "demo-key-2"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, api(stock())).await
}

fn api(items: Items) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/items", get(list_items).post(create_item))
        .route("/items/{id}", get(read_item).put(replace_item).delete(delete_item))
        .route("/users/{user}/orders/{order}", get(read_order))
        .route("/private", get(private))
        .route("/stream", get(stream))
        .route("/slow", get(slow))
        .route("/error", get(error))
        .route("/echo", post(async |body: axum::body::Bytes| body))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(items)
}

fn stock() -> Items {
    let item = |id: u64| Item { name: format!("item number {id}"), price: 1.0 + 0.25 * (id % 40) as f64 };
    Arc::new(Mutex::new((1..=STOCK).map(|id| (id, item(id))).collect()))
}

async fn list_items(State(items): State<Items>) -> Response {
    work(8).await;
    let list: Vec<Value> = lock(&items).iter().take(20).map(|(id, item)| item.json(*id)).collect();
    Json(list).into_response()
}

async fn read_item(State(items): State<Items>, Path(id): Path<u64>) -> Response {
    work(id % 7).await;
    match lock(&items).get(&id) {
        Some(item) => Json(item.json(id)).into_response(),
        None => not_found(),
    }
}

async fn create_item(State(items): State<Items>, body: String) -> Response {
    work(12).await;
    let item = match Item::from_json(&body) {
        Ok(item) => item,
        Err(field) => return unprocessable(field),
    };
    let mut items = lock(&items);
    let id = items.last_key_value().map_or(1, |(id, _)| id + 1);
    let answer = item.json(id);
    items.insert(id, item);
    if items.len() > SHELF
        && let Some(oldest) = items.range(STOCK + 1..).next().map(|(id, _)| *id)
    {
        items.remove(&oldest);
    }
    (StatusCode::CREATED, [(header::LOCATION, format!("/items/{id}"))], Json(answer)).into_response()
}

async fn replace_item(State(items): State<Items>, Path(id): Path<u64>, body: String) -> Response {
    work(10).await;
    let item = match Item::from_json(&body) {
        Ok(item) => item,
        Err(field) => return unprocessable(field),
    };
    match lock(&items).get_mut(&id) {
        Some(there) => {
            let answer = item.json(id);
            *there = item;
            Json(answer).into_response()
        }
        None => not_found(),
    }
}

async fn delete_item(State(items): State<Items>, Path(id): Path<u64>) -> Response {
    work(5).await;
    match lock(&items).remove(&id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => not_found(),
    }
}

async fn read_order(Path((user, order)): Path<(u64, u64)>) -> Response {
    work(10 + order % 35).await;
    let lines: Vec<Value> = (1..=order % 12 + 1).map(|n| json!({"item": n, "quantity": n % 3 + 1})).collect();
    Json(json!({"user": user, "order": order, "lines": lines})).into_response()
}

async fn private(headers: HeaderMap) -> Response {
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    if API_KEYS.contains(&key) {
        Json(json!({"balance": 1234.5, "currency": "EUR"})).into_response()
    } else {
        (StatusCode::UNAUTHORIZED, Json(json!({"detail": "X-API-Key is missing or wrong"}))).into_response()
    }
}

/// Five pieces with pauses between them: no length is known beforehand, so it goes out chunked.
async fn stream() -> Response {
    let pieces = futures_util::stream::unfold(0_u32, async |n| {
        if n == 5 {
            return None;
        }
        work(6).await;
        Some((Ok::<_, Infallible>(format!("{{\"event\": {n}, \"data\": \"{}\"}}\n", "x".repeat(400))), n + 1))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response()
}

async fn slow(Query(query): Query<BTreeMap<String, String>>) -> Response {
    let ms = query.get("ms").and_then(|ms| ms.parse().ok()).unwrap_or(100).min(10_000);
    work(ms).await;
    Json(json!({"waited_ms": ms})).into_response()
}

async fn error() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"detail": "division by zero"}))).into_response()
}

/// What a database would take.
async fn work(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// As FastAPI and Django Ninja write it.
fn unprocessable(field: &str) -> Response {
    let problem = json!({"loc": ["body", field], "msg": "Field required", "type": "missing"});
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"detail": [problem]}))).into_response()
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"detail": "there is no such item"}))).into_response()
}

fn lock(items: &Items) -> std::sync::MutexGuard<'_, BTreeMap<u64, Item>> {
    items.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Item {
    fn json(&self, id: u64) -> Value {
        json!({"id": id, "name": self.name, "price": self.price})
    }

    /// The error is the name of the field that is missing or wrong.
    fn from_json(body: &str) -> Result<Self, &'static str> {
        let value: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let name = value["name"].as_str().filter(|name| !name.is_empty()).ok_or("name")?;
        let price = value["price"].as_f64().filter(|price| *price >= 0.0).ok_or("price")?;
        Ok(Self { name: name.to_owned(), price })
    }
}

#[cfg(test)]
mod tests {
    use super::Item;

    #[test]
    fn an_item_needs_a_name_and_a_price_that_is_not_negative() {
        let pen = Item { name: "pen".to_owned(), price: 1.5 };
        assert_eq!(Item::from_json(r#"{"name": "pen", "price": 1.5}"#), Ok(pen));
        for (body, wrong) in [
            ("", "name"),
            ("[]", "name"),
            (r#"{"price": 1.5}"#, "name"),
            (r#"{"name": "pen"}"#, "price"),
            (r#"{"name": "pen", "price": -1}"#, "price"),
        ] {
            assert_eq!(Item::from_json(body), Err(wrong), "{body}");
        }
    }
}
