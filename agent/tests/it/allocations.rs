//! What the pipeline asks of the allocator.

use agent::pipeline::Pipeline;
use allocation_counter::measure;
use tests::app::SERVERS;

use crate::taps::{self, Dialog};

/// Enough for every table, buffer and histogram to have the size that this traffic needs.
const WARM_UP: u64 = 4;
const ROUNDS: u64 = 20;
/// For a path that is no route: the template that waits for the answer.
const TO_NO_ROUTE: u64 = 1;
/// For a head that comes in two pieces: the first one, which waits, and room for the second.
const SPLIT_HEAD: u64 = 2;
/// What an open connection may hold, bytes; its place in the table included, which is half empty just after it grew.
const CONNECTION: i64 = 2048;

#[test]
fn a_request_costs_no_allocation_in_the_steady_state() {
    for server in &SERVERS {
        let dialogs = taps::dialogs(server.name);
        let mut pipeline = taps::pipeline();
        let mut play = |rounds| play(&dialogs, rounds, &mut pipeline);
        play(0..WARM_UP);
        let allocations = measure(|| play(WARM_UP..WARM_UP + ROUNDS)).count_total;
        let exceptions = |dialog: &Dialog| dialog.unmatched * TO_NO_ROUTE + dialog.split_heads() * SPLIT_HEAD;
        let allowed = ROUNDS * dialogs.iter().map(exceptions).sum::<u64>();
        assert!(allocations <= allowed, "{}: {allocations}, not {allowed} at most", server.name);
    }
}

#[test]
fn an_open_connection_holds_little_memory() {
    let dialogs = taps::dialogs("nginx");
    let dialog = dialogs.iter().find(|dialog| dialog.requests > 1).expect("one was kept open");
    let mut pipeline = taps::pipeline();
    for connections in [100, 1000, 10_000] {
        let held =
            measure(|| (0..connections).for_each(|conn| dialog.play(conn, 0, &mut pipeline))).bytes_current;
        let each = held / i64::try_from(connections).expect("they are few");
        assert!(each <= CONNECTION, "{each} bytes for each of {connections}");
        pipeline = taps::pipeline();
    }
}

fn play(dialogs: &[Dialog], rounds: std::ops::Range<u64>, pipeline: &mut Pipeline) {
    for round in rounds {
        for (conn, dialog) in (1..).zip(dialogs) {
            dialog.play(conn, round, pipeline);
        }
    }
}
