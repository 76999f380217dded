//! What a pipeline has reported, added up, and whether it agrees with the ledger.

use std::collections::BTreeMap;

use agent::pipeline::{
    Pipeline,
    counters::{Bins, Row, ServerErrors, ValidationErrors},
};
use agent_common::conn::TargetId;

/// Consumer, method, path and status of a row.
pub type Key = (Option<String>, String, String, u16);

/// The rows of one target, over all takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub rows: BTreeMap<Key, Row>,
}

impl Account {
    /// Takes what was counted since the last take. Errors that bodies told of are not added up.
    pub fn take(
        &mut self,
        pipeline: &mut Pipeline,
        target: TargetId,
    ) -> (Vec<ValidationErrors>, Vec<ServerErrors>) {
        let counts = pipeline.take_counts(target);
        for row in counts.rows {
            let sum = |bins: &Bins| bins.values().sum::<u64>();
            assert_eq!(sum(&row.response_times), row.request_count, "each exchange has a response time");
            assert!(sum(&row.request_sizes) <= row.request_count);
            assert!(sum(&row.response_sizes) <= row.request_count);

            let key = (row.consumer.clone(), row.method.clone(), row.path.clone(), row.status);
            let total = self.rows.entry(key).or_default();
            total.request_count += row.request_count;
            total.request_size_sum = total.request_size_sum.saturating_add(row.request_size_sum);
            total.response_size_sum = total.response_size_sum.saturating_add(row.response_size_sum);
            add(&mut total.response_times, &row.response_times);
            add(&mut total.request_sizes, &row.request_sizes);
            add(&mut total.response_sizes, &row.response_sizes);
        }
        (counts.validation_errors, counts.server_errors)
    }

    /// Takes the rest, and compares with the ledger.
    pub fn close(
        &mut self,
        pipeline: &mut Pipeline,
        target: TargetId,
    ) -> (Vec<ValidationErrors>, Vec<ServerErrors>) {
        let told = self.take(pipeline, target);
        let reported: u64 = self.rows.values().map(|row| row.request_count).sum();
        assert_eq!(reported, pipeline.ledger(target).reported, "rows and ledger differ");
        assert_adds_up(pipeline, target);
        told
    }
}

fn add(total: &mut Bins, more: &Bins) {
    for (bin, count) in more {
        *total.entry(*bin).or_default() += count;
    }
}

/// The promise: seen = reported + lost + open, and for bytes seen = captured + muted + missing.
pub fn assert_adds_up(pipeline: &Pipeline, target: TargetId) {
    let ledger = pipeline.ledger(target);
    let known = [ledger.reported, ledger.lost(), pipeline.open_exchanges(target)];
    let known = known.into_iter().fold(0, u64::saturating_add);
    assert_eq!(ledger.seen, known, "{ledger:?}");
    assert!(ledger.bytes.adds_up(), "{ledger:?}");
}
