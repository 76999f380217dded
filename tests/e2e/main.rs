//! The agent, real servers, the kernel in between.
#![allow(clippy::print_stdout, reason = "figures are for whoever reads what a run of the tests printed")]

mod aborts;
mod bounds;
mod check;
mod clients;
mod connections;
mod counts;
mod errors;
mod files;
mod finding;
mod killed;
mod kubernetes;
mod lifecycle;
mod metrics;
mod otlp;
mod outage;
mod overload;
mod pipelining;
mod ports;
mod privileges;
mod recording;
mod reload;
mod resources;
mod secrets;
mod servers;
mod side_by_side;
mod soak;
mod sockets;
mod status;
mod stopping;
mod thermostat;
mod traffic;
