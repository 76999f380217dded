//! An OTLP delivery as the daemon runs it, for tests that block.

use std::{fs::File, time::Duration};

use agent::{
    delivery::Delivery,
    hub::Env,
    otlp::{Destination, Endpoint, Otlp, OtlpConfig, OtlpState, Pace, Payload, Signal, WriteToken},
    spool::Receipt,
};
use tests::{
    eventually::eventually,
    fake_hub::{FakeHub, Kind},
    otlp,
};

use crate::aside::Aside;

pub const TOKEN: &str = "apt_A1b2C3d4E5f6G7h8I9j0K1l2";
pub const AMPLE: Duration = Duration::from_secs(20);
/// Where the endpoint will not answer anyway.
pub const BRIEF: Duration = Duration::from_millis(150);
/// Between a failed round and the next.
pub const ROUND: Duration = Duration::from_millis(20);

pub const TRACES: Kind = Kind::Otlp(otlp::Signal::Traces);
pub const LOGS: Kind = Kind::Otlp(otlp::Signal::Logs);
pub const METRICS: Kind = Kind::Otlp(otlp::Signal::Metrics);

pub struct Sender {
    pub otlp: Otlp,
    aside: Aside,
}

pub fn config(url: &str) -> OtlpConfig {
    let destination = Destination::Apitally(WriteToken::parse(TOKEN).unwrap());
    OtlpConfig {
        pace: Pace { between: (Duration::ZERO, Duration::from_millis(2)), fixed_interval: Some(ROUND) },
        ..OtlpConfig::new(Endpoint::parse(url).unwrap(), destination, Env::parse("Golden_1").unwrap())
    }
}

impl Sender {
    pub fn start(config: OtlpConfig) -> Self {
        Self::start_logging_to(config, tempfile::tempfile().unwrap())
    }

    pub fn start_logging_to(config: OtlpConfig, log: File) -> Self {
        let aside = Aside::start(log);
        let otlp = aside.spawning(|| Otlp::start(config).unwrap());
        Self { otlp, aside }
    }

    pub fn send(&self, payloads: &[(Signal, &str)]) {
        let payloads = payloads.iter().map(|(signal, name)| payload(*signal, name, None));
        self.otlp.send(payloads.collect());
    }

    pub fn send_counts(&self, name: &str, receipt: Receipt) {
        self.otlp.send(vec![payload(Signal::Metrics, name, Some(receipt))]);
    }

    pub fn eventually(&self, what: &str, check: impl Fn(&OtlpState) -> bool) -> OtlpState {
        eventually(what, AMPLE, || Some(self.otlp.state()).filter(&check))
    }

    pub fn eventually_keeps(&self, payloads: usize) {
        self.eventually("all are on disk", |state| state.queued == payloads && state.spool.in_memory == 0);
    }

    pub fn finish(self, deadline: Duration) -> Delivery {
        self.aside.block_on(self.otlp.finish(deadline))
    }
}

fn payload(signal: Signal, name: &str, receipt: Option<Receipt>) -> Payload {
    Payload { signal, body: name.as_bytes().to_vec(), receipt }
}

pub fn hub() -> FakeHub {
    let hub = FakeHub::start();
    hub.reply_with(200);
    hub
}

/// Bodies of everything that arrived, in order.
pub fn names(hub: &FakeHub) -> Vec<String> {
    let bodies = hub.received().into_iter().map(|message| message.raw_body);
    bodies.map(|body| String::from_utf8(body).unwrap()).collect()
}
