//! What was given, and which of several values counts: a flag or its environment variable, then what a target's own
//! table says, then the top level of the file.

use std::{fmt, path::PathBuf, time::Duration};

use clap::ValueEnum as _;
use toml::de::DeValue;

use super::{
    consumers::ConsumerKeys,
    request_log::LogKeys,
    routes::RouteKeys,
    table::{FileError, Given, Origin, Table, Value},
};
use crate::cli::{CountArgs, LogFormat, LogLevel, ResponseTimeArg, RunArgs};

/// Keys of the agent as a whole.
#[derive(Clone, Debug, Default)]
pub struct AgentKeys {
    pub hub_url: Option<Given<String>>,
    pub state_dir: Option<Given<PathBuf>>,
    pub runtime_dir: Option<Given<PathBuf>>,
    pub record: Option<Given<PathBuf>>,
    pub ring_bytes: Option<Given<u32>>,
    pub log_level: Option<Given<LogLevel>>,
    pub log_format: Option<Given<LogFormat>>,
}

/// Keys of a target. At the top level of a file they are for all targets.
#[derive(Clone, Debug, Default)]
pub struct TargetKeys {
    pub client_id: Option<Given<Credential>>,
    pub write_token: Option<Given<Credential>>,
    pub otlp_endpoint: Option<Given<String>>,
    pub otlp_headers: Option<Given<Vec<String>>>,
    pub env: Option<Given<String>>,
    pub app_version: Option<Given<String>>,
    pub client: Option<Given<String>>,
    pub sync_interval: Option<Given<Duration>>,
    pub response_time: Option<Given<ResponseTimeArg>>,
    pub consumers: ConsumerKeys,
    pub request_log: LogKeys,
    pub routes: RouteKeys,
    pub errors: Option<Given<bool>>,
}

/// What identifies us to whom we report to, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Text(String),
    File(PathBuf),
}

/// The text is not for logs.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(***)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl AgentKeys {
    pub fn of_flags(args: &RunArgs) -> Self {
        Self {
            hub_url: given(args.hub_url.as_ref()),
            state_dir: given(args.state_dir.as_ref()),
            runtime_dir: given(args.runtime.runtime_dir.as_ref()),
            record: given(args.record.as_ref()),
            ring_bytes: given(args.ring_bytes.as_ref()),
            log_level: given(args.log_level.as_ref()),
            log_format: given(args.log_format.as_ref()),
        }
    }

    pub fn take(table: &mut Table<'_>) -> Result<Self, FileError> {
        Ok(Self {
            hub_url: table.take("hub_url")?,
            state_dir: table.take_path("state_dir")?,
            runtime_dir: table.take_path("runtime_dir")?,
            record: table.take_path("record")?,
            ring_bytes: table.take("ring_bytes")?,
            log_level: table.take("log_level")?,
            log_format: table.take("log_format")?,
        })
    }

    /// Its own values, and those of `fallback` where it has none.
    pub fn or(self, fallback: Self) -> Self {
        Self {
            hub_url: self.hub_url.or(fallback.hub_url),
            state_dir: self.state_dir.or(fallback.state_dir),
            runtime_dir: self.runtime_dir.or(fallback.runtime_dir),
            record: self.record.or(fallback.record),
            ring_bytes: self.ring_bytes.or(fallback.ring_bytes),
            log_level: self.log_level.or(fallback.log_level),
            log_format: self.log_format.or(fallback.log_format),
        }
    }
}

impl TargetKeys {
    pub fn of_flags(args: &CountArgs) -> Self {
        Self {
            client_id: args.client_id.clone().map(Credential::Text).map(by_flag),
            write_token: None,
            otlp_endpoint: None,
            otlp_headers: None,
            env: None,
            app_version: given(args.app_version.as_ref()),
            client: None,
            sync_interval: None,
            response_time: given(args.response_time.as_ref()),
            consumers: ConsumerKeys::of_flags(args),
            request_log: LogKeys::default(),
            routes: RouteKeys::of_flags(args),
            errors: None,
        }
    }

    /// Those of a run, which have some that a replay has not.
    pub fn of_run(args: &RunArgs) -> Self {
        Self {
            write_token: args.write_token.clone().map(Credential::Text).map(by_flag),
            otlp_endpoint: given(args.otlp_endpoint.as_ref()),
            otlp_headers: (!args.otlp_header.is_empty()).then(|| by_flag(args.otlp_header.clone())),
            env: given(args.env.as_ref()),
            sync_interval: given(args.sync_interval.as_ref()),
            ..Self::of_flags(&args.count)
        }
    }

    pub fn take(table: &mut Table<'_>) -> Result<Self, FileError> {
        Ok(Self {
            client_id: take_credential(table, "client_id", "client_id_file")?,
            write_token: take_credential(table, "write_token", "write_token_file")?,
            otlp_endpoint: table.take("otlp_endpoint")?,
            otlp_headers: table.take("otlp_headers")?,
            env: table.take("env")?,
            app_version: table.take("app_version")?,
            client: table.take("client")?,
            sync_interval: table.take("sync_interval")?,
            response_time: table.take("response_time")?,
            consumers: ConsumerKeys::take(table)?,
            request_log: LogKeys::take(table)?,
            routes: RouteKeys::take(table)?,
            errors: table.take("errors")?,
        })
    }

    /// Its own values, and those of `fallback` where it has none. Whoever says how it reports needs no other way.
    pub fn or(self, fallback: &Self) -> Self {
        let mut fallback = fallback.clone();
        if self.client_id.is_some() {
            (fallback.write_token, fallback.otlp_endpoint, fallback.otlp_headers) = (None, None, None);
        }
        if self.write_token.is_some() || self.otlp_endpoint.is_some() {
            fallback.client_id = None;
        }
        Self {
            client_id: self.client_id.or(fallback.client_id),
            write_token: self.write_token.or(fallback.write_token),
            otlp_endpoint: self.otlp_endpoint.or(fallback.otlp_endpoint),
            otlp_headers: self.otlp_headers.or(fallback.otlp_headers),
            env: self.env.or(fallback.env),
            app_version: self.app_version.or(fallback.app_version),
            client: self.client.or(fallback.client),
            sync_interval: self.sync_interval.or(fallback.sync_interval),
            response_time: self.response_time.or(fallback.response_time),
            consumers: self.consumers.or(fallback.consumers),
            request_log: self.request_log.or(fallback.request_log),
            routes: self.routes.or(fallback.routes),
            errors: self.errors.or(fallback.errors),
        }
    }
}

fn by_flag<T>(value: T) -> Given<T> {
    Given { value, by: Origin::CommandLine }
}

fn given<T: Clone>(flag: Option<&T>) -> Option<Given<T>> {
    flag.cloned().map(by_flag)
}

/// A credential, or the path of a file that holds it.
fn take_credential(
    table: &mut Table<'_>,
    key: &'static str,
    file_key: &'static str,
) -> Result<Option<Given<Credential>>, FileError> {
    let text = table.take::<Credential>(key)?;
    let file = table.take_path(file_key)?;
    match (text, file) {
        (Some(_), Some(_)) => {
            Err(table.error(&format!("`{key}` and `{file_key}` are both given; leave one of them out")))
        }
        (text, file) => {
            Ok(text.or(file.map(|file| Given { value: Credential::File(file.value), by: file.by })))
        }
    }
}

/// Header lines, patterns: what they hold may be secret.
impl Value for Vec<String> {
    const WANTED: &'static str = "a list of strings in quotes";
    const SECRET: bool = true;

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
    }
}

impl Value for Credential {
    const WANTED: &'static str = "a string in quotes";
    const SECRET: bool = true;

    fn read(value: &DeValue<'_>) -> Option<Self> {
        String::read(value).map(Self::Text)
    }
}

macro_rules! words {
    ($type:ty, $wanted:literal) => {
        impl Value for $type {
            const WANTED: &'static str = $wanted;

            fn read(value: &DeValue<'_>) -> Option<Self> {
                Self::from_str(value.as_str()?, false).ok()
            }
        }
    };
}

words!(ResponseTimeArg, "\"last-byte\" or \"first-byte\"");
words!(LogLevel, "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"");
words!(LogFormat, "\"text\" or \"json\"");
