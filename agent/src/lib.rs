//! Kernel event -> connection -> HTTP exchange -> route and consumer -> counters -> hub message.
//!
//! `probe` brings events in, `pipeline` turns them into counts without touching the outside world, `hub`
//! ships them; `daemon` is the wiring.

pub mod cli;
pub mod config;
pub mod consumer_files;
pub mod exit;
pub mod memory;
pub mod privileges;
pub mod telemetry;

pub mod probe;
pub mod watch;

pub mod kubernetes;

pub mod pipeline;

pub mod request_log;

pub mod delivery;
pub mod hub;
pub mod machine;
pub mod openapi;
pub mod otlp;
pub mod slots;
pub mod spool;

pub mod dry_run;
pub mod metrics;
pub mod recording;
pub mod status;

pub mod check;
pub mod daemon;
pub mod pulse;
pub mod replay;
pub mod thermostat;
