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
    pub metrics_listen: Option<Given<String>>,
    pub record: Option<Given<PathBuf>>,
    pub ring_bytes: Option<Given<u32>>,
    pub max_cpu: Option<Given<u32>>,
    pub max_memory: Option<Given<u32>>,
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

/// Names of keys that somebody gave, and where. All others have their defaults.
pub type Origins = Vec<(&'static str, Origin)>;

/// The origin of one key; none when nobody gave it.
pub fn origin<T>(name: &'static str, given: Option<&Given<T>>) -> Option<(&'static str, Origin)> {
    given.map(|given| (name, given.by.clone()))
}

impl AgentKeys {
    pub fn origins(&self) -> Origins {
        let all = [
            origin("hub_url", self.hub_url.as_ref()),
            origin("state_dir", self.state_dir.as_ref()),
            origin("runtime_dir", self.runtime_dir.as_ref()),
            origin("metrics_listen", self.metrics_listen.as_ref()),
            origin("record", self.record.as_ref()),
            origin("ring_bytes", self.ring_bytes.as_ref()),
            origin("max_cpu", self.max_cpu.as_ref()),
            origin("max_memory", self.max_memory.as_ref()),
            origin("log_level", self.log_level.as_ref()),
            origin("log_format", self.log_format.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }

    pub fn of_flags(args: &RunArgs) -> Self {
        Self {
            hub_url: given(&args.count, "hub_url", args.hub_url.as_ref()),
            state_dir: given(&args.count, "state_dir", args.state_dir.as_ref()),
            runtime_dir: given(&args.count, "runtime_dir", args.runtime.runtime_dir.as_ref()),
            metrics_listen: given(&args.count, "metrics_listen", args.metrics_listen.as_ref()),
            record: given(&args.count, "record", args.record.as_ref()),
            ring_bytes: given(&args.count, "ring_bytes", args.ring_bytes.as_ref()),
            max_cpu: given(&args.count, "max_cpu", args.max_cpu.as_ref()),
            max_memory: given(&args.count, "max_memory", args.max_memory.as_ref()),
            log_level: given(&args.count, "log_level", args.log_level.as_ref()),
            log_format: given(&args.count, "log_format", args.log_format.as_ref()),
        }
    }

    pub fn take(table: &mut Table<'_>) -> Result<Self, FileError> {
        Ok(Self {
            hub_url: table.take("hub_url")?,
            state_dir: table.take_path("state_dir")?,
            runtime_dir: table.take_path("runtime_dir")?,
            metrics_listen: table.take("metrics_listen")?,
            record: table.take_path("record")?,
            ring_bytes: table.take("ring_bytes")?,
            max_cpu: table.take("max_cpu")?,
            max_memory: table.take("max_memory")?,
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
            metrics_listen: self.metrics_listen.or(fallback.metrics_listen),
            record: self.record.or(fallback.record),
            ring_bytes: self.ring_bytes.or(fallback.ring_bytes),
            max_cpu: self.max_cpu.or(fallback.max_cpu),
            max_memory: self.max_memory.or(fallback.max_memory),
            log_level: self.log_level.or(fallback.log_level),
            log_format: self.log_format.or(fallback.log_format),
        }
    }
}

impl TargetKeys {
    pub fn origins(&self) -> Origins {
        let own = [
            origin("client_id", self.client_id.as_ref()),
            origin("write_token", self.write_token.as_ref()),
            origin("otlp_endpoint", self.otlp_endpoint.as_ref()),
            origin("otlp_headers", self.otlp_headers.as_ref()),
            origin("env", self.env.as_ref()),
            origin("app_version", self.app_version.as_ref()),
            origin("client", self.client.as_ref()),
            origin("sync_interval", self.sync_interval.as_ref()),
            origin("response_time", self.response_time.as_ref()),
            origin("errors", self.errors.as_ref()),
        ];
        let parts = [self.routes.origins(), self.consumers.origins(), self.request_log.origins()];
        own.into_iter().flatten().chain(parts.into_iter().flatten()).collect()
    }

    pub fn of_flags(args: &CountArgs) -> Self {
        Self {
            client_id: given(args, "client_id", args.client_id.clone().map(Credential::Text).as_ref()),
            write_token: None,
            otlp_endpoint: None,
            otlp_headers: None,
            env: None,
            app_version: given(args, "app_version", args.app_version.as_ref()),
            client: None,
            sync_interval: None,
            response_time: given(args, "response_time", args.response_time.as_ref()),
            consumers: ConsumerKeys::of_flags(args),
            request_log: LogKeys::default(),
            routes: RouteKeys::of_flags(args),
            errors: None,
        }
    }

    /// Those of a run, which have some that a replay has not.
    pub fn of_run(args: &RunArgs) -> Self {
        let token = args.write_token.clone().map(Credential::Text);
        let headers = Some(&args.otlp_header).filter(|headers| !headers.is_empty());
        Self {
            write_token: given(&args.count, "write_token", token.as_ref()),
            otlp_endpoint: given(&args.count, "otlp_endpoint", args.otlp_endpoint.as_ref()),
            otlp_headers: given(&args.count, "otlp_header", headers),
            env: given(&args.count, "env", args.env.as_ref()),
            sync_interval: given(&args.count, "sync_interval", args.sync_interval.as_ref()),
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

/// The value of a flag or of its variable.
fn given<T: Clone>(args: &CountArgs, field: &str, value: Option<&T>) -> Option<Given<T>> {
    let variable = args.variables.get(field).map(str::to_owned);
    let by = variable.map_or(Origin::CommandLine, Origin::Environment);
    value.cloned().map(|value| Given { value, by })
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
