//! (consumer, method, route, status) -> counts, sums and histogram bins, between two takes.

use std::collections::BTreeMap;

/// Histogram bin -> how many fell into it. What a bin is, says the field.
pub type Bins = BTreeMap<u64, u64>;

/// Everything counted for one target since the last take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In a stable order: by consumer, path, method, status.
    pub rows: Vec<Row>,
}

/// Exchanges that share consumer, method, route and status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Identifier, at most 128 characters; None when no rule matched.
    pub consumer: Option<String>,
    /// Upper case, `[A-Z-]{1,16}`.
    pub method: String,
    /// Route template, at most 2048 bytes.
    pub path: String,
    pub status: u16,
    pub request_count: u64,
    /// Bytes, over the bodies of known size.
    pub request_size_sum: u64,
    /// Bytes, over the bodies of known size.
    pub response_size_sum: u64,
    /// Bin n holds response times from 10·n ms up to, not including, 10·(n+1) ms. Adds up to `request_count`.
    pub response_times: Bins,
    /// Bin n holds bodies of 1000·n up to 1000·n + 999 bytes; bodies of unknown size are in none.
    pub request_sizes: Bins,
    /// Likewise.
    pub response_sizes: Bins,
}
