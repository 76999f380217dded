//! Exponential histograms as the clients send them, to be filled from what is known and from what was exported.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::otlp::buckets;

/// Eight buckets from one power of two to the next.
const SCALE: i64 = 3;

/// Several points added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    pub count: u64,
    pub sum: f64,
    pub zeros: u64,
    /// By index.
    pub buckets: BTreeMap<i64, u64>,
}

impl Histogram {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        if value == 0.0 {
            self.zeros += 1;
        } else {
            *self.buckets.entry(bucket(value)).or_default() += 1;
        }
    }

    /// # Panics
    /// When the point is of another scale.
    pub fn add_point(&mut self, point: &Value) {
        assert_eq!(point["scale"], SCALE, "{point}");
        self.count += point["count"].as_u64().expect("a point has a count");
        self.sum += point["sum"].as_f64().expect("a point has a sum");
        self.zeros += point["zero_count"].as_u64().unwrap_or(0);
        for (bucket, count) in buckets(point) {
            *self.buckets.entry(bucket).or_default() += count;
        }
    }

    /// Whether the values can be paired so that no pair is more than one bucket apart.
    pub fn within_one_bucket(&self, other: &Self) -> bool {
        let values = |histogram: &Self| -> Vec<i64> {
            histogram.buckets.iter().flat_map(|(bucket, count)| (0..*count).map(|_| *bucket)).collect()
        };
        let (ours, theirs) = (values(self), values(other));
        self.count == other.count
            && self.zeros == other.zeros
            && ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(ours, theirs)| ours.abs_diff(*theirs) <= 1)
    }

    pub fn as_sizes(&self) -> String {
        if self.count == 0 {
            "unknown".to_owned()
        } else {
            format!("{} B of {}, {}", self.sum, self.count, self.as_buckets())
        }
    }

    pub fn as_buckets(&self) -> String {
        let zeros = (self.zeros > 0).then(|| format!("zero:{}", self.zeros));
        let buckets = self.buckets.iter().map(|(bucket, count)| format!("{bucket}:{count}"));
        zeros.into_iter().chain(buckets).collect::<Vec<_>>().join(" ")
    }
}

/// The smallest i with value <= 2^((i+1)/8). As exact as a logarithm is; sizes of traffic are whole numbers or far from
/// a boundary.
fn bucket(value: f64) -> i64 {
    (value.log2() * 8.0).ceil() as i64 - 1
}
