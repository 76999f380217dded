//! (consumer, method, route, status) -> counts, sums and histogram bins, between two takes.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    time::Duration,
};

use foldhash::fast::RandomState;

use super::{consumer::ConsumerId, exponential::Histogram, http::head::Method, route::RouteId};

/// Histogram bin -> how many fell into it. What a bin is, says the field.
pub type Bins = BTreeMap<u64, u64>;

/// Everything counted for one target since the last take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In a stable order: by consumer, path, method, status.
    pub rows: Vec<Row>,
    /// What was wrong with requests, as far as responses say it; in a stable order, as all of these.
    pub validation_errors: Vec<ValidationErrors>,
    /// What responses say of errors in the server.
    pub server_errors: Vec<ServerErrors>,
    /// Consumers with a name or a group that are new, or whose name or group changed.
    pub consumers: Vec<ConsumerNames>,
}

/// Equal validation errors of requests that share consumer, method and route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValidationErrors {
    pub consumer: Option<String>,
    pub method: String,
    /// Route template.
    pub path: String,
    /// Where in the request it is: `body`, then names and indexes.
    pub location: Vec<String>,
    pub message: String,
    /// The framework's name for the rule that was broken; may be empty.
    pub kind: String,
    pub count: u64,
}

/// Equal errors of exchanges that share consumer, method and route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerErrors {
    pub consumer: Option<String>,
    pub method: String,
    /// Route template.
    pub path: String,
    pub kind: String,
    pub message: String,
    /// May be empty.
    pub traceback: String,
    pub count: u64,
}

/// What a consumer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerNames {
    pub identifier: String,
    pub name: Option<String>,
    pub group: Option<String>,
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
    /// Bin n holds response times from 10·n ms up to, not including, 10·(n+1) ms. Adds up to `request_count`, unless
    /// they are counted by [`Distributions::Exponential`]: then there are none.
    pub response_times: Bins,
    /// Bin n holds bodies of 1000·n up to 1000·n + 999 bytes; bodies of unknown size are in none.
    pub request_sizes: Bins,
    /// Likewise.
    pub response_sizes: Bins,
    /// What the bins would hold, with [`Distributions::Exponential`].
    pub exponential: Option<Box<Exponential>>,
}

/// Which histograms are made of what is measured: the ones that the target's delivery takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distributions {
    /// Bins of 10 ms and 1000 bytes, as the hub takes them.
    #[default]
    Linear,
    /// As OTLP takes them.
    Exponential,
}

/// Exponential histograms of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exponential {
    /// Nanoseconds, in buckets of seconds. Counts every exchange of the row.
    pub response_times: Histogram,
    /// Bytes, over the bodies of known size.
    pub request_sizes: Histogram,
    /// Likewise.
    pub response_sizes: Histogram,
}

/// Bins of all rows together, between two takes.
const MAX_BINS: usize = 1_000_000;

/// Bytes of the consumers and paths of all rows together, between two takes. 50,000 rows of the longest ones would
/// be more than 100 MB, in every message.
const MAX_TEXT: usize = 8 * 1024 * 1024;

/// What exchanges of a row have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub consumer: Option<ConsumerId>,
    pub method: Method,
    pub route: RouteId,
    pub status: u16,
}

/// What is measured of an exchange. Sizes are bytes of bodies; None is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    pub response_time: Duration,
    pub request_size: Option<u64>,
    pub response_size: Option<u64>,
}

/// Rows in the making. When there is no room for another row, its text, or another bin, the exchange is turned away.
#[derive(Debug)]
pub struct Counters {
    /// For what is counted from now on.
    pub distributions: Distributions,
    /// Keys are short and mostly numbers of ours; what a client chooses of them, the method, is hashed with a secret.
    cells: HashMap<Key, Cell, RandomState>,
    bins: usize,
    /// Bytes of consumers and paths.
    text: usize,
    max_rows: usize,
}

#[derive(Debug, Default)]
struct Cell {
    request_count: u64,
    request_size_sum: u64,
    response_size_sum: u64,
    response_times: Bins,
    request_sizes: Bins,
    response_sizes: Bins,
    exponential: Option<Box<Exponential>>,
}

/// Whether an exchange was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Into a new row.
    First,
    Again,
    /// Not at all.
    NoRoom,
}

impl Counters {
    pub fn new(distributions: Distributions, max_rows: usize) -> Self {
        Self { distributions, cells: HashMap::default(), bins: 0, text: 0, max_rows }
    }

    /// `text` is the length of the key's consumer and path, bytes.
    pub fn count(&mut self, key: Key, text: usize, measured: &Measured) -> Counted {
        if self.bins >= MAX_BINS {
            return Counted::NoRoom;
        }
        let is_full = self.cells.len() >= self.max_rows || self.text.saturating_add(text) > MAX_TEXT;
        let (cell, counted) = match self.cells.entry(key) {
            Entry::Occupied(entry) => (entry.into_mut(), Counted::Again),
            Entry::Vacant(_) if is_full => return Counted::NoRoom,
            Entry::Vacant(entry) => {
                self.text = self.text.saturating_add(text);
                (entry.insert(Cell::default()), Counted::First)
            }
        };
        cell.request_count += 1;
        cell.request_size_sum = cell.request_size_sum.saturating_add(measured.request_size.unwrap_or(0));
        cell.response_size_sum = cell.response_size_sum.saturating_add(measured.response_size.unwrap_or(0));
        self.bins += match self.distributions {
            Distributions::Linear => cell.add_linear(measured),
            Distributions::Exponential => cell.add_exponential(measured),
        };
        counted
    }

    /// Everything counted since the last take; counting restarts from zero.
    pub fn take(
        &mut self,
        identifier: impl Fn(ConsumerId) -> Option<String>,
        template: impl Fn(RouteId) -> String,
    ) -> Counts {
        (self.bins, self.text) = (0, 0);
        let mut rows: Vec<Row> = self
            .cells
            .drain()
            .map(|(key, cell)| Row {
                consumer: key.consumer.and_then(&identifier),
                method: key.method.as_str().to_owned(),
                path: template(key.route),
                status: key.status,
                request_count: cell.request_count,
                request_size_sum: cell.request_size_sum,
                response_size_sum: cell.response_size_sum,
                response_times: cell.response_times,
                request_sizes: cell.request_sizes,
                response_sizes: cell.response_sizes,
                exponential: cell.exponential,
            })
            .collect();
        rows.sort_by(|a, b| {
            (&a.consumer, &a.path, &a.method, a.status).cmp(&(&b.consumer, &b.path, &b.method, b.status))
        });
        Counts { rows, ..Counts::default() }
    }
}

impl Cell {
    /// Returns how many bins are new.
    fn add_linear(&mut self, measured: &Measured) -> usize {
        let milliseconds = u64::try_from(measured.response_time.as_millis()).unwrap_or(u64::MAX);
        add(&mut self.response_times, milliseconds / 10)
            + measured.request_size.map_or(0, |size| add(&mut self.request_sizes, size / 1000))
            + measured.response_size.map_or(0, |size| add(&mut self.response_sizes, size / 1000))
    }

    /// Likewise.
    fn add_exponential(&mut self, measured: &Measured) -> usize {
        let Exponential { response_times, request_sizes, response_sizes } =
            &mut **self.exponential.get_or_insert_default();
        response_times.add_duration(measured.response_time)
            + measured.request_size.map_or(0, |size| request_sizes.add_bytes(size))
            + measured.response_size.map_or(0, |size| response_sizes.add_bytes(size))
    }
}

/// Adds one to a bin; the number of bins that are new.
fn add(bins: &mut Bins, bin: u64) -> usize {
    let count = bins.entry(bin).or_insert(0);
    *count += 1;
    usize::from(*count == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCHANGES: [(u64, Option<u64>); 3] = [(7, Some(36)), (12, None), (15, Some(0))];

    /// A cell with these exchanges, and how many bins it has.
    fn filled(add: impl Fn(&mut Cell, &Measured) -> usize) -> (Cell, usize) {
        let mut cell = Cell::default();
        let bins = EXCHANGES.map(|(milliseconds, response_size)| {
            let response_time = Duration::from_millis(milliseconds);
            add(&mut cell, &Measured { response_time, request_size: None, response_size })
        });
        (cell, bins.iter().sum())
    }

    #[test]
    fn linear_bins_are_of_10_ms_and_1000_bytes() {
        let (cell, bins) = filled(Cell::add_linear);
        assert_eq!(cell.response_times, [(0, 1), (1, 2)].into());
        assert_eq!((cell.request_sizes, cell.response_sizes), (Bins::new(), [(0, 2)].into()));
        assert_eq!((cell.exponential, bins), (None, 3));
    }

    #[test]
    fn exponential_histograms_take_the_same() {
        let (cell, bins) = filled(Cell::add_exponential);
        assert_eq!((cell.response_times, cell.response_sizes), (Bins::new(), Bins::new()));
        let exponential = cell.exponential.unwrap();
        assert_eq!((exponential.response_times.count, exponential.response_times.sum), (3, 34_000_000));
        assert_eq!(exponential.request_sizes, Histogram::default());
        let sizes = exponential.response_sizes;
        assert_eq!((sizes.count, sizes.zeros, sizes.sum), (2, 1, 36));
        assert_eq!(sizes.buckets, [(41, 1)].into());
        assert_eq!(bins, 4);
    }
}
