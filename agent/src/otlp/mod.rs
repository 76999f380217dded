//! Ships counts by OTLP/HTTP: to Apitally with a write token, or to any collector.
//!
//! An [`Exporter`] per target turns what the pipeline counted into OTLP's messages ([`metrics`], [`events`], [`spans`]), with
//! the names, limits and histograms of the newest official client. [`Otlp::start`] spawns one task per endpoint, which
//! keeps them in a [`crate::spool`] and delivers them in that client's order and pace, if need be after a restart.
//!
//! Never in a log or a spool: the token and values of headers. Never in a log: anything from the body of a reply.

mod client;
mod config;
mod events;
mod export;
mod metrics;
mod queue;
mod schedule;
mod spans;
mod value;

pub use client::{Answer, LastAnswer, Otlp, OtlpState};
pub use config::{
    Destination, Endpoint, EndpointError, Header, HeaderError, OtlpConfig, WriteToken, WriteTokenError,
};
pub use events::Capture;
pub use export::{Export, Exporter, Payload, Service, Signal};
pub use metrics::ProcessUse;
pub use queue::Dropped;
pub use schedule::{ExportTimer, INTERVAL, Pace};
