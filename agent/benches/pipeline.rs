//! What a request costs in the pipeline, from the ring buffer's bytes to the counters: requests per second of one core,
//! and memory per connection.
//!
//! The traffic is that of `agent/tests/recordings`, on connections that stay open. `cargo bench --bench pipeline`

#![allow(clippy::print_stdout, reason = "memory is no time, so criterion has no place for it")]

#[path = "../tests/it/taps.rs"]
#[allow(dead_code, reason = "the tests ask it for more")]
mod taps;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use self::taps::Dialog;

/// Servers whose recordings differ most in how records and messages lie to each other.
const SERVERS: [&str; 5] = ["nginx", "axum", "uvicorn", "gunicorn-gthread", "node-http"];

/// The connections of a recording that were kept open: for as long as others take to open one and close it, these
/// bring many requests.
fn dialogs(server: &str) -> Vec<Dialog> {
    let mut dialogs = taps::dialogs(server);
    dialogs.retain(|dialog| dialog.requests > 1);
    assert!(!dialogs.is_empty(), "no connection of {server} was kept open");
    dialogs
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("requests");
    for server in SERVERS {
        let dialogs = dialogs(server);
        let requests = dialogs.iter().map(|dialog| dialog.requests).sum();
        group.throughput(Throughput::Elements(requests));
        group.bench_function(BenchmarkId::from_parameter(server), |bencher| {
            let (mut pipeline, mut round) = (taps::pipeline(), 0);
            bencher.iter(|| {
                for (conn, dialog) in (1..).zip(&dialogs) {
                    dialog.play(conn, round, &mut pipeline);
                }
                round += 1;
            });
        });
    }
    group.finish();
}

/// Whether a request costs more when it is on one of many connections.
fn connections(criterion: &mut Criterion) {
    let dialogs = dialogs("nginx");
    let dialog = dialogs.first().expect("one was kept open");
    let mut group = criterion.benchmark_group("connections");
    for connections in [10, 1000, 10_000] {
        group.throughput(Throughput::Elements(dialog.requests));
        group.bench_function(BenchmarkId::from_parameter(connections), |bencher| {
            let mut pipeline = taps::pipeline();
            let mut plays = 0..;
            let mut next =
                || plays.next().map(|play: u64| (play % connections, play / connections)).unwrap_or_default();
            bencher.iter_batched(
                &mut next,
                |(conn, round)| dialog.play(conn, round, &mut pipeline),
                BatchSize::SmallInput,
            );
        });
        let mut pipeline = taps::pipeline();
        let held = allocation_counter::measure(|| {
            (0..connections).for_each(|conn| dialog.play(conn, 0, &mut pipeline));
        });
        println!("{connections} connections hold {} bytes each", held.bytes_current / connections as i64);
    }
    group.finish();
}

criterion_group!(benches, requests, connections);
criterion_main!(benches);
