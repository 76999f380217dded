//! The library against the outside world's stand-ins. No root, no network beyond 127.0.0.1.

mod allocations;
mod aside;
mod consumers;
mod hub_client;
mod hub_environment;
mod hub_messages;
mod hub_reporter;
mod hub_spool;
mod journal;
mod otlp_client;
mod otlp_messages;
mod otlp_sender;
mod otlp_spans;
mod otlp_spool;
mod recordings;
mod request_log;
mod status;
mod taps;
mod tidy;
