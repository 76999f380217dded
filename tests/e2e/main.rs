//! The agent, real servers, the kernel in between.

mod bounds;
mod counts;
mod errors;
mod lifecycle;
mod overload;
mod ports;
mod recording;
mod sockets;
mod traffic;
