//! `--metrics-listen`: what the agent knows, for Prometheus and whoever scrapes as it does. The names are promised in
//! docs/metrics.md.
//!
//! The server has a thread of its own: so it can tell that the agent's loop stands still, and a long page costs the loop
//! no more than a look at its numbers.

pub mod beat;
mod page;
pub mod serve;

use crate::{pipeline::cumulative::Row, status::report::AgentStatus};

/// Text that the rows of all targets may take in a page, bytes, about. Room for some 1200 of them, 44,000 time series;
/// exchanges that would need more are in no series, and counted as `cumulative_over_limit`.
pub const MAX_ROWS_TEXT: usize = 8 * 1024 * 1024;

/// What a page is made of.
#[derive(Debug)]
pub struct Scrape {
    pub status: AgentStatus,
    /// Of each target.
    pub requests: Vec<Requests>,
}

/// The requests of a target since the agent watches it.
#[derive(Debug)]
pub struct Requests {
    /// As it was asked for, such as `--port 8000`.
    pub target: String,
    pub rows: Vec<Row>,
}
