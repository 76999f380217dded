//! What was exchanged, counted the way the hub counts: once from the client's own account, once from the agent's
//! messages; and the comparison of the two.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde_json::{Value, json};

use crate::client::Exchange;

/// Rows by what tells them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(pub BTreeMap<Key, Row>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub route: String,
    pub method: String,
    pub status: u16,
    pub consumer: Option<String>,
}

/// Counts of one row. Histograms are by bin: kilobytes of 1000 bytes for sizes, milliseconds in steps of 10 for
/// times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub count: u64,
    pub request_size_sum: u64,
    pub response_size_sum: u64,
    pub request_sizes: BTreeMap<u64, u64>,
    pub response_sizes: BTreeMap<u64, u64>,
    pub response_times: BTreeMap<u64, u64>,
}

const SIZE_BIN_BYTES: u64 = 1000;
const TIME_BIN_MS: u64 = 10;

impl Totals {
    /// The client's account.
    pub fn of<'a>(exchanges: impl IntoIterator<Item = &'a Exchange>) -> Self {
        let mut totals = Self::default();
        for exchange in exchanges {
            let row = totals.0.entry(Key::of(exchange)).or_default();
            row.count += 1;
            if let Some(size) = exchange.request_size {
                row.request_size_sum += size;
                *row.request_sizes.entry(size / SIZE_BIN_BYTES).or_default() += 1;
            }
            row.response_size_sum += exchange.response_size;
            *row.response_sizes.entry(exchange.response_size / SIZE_BIN_BYTES).or_default() += 1;
            let ms = u64::try_from(exchange.duration.as_millis()).expect("no exchange takes so long");
            *row.response_times.entry(ms / TIME_BIN_MS * TIME_BIN_MS).or_default() += 1;
        }
        totals
    }

    /// Adds up `sync` messages.
    ///
    /// # Panics
    /// When a field is missing or of another type than the hub's protocol says, or times and counts do not add up.
    pub fn of_syncs<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut totals = Self::default();
        for message in messages {
            let requests = message["requests"].as_array();
            for item in requests.unwrap_or_else(|| panic!("a sync without requests: {message}")) {
                totals.add(item);
            }
        }
        totals
    }

    /// The items of a `sync` message, which [`of_syncs`](Self::of_syncs) reads.
    pub fn to_items(&self) -> Value {
        let items = self.0.iter().map(|(key, row)| {
            json!({
                "consumer": key.consumer,
                "method": key.method,
                "path": key.route,
                "status_code": key.status,
                "request_count": row.count,
                "request_size_sum": row.request_size_sum,
                "response_size_sum": row.response_size_sum,
                "response_times": row.response_times,
                "request_sizes": row.request_sizes,
                "response_sizes": row.response_sizes,
            })
        });
        items.collect()
    }

    fn add(&mut self, item: &Value) {
        let text = |name: &str| item[name].as_str().map(str::to_owned);
        let number = |name: &str| item[name].as_u64().unwrap_or_else(|| panic!("{name} in {item}"));
        let key = Key {
            route: text("path").unwrap_or_else(|| panic!("path in {item}")),
            method: text("method").unwrap_or_else(|| panic!("method in {item}")),
            status: u16::try_from(number("status_code")).expect("a status has three digits"),
            consumer: text("consumer"),
        };
        let times = item["response_times"].as_object().into_iter().flat_map(|bins| bins.values());
        let timed = times.filter_map(Value::as_u64).sum::<u64>();
        assert_eq!(timed, number("request_count"), "every request has a response time: {item}");
        let row = self.0.entry(key).or_default();
        row.count += number("request_count");
        row.request_size_sum += number("request_size_sum");
        row.response_size_sum += number("response_size_sum");
        add_bins(&mut row.request_sizes, &item["request_sizes"]);
        add_bins(&mut row.response_sizes, &item["response_sizes"]);
        add_bins(&mut row.response_times, &item["response_times"]);
    }

    /// The same without the times of some rows, for comparing the rest of them.
    pub fn untimed(mut self, rows: impl Fn(&Key) -> bool) -> Self {
        self.0.iter_mut().filter(|(key, _)| rows(key)).for_each(|(_, row)| row.response_times.clear());
        self
    }

    /// Requests in all rows.
    pub fn count(&self) -> u64 {
        self.0.values().map(|row| row.count).sum()
    }
}

fn add_bins(bins: &mut BTreeMap<u64, u64>, reported: &Value) {
    let reported = reported.as_object().unwrap_or_else(|| panic!("bins are an object, not {reported}"));
    for (bin, count) in reported {
        let bin = bin.parse().unwrap_or_else(|_| panic!("bin {bin:?}"));
        *bins.entry(bin).or_default() += count.as_u64().unwrap_or_else(|| panic!("bin count {count}"));
    }
}

impl Row {
    /// Adds what was counted elsewhere of the same.
    pub(crate) fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.request_size_sum += other.request_size_sum;
        self.response_size_sum += other.response_size_sum;
        for (bins, others) in [
            (&mut self.request_sizes, &other.request_sizes),
            (&mut self.response_sizes, &other.response_sizes),
            (&mut self.response_times, &other.response_times),
        ] {
            others.iter().for_each(|(bin, count)| *bins.entry(*bin).or_default() += count);
        }
    }
}

impl Key {
    fn of(exchange: &Exchange) -> Self {
        Self {
            route: exchange.route.clone(),
            method: exchange.method.to_owned(),
            status: exchange.status,
            consumer: exchange.consumer.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.method, self.route, self.status)?;
        self.consumer.iter().try_for_each(|consumer| write!(f, " by {consumer}"))
    }
}

/// Every row, count, size sum and size histogram is the same; every time is within one bin of the client's own.
///
/// # Panics
/// With all differences.
pub fn assert_same(truth: &Totals, reported: &Totals) {
    let differences = differences(truth, reported);
    assert!(differences.is_empty(), "the agent's counts differ from the client's:\n{differences}");
}

/// What [`assert_same`] looks for, one difference a line.
pub fn differences(truth: &Totals, reported: &Totals) -> String {
    let mut out = String::new();
    for (key, reported) in &reported.0 {
        if !truth.0.contains_key(key) {
            let _ = writeln!(out, "{key}: {} reported, never requested", reported.count);
        }
    }
    for (key, truth) in &truth.0 {
        let Some(reported) = reported.0.get(key) else {
            let _ = writeln!(out, "{key}: none of {} reported", truth.count);
            continue;
        };
        let mut differ = |what: &str, truth: &dyn fmt::Debug, reported: &dyn fmt::Debug| {
            let _ = writeln!(out, "{key}: {what}: client {truth:?}, agent {reported:?}");
        };
        if truth.count != reported.count {
            differ("requests", &truth.count, &reported.count);
        }
        if truth.request_size_sum != reported.request_size_sum {
            differ("request size sum", &truth.request_size_sum, &reported.request_size_sum);
        }
        if truth.response_size_sum != reported.response_size_sum {
            differ("response size sum", &truth.response_size_sum, &reported.response_size_sum);
        }
        if truth.request_sizes != reported.request_sizes {
            differ("request sizes", &truth.request_sizes, &reported.request_sizes);
        }
        if truth.response_sizes != reported.response_sizes {
            differ("response sizes", &truth.response_sizes, &reported.response_sizes);
        }
        if !within_one_bin(&truth.response_times, &reported.response_times) {
            differ("response times", &truth.response_times, &reported.response_times);
        }
    }
    out
}

/// Whether the times can be paired so that no pair is more than one bin apart. If any pairing does it, the one in
/// order of size does.
pub(crate) fn within_one_bin(truth: &BTreeMap<u64, u64>, reported: &BTreeMap<u64, u64>) -> bool {
    let (truth, reported) = (times(truth), times(reported));
    truth.len() == reported.len()
        && truth.iter().zip(&reported).all(|(ours, theirs)| ours.abs_diff(*theirs) <= TIME_BIN_MS)
}

fn times(bins: &BTreeMap<u64, u64>) -> Vec<u64> {
    bins.iter().flat_map(|(bin, count)| (0..*count).map(|_| *bin)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn exchange(request_size: Option<u64>, response_size: u64, ms: u64) -> Exchange {
        let duration = Duration::from_millis(ms);
        let (route, consumer) = ("/items/{id}".to_owned(), None);
        Exchange { method: "GET", route, consumer, status: 200, request_size, response_size, duration }
    }

    fn check(client: &[Exchange], agent: &[Exchange], difference: &str) {
        assert_eq!(differences(&Totals::of(client), &Totals::of(agent)), difference);
    }

    #[test]
    fn same_counts_have_no_difference() {
        let exchanges = [exchange(None, 999, 9), exchange(Some(0), 1000, 10), exchange(Some(7), 5, 20)];
        check(&exchanges, &exchanges, "");
    }

    #[test]
    fn times_may_be_one_bin_apart() {
        let client = [exchange(None, 0, 19), exchange(None, 0, 55)];
        check(&client, &[exchange(None, 0, 49), exchange(None, 0, 0)], "");
        check(
            &client,
            &[exchange(None, 0, 39), exchange(None, 0, 10)],
            "GET /items/{id} 200: response times: client {10: 1, 50: 1}, agent {10: 1, 30: 1}\n",
        );
    }

    #[test]
    fn unknown_size_is_not_size_zero() {
        check(
            &[exchange(None, 0, 0)],
            &[exchange(Some(0), 0, 0)],
            "GET /items/{id} 200: request sizes: client {}, agent {0: 1}\n",
        );
    }

    #[test]
    fn rows_missing_on_either_side_are_named() {
        check(&[exchange(None, 0, 0)], &[], "GET /items/{id} 200: none of 1 reported\n");
        check(&[], &[exchange(None, 0, 0)], "GET /items/{id} 200: 1 reported, never requested\n");
    }
}
