//! The matrix's API under axum, and so under hyper. Its argument is where to listen: a port of 127.0.0.1, or the path
//! of a Unix socket.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tests::app::{chunks, filler};
use tokio::net::{TcpListener, UnixListener};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listen = std::env::args().nth(1).expect("a port or a path is given");
    let api = Router::new()
        .route("/blob/{length}", get(async |Path(length)| filler(length)))
        .route("/chunked/{length}", get(chunked))
        .route("/status/{code}", get(status))
        .route("/slow/{ms}", get(slow))
        .route("/items/{id}", delete(async || StatusCode::NO_CONTENT))
        .route("/upload", post(upload));
    match listen.parse() {
        Ok(port) => axum::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?, api).await,
        Err(_) => axum::serve(UnixListener::bind(listen)?, api).await,
    }
}

async fn chunked(Path(length): Path<usize>) -> Body {
    Body::from_stream(stream::iter(chunks(length)).map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk))))
}

async fn status(Path(code): Path<u16>) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::NOT_FOUND);
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => status.into_response(),
        _ => (status, [(header::CONTENT_TYPE, "text/plain")], "as you wish\n").into_response(),
    }
}

async fn slow(Path(ms): Path<u64>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "slept\n"
}

async fn upload(request: Request) -> Json<Value> {
    let mut pieces = request.into_body().into_data_stream();
    let mut received = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        received += piece.len();
    }
    Json(json!({ "received": received }))
}
