//! Exponential histograms of scale 3: eight buckets to each power of two.
//!
//! The kind of histogram that OTLP knows under this name, with the newest official client's scale:
//! <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram>. Bucket i holds the values from
//! 2^(i/8), not including, up to 2^((i+1)/8): an exact power of two is the last value of its bucket.

use std::{collections::BTreeMap, time::Duration};

/// Buckets are as fine as 2^(2^-3).
pub const SCALE: i32 = 3;

/// Buckets to a power of two.
const PER_POWER: i32 = 1 << SCALE;

/// Counts of whole values, by what they are in a unit of the histogram's choice. At most 512 buckets: from 1 to 2^64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub count: u64,
    /// Stays at the largest number when it gets there.
    pub sum: u64,
    /// None while there are no values.
    pub range: Option<Range>,
    /// Values of zero, which are in no bucket.
    pub zeros: u64,
    /// Index of a bucket -> values in it, never zero.
    pub buckets: BTreeMap<i32, u64>,
}

/// The smallest value, and the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Histogram {
    /// Bytes, in buckets of bytes. Returns how many buckets are new.
    pub fn add_bytes(&mut self, bytes: u64) -> usize {
        self.add(bytes, bytes as f64)
    }

    /// Nanoseconds, in buckets of seconds. Returns how many buckets are new. More than 584 years are 584 years.
    pub fn add_duration(&mut self, duration: Duration) -> usize {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.add(nanoseconds, nanoseconds as f64 / 1e9)
    }

    fn add(&mut self, value: u64, in_unit: f64) -> usize {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        let range = self.range.get_or_insert(Range { min: value, max: value });
        *range = Range { min: range.min.min(value), max: range.max.max(value) };
        if value == 0 {
            self.zeros += 1;
            return 0;
        }
        let count = self.buckets.entry(bucket(in_unit)).or_insert(0);
        *count += 1;
        usize::from(*count == 1)
    }
}

/// Bits of the fraction of an `f64`.
const FRACTION_BITS: u32 = 52;

/// Fractions of 2^(1/8) to 2^(7/8), rounded down. The powers are irrational, so a value with the same fraction is below
/// the power, and one with a larger fraction is above.
const BOUNDARIES: [u64; 7] = [
    0x0001_72b8_3c7d_517a,
    0x0003_06fe_0a31_b715,
    0x0004_bfda_d536_2a27,
    0x0006_a09e_667f_3bcc,
    0x0008_ace5_422a_a0db,
    0x000a_e89f_995a_d3ad,
    0x000d_5818_dcfb_a487,
];

/// The bucket of a value, which is a normal number above zero: the smallest i with value <= 2^((i+1)/8). Exact, as no
/// logarithm in floating point is.
fn bucket(value: f64) -> i32 {
    let bits = value.to_bits();
    let exponent = (bits >> FRACTION_BITS) as i32 - 1023;
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    if fraction == 0 {
        return exponent * PER_POWER - 1;
    }
    exponent * PER_POWER + BOUNDARIES.partition_point(|boundary| *boundary < fraction) as i32
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    /// A whole number of any size: 32 bits each, the lowest first.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Big(Vec<u32>);

    impl Big {
        fn new(number: u64) -> Self {
            Self(vec![number as u32, (number >> 32) as u32])
        }

        fn power_of_two(exponent: u32) -> Self {
            let mut digits = vec![0; exponent as usize / 32];
            digits.push(1 << (exponent % 32));
            Self(digits)
        }

        fn times(&self, other: &Self) -> Self {
            let mut product = vec![0_u32; self.0.len() + other.0.len()];
            for (place, digit) in self.0.iter().enumerate() {
                let mut carry = 0_u64;
                for (offset, factor) in other.0.iter().chain(&[0]).enumerate() {
                    if place + offset == product.len() {
                        break;
                    }
                    let sum =
                        u64::from(product[place + offset]) + u64::from(*digit) * u64::from(*factor) + carry;
                    product[place + offset] = sum as u32;
                    carry = sum >> 32;
                }
                assert_eq!(carry, 0);
            }
            Self(product)
        }

        fn to_the_eighth(&self) -> Self {
            (0..3).fold(self.clone(), |power, _| power.times(&power))
        }

        fn cmp(&self, other: &Self) -> Ordering {
            let digit = |big: &Self, place: usize| big.0.get(place).copied().unwrap_or(0);
            let places = self.0.len().max(other.0.len());
            (0..places)
                .rev()
                .map(|place| digit(self, place).cmp(&digit(other, place)))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        }
    }

    /// Whether numerator / denominator <= 2^(eighths/8), in whole numbers: both sides to the eighth power.
    fn is_at_most(numerator: u64, denominator: u64, eighths: i32) -> bool {
        let mut left = Big::new(numerator).to_the_eighth();
        let mut right = Big::new(denominator).to_the_eighth();
        let side = if eighths < 0 { &mut left } else { &mut right };
        *side = side.times(&Big::power_of_two(eighths.unsigned_abs()));
        left.cmp(&right).is_le()
    }

    /// The slow way: from the definition.
    fn check(numerator: u64, denominator: u64) {
        let found = bucket(numerator as f64 / denominator as f64);
        let of = format!("{numerator}/{denominator} in bucket {found}");
        assert!(is_at_most(numerator, denominator, found + 1), "{of} is above it");
        assert!(!is_at_most(numerator, denominator, found), "{of} is below it");
    }

    #[test]
    fn bucket_is_the_smallest_that_reaches_the_value() {
        //      bytes    from which
        for (value, want) in [
            (1.0, -1),
            (2.0, 7),
            (4.0, 15),
            (1024.0, 79),
            (0.5, -9),
            (0.25, -17),
            (32.0, 39), // as are these in the official client's messages
            (26.0, 37),
            (36.0, 41),
            (75.0, 49),
            (186.0, 60),
            (0.001_583_084_999_765_560_5, -75),
            (0.018_690_160_999_994_987, -46),
        ] {
            assert_eq!(bucket(value), want, "{value}");
        }
    }

    #[test]
    fn every_small_size_is_in_the_bucket_of_the_definition() {
        (1..20_000).for_each(|bytes| check(bytes, 1));
    }

    #[test]
    fn sizes_around_every_boundary_are_in_the_bucket_of_the_definition() {
        for power in 0..53 {
            for boundary in std::iter::once(0).chain(BOUNDARIES) {
                let bytes = (boundary + (1 << FRACTION_BITS)) >> (FRACTION_BITS - power);
                (bytes.max(2) - 1..=bytes + 2).for_each(|bytes| check(bytes, 1));
            }
        }
    }

    #[test]
    fn durations_around_every_boundary_are_in_the_bucket_of_the_definition() {
        for eighths in -240_i32..80 {
            let about = 2_f64.powf(f64::from(eighths) / 8.0) * 1e9;
            let about = about as u64;
            (about.max(3) - 2..=about + 3).for_each(|nanoseconds| check(nanoseconds, 1_000_000_000));
        }
        // 2^-9 s, the shortest power of two that is whole nanoseconds.
        check(1_953_125, 1_000_000_000);
        assert_eq!(bucket(0.001_953_125), -73);
    }

    #[test]
    fn a_histogram_adds_up() {
        let mut histogram = Histogram::default();
        let new: usize = [0, 32, 32, 26, 0, u64::MAX].map(|bytes| histogram.add_bytes(bytes)).iter().sum();
        assert_eq!(new, 3);
        assert_eq!((histogram.count, histogram.zeros, histogram.sum), (6, 2, u64::MAX));
        assert_eq!(histogram.range, Some(Range { min: 0, max: u64::MAX }));
        assert_eq!(histogram.buckets, [(37, 1), (39, 2), (511, 1)].into());
    }

    #[test]
    fn durations_are_bucketed_in_seconds_and_summed_in_nanoseconds() {
        let mut histogram = Histogram::default();
        for milliseconds in [1000, 500, 2000] {
            histogram.add_duration(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.buckets, [(-9, 1), (-1, 1), (7, 1)].into());
        assert_eq!(histogram.sum, 3_500_000_000);
        histogram.add_duration(Duration::MAX);
        assert_eq!(histogram.range.unwrap().max, u64::MAX);
    }
}
