//! What the user decides about the log of requests.

use crate::pipeline::detail::Keep;

use super::{
    exclude::{Exclusions, ExtraExclusions},
    mask::{ExtraMasks, Masks},
    patterns::PatternError,
};

/// Types whose bodies are kept: those of the official Python client, and what else is JSON.
const CONTENT_TYPES: [&str; 6] = [
    "application/json",
    "application/problem+json",
    "application/vnd.api+json",
    "application/ld+json",
    "application/x-ndjson",
    "text/plain",
];

/// What the user writes down. The default is the official client's, once its log is switched on (hub protocol,
/// section 11.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The query in URLs, masked. Without it URLs end before the question mark, those in headers too.
    pub query_params: bool,
    pub request_headers: bool,
    pub request_body: bool,
    pub response_headers: bool,
    pub response_body: bool,
    /// Beginnings of `Content-Type`, in any case. Instead of the default ones.
    pub content_types: Vec<String>,
    pub masks: ExtraMasks,
    pub exclusions: ExtraExclusions,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            query_params: true,
            request_headers: false,
            request_body: false,
            response_headers: true,
            response_body: false,
            content_types: CONTENT_TYPES.map(str::to_owned).to_vec(),
            masks: ExtraMasks::default(),
            exclusions: ExtraExclusions::default(),
        }
    }
}

/// The same, ready to be followed.
#[derive(Clone, Debug)]
pub struct LogPolicy {
    pub query_params: bool,
    pub request: Parts,
    pub response: Parts,
    /// In lower case.
    pub content_types: Vec<String>,
    pub masks: Masks,
    pub exclusions: Exclusions,
    /// As the user wrote it down.
    pub options: LogOptions,
}

/// What is logged of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub headers: bool,
    pub body: bool,
}

impl LogPolicy {
    /// # Errors
    /// The first pattern that cannot be used.
    pub fn new(options: &LogOptions) -> Result<Self, PatternError> {
        let types = options.content_types.iter().map(|content_type| content_type.trim().to_ascii_lowercase());
        Ok(Self {
            query_params: options.query_params,
            request: Parts { headers: options.request_headers, body: options.request_body },
            response: Parts { headers: options.response_headers, body: options.response_body },
            content_types: types.filter(|content_type| !content_type.is_empty()).collect(),
            masks: Masks::new(&options.masks)?,
            exclusions: Exclusions::new(&options.exclusions)?,
            options: options.clone(),
        })
    }

    /// What the pipeline is to keep for it.
    pub fn keep(&self) -> Keep {
        Keep {
            exchanges: true,
            request_bodies: self.request.body,
            response_bodies: self.response.body,
            content_types: self.content_types.clone(),
            errors: false,
        }
    }

    /// Whether bodies of this type are logged; `content_type` in lower case.
    pub fn takes_type(&self, content_type: &str) -> bool {
        self.content_types.iter().any(|known| content_type.starts_with(known))
    }
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self::new(&LogOptions::default()).expect("the hub's patterns are regular expressions")
    }
}
