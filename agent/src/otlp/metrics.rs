//! Counts as OTLP's metrics (protocol page, section 14.4).
//!
//! Three delta exponential histograms, whose points are told apart by method, route, status and consumer, and gauges
//! of what the target uses. A row gives its points to each of the histograms or to none, since a size without a
//! duration counts for nothing.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
    NumberDataPoint, exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
};

use super::value::{integer, text, unix_nanos};
use crate::pipeline::{
    counters::{Exponential, Row},
    exponential::{Histogram, SCALE},
};

/// What the target's processes use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessUse {
    /// Since the oldest of them began.
    pub uptime: Duration,
    /// Share of all processors of the host since the last sample, 0 to 1. None without a last sample.
    pub cpu_utilization: Option<f64>,
    /// Resident, bytes. None where it cannot be read.
    pub memory: Option<u64>,
}

/// What was counted between two points in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub start: SystemTime,
    pub end: SystemTime,
}

/// How a histogram is called, and what its values are multiples of.
struct Instrument {
    name: &'static str,
    unit: &'static str,
    /// Values to a unit.
    per_unit: f64,
    histogram: fn(&Exponential) -> &Histogram,
}

/// Of this, each exchange has a value.
const DURATION: &str = "http.server.request.duration";

const INSTRUMENTS: [Instrument; 3] = [
    Instrument { name: DURATION, unit: "s", per_unit: 1e9, histogram: |row| &row.response_times },
    Instrument {
        name: "http.server.request.body.size",
        unit: "By",
        per_unit: 1.0,
        histogram: |row| &row.request_sizes,
    },
    Instrument {
        name: "http.server.response.body.size",
        unit: "By",
        per_unit: 1.0,
        histogram: |row| &row.response_sizes,
    },
];

/// The histograms of these rows; those without a point are left out.
pub fn requests(rows: &[Row], interval: Interval) -> Vec<Metric> {
    let metric = |instrument: &Instrument| {
        let data_points: Vec<_> = rows.iter().filter_map(|row| point(row, instrument, interval)).collect();
        let data = ExponentialHistogram {
            data_points,
            aggregation_temporality: AggregationTemporality::Delta.into(),
        };
        (!data.data_points.is_empty()).then(|| Metric {
            name: instrument.name.to_owned(),
            unit: instrument.unit.to_owned(),
            data: Some(Data::ExponentialHistogram(data)),
            ..Metric::default()
        })
    };
    INSTRUMENTS.iter().filter_map(metric).collect()
}

/// Exchanges that are counted in these metrics.
pub fn exchanges<'a>(metrics: impl Iterator<Item = &'a Metric>) -> u64 {
    let durations = metrics.filter(|metric| metric.name == DURATION);
    durations
        .filter_map(|metric| match metric.data.as_ref()? {
            Data::ExponentialHistogram(data) => {
                Some(data.data_points.iter().map(|point| point.count).sum::<u64>())
            }
            _ => None,
        })
        .sum()
}

fn point(row: &Row, instrument: &Instrument, interval: Interval) -> Option<ExponentialHistogramDataPoint> {
    let histogram = (instrument.histogram)(row.exponential.as_ref()?);
    let range = histogram.range?;
    let mut attributes = vec![
        text("http.request.method", &row.method),
        text("http.route", &row.path),
        integer("http.response.status_code", row.status.into()),
    ];
    attributes.extend(row.consumer.iter().map(|consumer| text("apitally.consumer.identifier", consumer)));
    let in_unit = |value: u64| value as f64 / instrument.per_unit;
    Some(ExponentialHistogramDataPoint {
        attributes,
        // A clock that was set back must not make it end before it starts.
        start_time_unix_nano: unix_nanos(interval.start.min(interval.end)),
        time_unix_nano: unix_nanos(interval.end),
        count: histogram.count,
        sum: Some(in_unit(histogram.sum)),
        scale: SCALE,
        zero_count: histogram.zeros,
        positive: buckets(histogram),
        min: Some(in_unit(range.min)),
        max: Some(in_unit(range.max)),
        ..ExponentialHistogramDataPoint::default()
    })
}

/// All buckets from the first to the last that has values; None when none has.
fn buckets(histogram: &Histogram) -> Option<Buckets> {
    let (first, _) = histogram.buckets.first_key_value()?;
    let (last, _) = histogram.buckets.last_key_value()?;
    let bucket_counts = (*first..=*last).map(|index| histogram.buckets.get(&index).copied().unwrap_or(0));
    Some(Buckets { offset: *first, bucket_counts: bucket_counts.collect() })
}

/// Gauges of what the target uses.
pub fn process(usage: &ProcessUse, at: SystemTime) -> Vec<Metric> {
    let gauge = |name: &str, unit: &str, value| {
        let point = NumberDataPoint {
            time_unix_nano: unix_nanos(at),
            value: Some(value),
            ..NumberDataPoint::default()
        };
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
            ..Metric::default()
        }
    };
    let double = number_data_point::Value::AsDouble;
    let bytes = |bytes| number_data_point::Value::AsInt(i64::try_from(bytes).unwrap_or(i64::MAX));
    [gauge("process.uptime", "s", double(usage.uptime.as_secs_f64()))]
        .into_iter()
        .chain(usage.cpu_utilization.map(|share| gauge("process.cpu.utilization", "1", double(share))))
        .chain(usage.memory.map(|memory| gauge("process.memory.usage", "By", bytes(memory))))
        .collect()
}
