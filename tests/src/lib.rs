//! Harness of the end-to-end tests: the agent, the servers it watches, a client that keeps account, a hub.
//!
//! Never links the crate `agent`: what is tested is the binary, through its command line.

pub mod agent;
pub mod app;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod comparison;
pub mod crowd;
pub mod eventually;
pub mod histogram;
pub mod machine;
pub mod matrix;
pub mod neighbours;
pub mod official;
pub mod order;
pub mod origin;
pub mod otlp;
pub mod process;
pub mod prometheus;
pub mod recordings;
pub mod scratch;
pub mod scripted;
pub mod steps;
pub mod tested;
pub mod totals;
pub mod wire;

pub mod fake_hub;
