//! What the agent's ways out, [`crate::hub`] and [`crate::otlp`], have in common: how they call somebody, when, and
//! what they say when nobody answers.

mod address;
mod due;
mod failure;
mod outage;

use std::time::Duration;

use reqwest::redirect;

pub use address::{Address, AddressError};
pub use due::Due;
pub use failure::Failure;
pub use outage::Outage;

/// What became of the messages when a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Since it was told to finish.
    pub delivered: u64,
    pub undelivered: usize,
    /// Those of the undelivered that are on disk: the next agent sends them.
    pub kept: usize,
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
