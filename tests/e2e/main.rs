//! The agent, real servers, the kernel in between.
#![allow(clippy::print_stdout, reason = "figures are for whoever reads what a run of the tests printed")]

mod bounds;
mod counts;
mod errors;
mod lifecycle;
mod overload;
mod ports;
mod recording;
mod servers;
mod sockets;
mod status;
mod traffic;
