//! What the agent's ways out, [`crate::hub`] and [`crate::otlp`], have in common.
//!
//! A [`Handle`] takes messages and leads to the task that delivers them, of which each way out is a [`Way`]. Beside it
//! stands what both use: addresses, intervals, the HTTP client, and what is said when nobody answers.

mod address;
mod courier;
mod due;
mod failure;
mod outage;

use std::time::{Duration, SystemTime};

use reqwest::redirect;

pub use address::{Address, AddressError};
pub use courier::{Delivery, Handle, Then, Way};
pub use due::Due;
pub use failure::{Failure, Failures};
pub use outage::Outage;

/// What was heard last of a destination.
#[derive(Clone, Debug, PartialEq)]
pub struct LastAnswer<A> {
    pub at: SystemTime,
    pub answer: Result<A, Failure>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client; look at SSL_CERT_FILE and the proxy variables: {0}")]
pub struct StartError(reqwest::Error);

/// A client that gives a request so long, from connecting to the end of the reply, and an idle connection `idle`.
///
/// Proxies and certificates come from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`,
/// `SSL_CERT_FILE`.
///
/// # Errors
/// When what the environment says cannot be used.
pub fn http_client(timeout: Duration, idle: Duration) -> Result<reqwest::Client, StartError> {
    reqwest::Client::builder()
        .user_agent(concat!("apitally-agent/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .pool_idle_timeout(idle)
        .build()
        .map_err(StartError)
}
