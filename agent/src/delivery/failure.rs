//! Why a message did not arrive, in words that tell what to do.

use std::{
    collections::BTreeMap,
    error::Error,
    io, iter,
    sync::{Mutex, PoisonError},
};

/// Reasons to try again later. None of them holds a URL: the client id is part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("connection refused")]
    ConnectionRefused,
    #[error("host name not found")]
    HostNotFound,
    #[error("timed out")]
    TimedOut,
    /// Ended while the reply was awaited.
    #[error("connection closed without a reply")]
    ConnectionClosed,
    #[error(
        "certificate not trusted ({reason}); if a proxy or relay with a CA of its own stands in between, \
         set SSL_CERT_FILE to a file with that CA's certificate"
    )]
    Certificate { reason: String },
    #[error("answered with status {0}")]
    Status(u16),
    /// Whatever else, in the words of the library that met it.
    #[error("{0}")]
    Transport(String),
}

impl Failure {
    /// Its name among the reasons that are counted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection_refused",
            Self::HostNotFound => "host_not_found",
            Self::TimedOut => "timed_out",
            Self::ConnectionClosed => "connection_closed",
            Self::Certificate { .. } => "certificate",
            Self::Status(_) => "status",
            Self::Transport(_) => "transport",
        }
    }
}

/// Tries that failed, by reason.
#[derive(Debug, Default)]
pub struct Failures(Mutex<BTreeMap<&'static str, u64>>);

impl Failures {
    pub fn add(&self, failure: &Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(failure.name()).or_default() += 1;
    }

    /// Those that occurred.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        // The outermost error names the URL; the innermost says what happened.
        let causes = || iter::successors(error.source(), |&cause| cause.source());
        for cause in causes() {
            let text = cause.to_string();
            if let Some(reason) = text.strip_prefix("invalid peer certificate: ") {
                return Self::Certificate { reason: reason.to_owned() };
            }
            if text.starts_with("dns error") {
                return Self::HostNotFound;
            }
            if text == "connection closed before message completed" {
                return Self::ConnectionClosed;
            }
            match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::ConnectionRefused) => return Self::ConnectionRefused,
                Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                    return Self::ConnectionClosed;
                }
                Some(io::ErrorKind::TimedOut) => return Self::TimedOut,
                _ => {}
            }
        }
        let innermost = causes().last().map(ToString::to_string);
        Self::Transport(innermost.unwrap_or_else(|| error.without_url().to_string()))
    }
}
