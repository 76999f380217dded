//! (method, route, status) -> histograms that only ever grow, for whoever looks now and then and takes nothing.
//!
//! Consumers are left out: there may be thousands of them, and their names are personal.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use super::{
    counters::Measured,
    detail::budget::{Budget, Held},
    http::head::Method,
    route::RouteId,
};

/// Upper bounds of response times, each within its bucket: what OpenTelemetry's conventions for HTTP metrics advise for
/// `http.server.request.duration`.
pub const DURATION_BOUNDS: [Duration; 14] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(75),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(750),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_millis(7500),
    Duration::from_secs(10),
];

/// Likewise of body sizes, bytes. The conventions advise none; from a short answer to a large file, an order of magnitude
/// each.
pub const SIZE_BOUNDS: [u64; 7] = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Lines that a row takes in a text of metrics: of each histogram its buckets, the one beyond the last bound, the sum and
/// the count.
const LINES: usize = (DURATION_BOUNDS.len() + 3) + 2 * (SIZE_BOUNDS.len() + 3);

/// Bytes of such a line beside the template, about.
const LINE: usize = 160;

/// A histogram. The last bucket holds what is beyond the bounds, so there is one more of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<const BUCKETS: usize> {
    pub buckets: [u64; BUCKETS],
    /// Nanoseconds, or bytes.
    pub sum: u64,
}

pub type Durations = Histogram<{ DURATION_BOUNDS.len() + 1 }>;
pub type Sizes = Histogram<{ SIZE_BOUNDS.len() + 1 }>;

/// Exchanges that share method, route and status, since the target was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub method: Method,
    /// Route template, at most 2048 bytes.
    pub path: String,
    pub status: u16,
    /// Counts every exchange of the row.
    pub response_times: Durations,
    /// Over the bodies of known size.
    pub request_sizes: Sizes,
    /// Likewise.
    pub response_sizes: Sizes,
}

/// Rows in the making. There are as many as their text, once somebody asks for it, has room in the budget, which is that
/// of all targets; an exchange that would need another one is turned away.
#[derive(Debug)]
pub struct Cumulative {
    cells: HashMap<Key, Cell>,
    budget: Budget,
}

/// What exchanges of a row have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub route: RouteId,
    pub method: Method,
    pub status: u16,
}

#[derive(Debug)]
struct Cell {
    response_times: Durations,
    request_sizes: Sizes,
    response_sizes: Sizes,
    /// Goes back when the target is forgotten.
    _text: Held,
}

impl Cumulative {
    pub fn new(budget: Budget) -> Self {
        Self { cells: HashMap::new(), budget }
    }

    /// `path`: length of the route's template, bytes. False when there is no room.
    pub fn count(&mut self, key: Key, path: usize, measured: &Measured) -> bool {
        let cell = match self.cells.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let Some(text) = self.budget.hold(LINES * (LINE + path)) else { return false };
                entry.insert(Cell {
                    response_times: Durations::default(),
                    request_sizes: Sizes::default(),
                    response_sizes: Sizes::default(),
                    _text: text,
                })
            }
        };
        let time = measured.response_time;
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        cell.response_times.add(DURATION_BOUNDS.partition_point(|bound| *bound < time), nanos);
        for (sizes, size) in [
            (&mut cell.request_sizes, measured.request_size),
            (&mut cell.response_sizes, measured.response_size),
        ] {
            if let Some(size) = size {
                sizes.add(SIZE_BOUNDS.partition_point(|bound| *bound < size), size);
            }
        }
        true
    }

    /// All of them, in a stable order: that in which their routes became known, by method and status.
    pub fn rows<'t>(&self, template: impl Fn(RouteId) -> &'t str) -> Vec<Row> {
        let mut cells: Vec<(&Key, &Cell)> = self.cells.iter().collect();
        cells.sort_unstable_by_key(|(key, _)| **key);
        let rows = cells.into_iter().map(|(key, cell)| Row {
            method: key.method,
            path: template(key.route).to_owned(),
            status: key.status,
            response_times: cell.response_times.clone(),
            request_sizes: cell.request_sizes.clone(),
            response_sizes: cell.response_sizes.clone(),
        });
        rows.collect()
    }
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: 0 }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    fn add(&mut self, bucket: usize, value: u64) {
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(value);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::route::Routes;

    const ROOM: usize = LINES * (LINE + 6);

    fn key(status: u16) -> Key {
        let mut routes = Routes::new(std::sync::Arc::default(), 1);
        let route = routes.settle("/items".into(), crate::pipeline::route::Settle::Confirm).unwrap();
        Key { route, method: Method::GET, status }
    }

    fn measured(nanos: u64, request_size: Option<u64>, response_size: Option<u64>) -> Measured {
        Measured { response_time: Duration::from_nanos(nanos), request_size, response_size }
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let mut cumulative = Cumulative::new(Budget::new(ROOM));
        let exchanges = [
            (0, Some(0), Some(100)),
            (5_000_000, None, Some(101)),
            (5_000_001, None, Some(100_000_000)),
            (10_000_000_000, None, Some(100_000_001)),
            (10_000_000_001, None, None),
        ];
        for (nanos, request_size, response_size) in exchanges {
            assert!(cumulative.count(key(200), 6, &measured(nanos, request_size, response_size)));
        }
        let rows = cumulative.rows(|_| "/items");
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.method.as_str(), &*row.path, row.status), ("GET", "/items", 200));
        assert_eq!(row.response_times.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((row.response_times.count(), row.response_times.sum), (5, 20_010_000_002));
        assert_eq!((row.request_sizes.buckets, row.request_sizes.sum), ([1, 0, 0, 0, 0, 0, 0, 0], 0));
        assert_eq!(row.response_sizes.buckets, [1, 1, 0, 0, 0, 0, 1, 1]);
        assert_eq!((row.response_sizes.count(), row.response_sizes.sum), (4, 200_000_202));
    }

    #[test]
    fn a_row_without_room_is_turned_away_and_the_others_go_on() {
        let budget = Budget::new(2 * ROOM - 1);
        let mut cumulative = Cumulative::new(budget.clone());
        let mut count = |status| cumulative.count(key(status), 6, &measured(1, None, None));
        assert!(count(200) && !count(201) && count(200));
        assert_eq!(cumulative.rows(|_| "/items")[0].response_times.count(), 2);
        drop(cumulative);
        assert_eq!(budget.used(), 0);
    }
}
