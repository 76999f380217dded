//! What the eBPF programs and the agent must agree on: the layout of records and maps, and the bounds both
//! sides rely on. Integers only; whoever reads a record checks every enum and length (`decode`).
#![no_std]

pub mod conn;
#[cfg(feature = "user")]
pub mod decode;
pub mod drops;
pub mod event;
pub mod limits;
#[cfg(feature = "user")]
mod pod;
pub mod settings;
