//! What a pod says of itself: annotations, in the place of flags.

use std::{collections::BTreeMap, str::FromStr};

use agent_common::conn::LocalPorts;

use super::{
    ConfigError, ValueError,
    consumers::ConsumerKeys,
    keys::{Credential, TargetKeys},
    routes::RouteKeys,
    table::{Given, Origin, Value as _, nearest},
};
use crate::kubernetes::pod::{LONGEST_VALUE, PREFIX};

/// What can be said, without the prefix. Files and URLs are not among it: the agent can read more than a pod's author.
const NAMES: [&str; 9] =
    ["app-version", "client", "client-id", "consumer-header", "container", "env", "port", "routes", "watch"];

/// What the annotations of a pod say.
#[derive(Clone, Debug, Default)]
pub struct PodKeys {
    /// Whether it is to be watched; None when it leaves that to others.
    pub watch: Option<bool>,
    /// Names of containers; empty when it names none.
    pub containers: Vec<String>,
    /// Local ports that count; empty when all do.
    pub ports: Vec<u16>,
    pub keys: TargetKeys,
}

/// Why an annotation means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    #[error("annotation {PREFIX}{saw} is unknown; {advice}")]
    Unknown { saw: String, advice: String },
    #[error("annotation {PREFIX}{name} is longer than {LONGEST_VALUE} bytes")]
    TooLong { name: String },
    #[error("annotation {PREFIX}{name} is {saw:?}; it must be {wanted}")]
    Value { name: &'static str, saw: String, wanted: &'static str },
}

impl PodKeys {
    /// Reads annotations, named without the prefix.
    ///
    /// # Errors
    /// The first that means nothing. Whether a value can be used is another question.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        for (name, value) in annotations {
            if !NAMES.contains(&name.as_str()) {
                let advice = match nearest(name, &NAMES) {
                    Some(known) => format!("did you mean {PREFIX}{known}?"),
                    None => format!("known are {}", NAMES.join(", ")),
                };
                return Err(error(AnnotationError::Unknown { saw: name.chars().take(64).collect(), advice }));
            }
            if value.len() > LONGEST_VALUE {
                return Err(error(AnnotationError::TooLong { name: name.clone() }));
            }
        }
        let text = |name| annotations.get(name).map(|text: &String| by(text.trim().to_owned()));
        let words = |name: &str| words(annotations.get(name));
        let client_id = text("client-id").map(|id| by(Credential::Text(id.value)));
        let watch = annotations.get("watch").map(|text| parse("watch", text, "\"true\" or \"false\""));
        let ports = words("port").into_iter().map(|text| match parse("port", &text, u16::WANTED) {
            Ok(0) => Err(wrong("port", &text, u16::WANTED)),
            port => port,
        });
        if words("port").len() > LocalPorts::MOST {
            return Err(wrong("port", &annotations["port"], "four ports at most"));
        }
        let routes = words("routes");
        Ok(Self {
            watch: watch.transpose()?,
            containers: words("container"),
            ports: ports.collect::<Result<_, _>>()?,
            keys: TargetKeys {
                client_id,
                env: text("env"),
                app_version: text("app-version"),
                client: text("client"),
                consumers: ConsumerKeys::of_headers(words("consumer-header").into_iter().map(by)),
                routes: RouteKeys::of_patterns((!routes.is_empty()).then(|| by(routes))),
                ..TargetKeys::default()
            },
        })
    }

    /// Whether the pod asks to be watched: by saying so, or by naming the app that it is.
    pub fn asks(&self) -> bool {
        self.watch.unwrap_or(self.keys.client_id.is_some())
    }
}

pub fn by<T>(value: T) -> Given<T> {
    Given { value, by: Origin::Annotation }
}

/// Separated by commas.
fn words(text: Option<&String>) -> Vec<String> {
    let words = text.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn parse<T: FromStr>(name: &'static str, text: &str, wanted: &'static str) -> Result<T, ConfigError> {
    text.trim().parse().map_err(|_| wrong(name, text, wanted))
}

fn wrong(name: &'static str, text: &str, wanted: &'static str) -> ConfigError {
    error(AnnotationError::Value { name, saw: text.chars().take(64).collect(), wanted })
}

fn error(error: AnnotationError) -> ConfigError {
    ConfigError::Value(ValueError::Annotation(error))
}
