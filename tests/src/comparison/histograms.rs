//! The same for what is reported by OTLP: histograms of requests, by their attributes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Difference, NONE, cut};
use crate::fake_hub::{FakeHub, Kind};
use crate::histogram::Histogram;
use crate::otlp::{Signal, points};

/// Everything that a collector got of requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histograms(BTreeMap<String, Request>);

/// Requests with the same attributes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Request {
    duration: Histogram,
    request_size: Histogram,
    response_size: Histogram,
}

impl Histograms {
    /// # Panics
    /// When a point is of another scale than the others.
    pub fn at(collector: &FakeHub) -> Self {
        let received = collector.received_of(Kind::Otlp(Signal::Metrics));
        let exports: Vec<&Value> =
            received.iter().filter(|export| export.accepted()).map(|export| &export.body).collect();
        let mut histograms = Self::default();
        for (metric, part) in [
            (
                "http.server.request.duration",
                (|request| &mut request.duration) as fn(&mut Request) -> &mut Histogram,
            ),
            ("http.server.request.body.size", |request| &mut request.request_size),
            ("http.server.response.body.size", |request| &mut request.response_size),
        ] {
            for point in points(exports.iter().copied(), metric) {
                part(histograms.0.entry(subject(&point["attributes"])).or_default()).add_point(point);
            }
        }
        histograms
    }

    /// What the two do not have in common. Durations may be one bucket apart.
    pub fn differences(official: &Self, agent: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let subjects: BTreeSet<&String> = official.0.keys().chain(agent.0.keys()).collect();
        for subject in subjects {
            let mut differ = |what: &str, official: String, agent: String| {
                found.push(Difference { subject: subject.clone(), what: what.to_owned(), official, agent });
            };
            let (Some(ours), Some(theirs)) = (official.0.get(subject), agent.0.get(subject)) else {
                let requests = |request: Option<&Request>| {
                    request.map_or(NONE.to_owned(), |request| request.duration.count.to_string())
                };
                differ("requests", requests(official.0.get(subject)), requests(agent.0.get(subject)));
                continue;
            };
            for (what, ours, theirs) in [
                ("request size", &ours.request_size, &theirs.request_size),
                ("response size", &ours.response_size, &theirs.response_size),
            ] {
                if ours != theirs {
                    differ(what, ours.as_sizes(), theirs.as_sizes());
                }
            }
            if !ours.duration.within_one_bucket(&theirs.duration) {
                differ("response time", ours.duration.as_buckets(), theirs.duration.as_buckets());
            }
        }
        found.sort();
        found
    }
}

fn subject(attributes: &Value) -> String {
    let text = |name: &str| attributes[name].as_str().unwrap_or_default();
    let status = &attributes["http.response.status_code"];
    let by = attributes["apitally.consumer.identifier"].as_str();
    let by = by.map(|consumer| format!(" by {}", cut(consumer))).unwrap_or_default();
    format!("{} {} {status}{by}", text("http.request.method"), text("http.route"))
}
