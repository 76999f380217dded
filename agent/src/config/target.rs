//! What the keys of a target mean.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    AppConfig, ConfigError, Delivery, HubTarget, OtlpTarget, RouteConfig, SHORTEST_SYNC_INTERVAL,
    TargetConfig, TargetSpec, ValueError, Warning,
    consumers::Consumers,
    keys::{AgentKeys, Credential, TargetKeys},
    table::{Given, Origin},
};
use crate::{
    cli::ResponseTimeArg,
    consumer_files::{NamesFile, is_world_readable},
    hub::{BaseUrl, ClientId, Env},
    otlp::{self, Endpoint, Header, WriteToken},
    pipeline::{Policy, ResponseTime, counters::Distributions, detail::Keep},
};

/// Longest credential in a file of its own, bytes.
const LONGEST_CREDENTIAL: u64 = 4096;

/// The hub that all targets report to.
///
/// # Errors
/// When it is no URL of a hub.
pub fn hub_url(keys: &AgentKeys) -> Result<BaseUrl, ConfigError> {
    let Some(given) = &keys.hub_url else { return Ok(BaseUrl::default()) };
    BaseUrl::parse(&given.value).map_err(|error| ConfigError::naming(given, "hub_url", error))
}

/// Where messages go of targets that do not say so themselves.
#[derive(Clone, Debug)]
pub enum Destination {
    Stdout,
    Hub(BaseUrl),
    /// To the hub for a client id, and nowhere without one.
    HubIfNamed(BaseUrl),
}

/// A target in full. Only who reports to a hub needs a client id.
///
/// # Errors
/// The first value that cannot be used. A bad client id is an error even where none is needed: a dry run is there to
/// find such things.
pub fn understand(
    spec: Given<TargetSpec>,
    keys: &TargetKeys,
    destination: &Destination,
) -> Result<TargetConfig, ConfigError> {
    let Counted { policy, app, names, routes, warnings } = count(keys)?;
    let env = keys
        .env
        .as_ref()
        .map(|given| Env::parse(&given.value).map_err(|error| ConfigError::naming(given, "env", error)));
    let env = env.transpose()?.unwrap_or_default();
    let hub = |base_url: &BaseUrl, client_id| {
        Delivery::Hub(HubTarget { base_url: base_url.clone(), client_id, env: env.clone() })
    };
    let delivery = match (otlp(keys, env.clone())?, destination, client_id(keys)?) {
        (Some(target), Destination::Stdout, _) => Delivery::OtlpStdout(target),
        (Some(target), Destination::Hub(_) | Destination::HubIfNamed(_), _) => Delivery::Otlp(target),
        (None, Destination::Stdout, _) => Delivery::Stdout,
        (None, Destination::Hub(base_url) | Destination::HubIfNamed(base_url), Some(id)) => hub(base_url, id),
        (None, Destination::HubIfNamed(_), None) => Delivery::Nowhere,
        (None, Destination::Hub(_), None) => return Err(ConfigError::about(&spec, ValueError::NoClientId)),
    };
    if let Some(interval) = &keys.sync_interval
        && interval.value < SHORTEST_SYNC_INTERVAL
    {
        let error = ValueError::SyncInterval { name: interval.name("sync_interval"), saw: interval.value };
        return Err(ConfigError::about(interval, error));
    }
    // Who has nobody to send them to keeps none.
    let is_sent = delivery != Delivery::Nowhere;
    let request_log = keys.request_log.understand()?.filter(|_| is_sent);
    let keep = request_log.as_ref().map(|log| log.keep()).unwrap_or_default();
    let keep = Keep { errors: policy.keep.errors && is_sent, ..keep };
    Ok(TargetConfig {
        policy: Policy { ports: spec.value.ports(), distributions: distributions(&delivery), keep, ..policy },
        spec: spec.value,
        pod: None,
        app,
        names,
        routes,
        warnings,
        delivery,
        request_log,
        sync_interval: keys.sync_interval.as_ref().map(|interval| interval.value),
        origins: keys.origins(),
    })
}

/// The histograms that a delivery takes.
fn distributions(delivery: &Delivery) -> Distributions {
    match delivery {
        Delivery::Hub(_) | Delivery::Stdout | Delivery::Nowhere => Distributions::Linear,
        Delivery::Otlp(_) | Delivery::OtlpStdout(_) => Distributions::Exponential,
    }
}

/// Where a target reports by OTLP; None when it does not.
fn otlp(keys: &TargetKeys, env: Env) -> Result<Option<OtlpTarget>, ConfigError> {
    let TargetKeys { client_id, otlp_endpoint, otlp_headers, .. } = keys;
    let token = write_token(keys)?;
    let parse = |given: &Given<String>| {
        Endpoint::parse(&given.value).map_err(|error| ConfigError::naming(given, "otlp_endpoint", error))
    };
    let endpoint = otlp_endpoint.as_ref().map(parse).transpose()?;
    if token.is_none() && endpoint.is_none() {
        return Ok(None);
    }
    if let Some(client_id) = client_id {
        let name = match (&keys.write_token, otlp_endpoint) {
            (Some(token), _) => token.name("write_token"),
            (None, Some(endpoint)) => endpoint.name("otlp_endpoint"),
            (None, None) => String::new(),
        };
        let client_id_name = client_id.name("client_id");
        return Err(ConfigError::about(client_id, ValueError::TwoWays { name, client_id: client_id_name }));
    }
    let mut headers = Vec::new();
    if let Some(given) = otlp_headers {
        let name = match given.by {
            Origin::CommandLine | Origin::Environment(_) => "--otlp-header".to_owned(),
            Origin::File(_) | Origin::Annotation | Origin::Label(_) => "`otlp_headers`".to_owned(),
        };
        if token.is_some() {
            return Err(ConfigError::about(given, ValueError::HeaderBesideToken { name }));
        }
        for text in &given.value {
            let header = Header::parse(text).map_err(|error| {
                ConfigError::about(given, ValueError::OtlpHeader { name: name.clone(), error })
            });
            headers.push(header?);
        }
    }
    let destination = token.map_or(otlp::Destination::Collector(headers), otlp::Destination::Apitally);
    Ok(Some(OtlpTarget { endpoint: endpoint.unwrap_or_default(), destination, env }))
}

fn write_token(keys: &TargetKeys) -> Result<Option<WriteToken>, ConfigError> {
    let Some(given) = &keys.write_token else { return Ok(None) };
    let parsed = match &given.value {
        Credential::Text(text) => WriteToken::parse(text).map_err(ValueError::from),
        Credential::File(path) => read(path).and_then(|text| {
            WriteToken::parse(&text).map_err(|_| ValueError::WriteTokenFile { path: path.clone() })
        }),
    };
    parsed.map(Some).map_err(|error| ConfigError::naming(given, "write_token", error))
}

/// How exchanges become counts, and what is said of the app: what a run and a replay have in common.
#[derive(Debug)]
pub struct Counted {
    pub policy: Policy,
    pub app: AppConfig,
    pub names: Option<NamesFile>,
    pub routes: RouteConfig,
    pub warnings: Vec<Warning>,
}

/// # Errors
/// The first value that cannot be used.
pub fn count(keys: &TargetKeys) -> Result<Counted, ConfigError> {
    let credential = match (client_id(keys)?, write_token(keys)?) {
        (Some(client_id), _) => Some(client_id.to_string()),
        (None, Some(token)) => Some(token.secret().to_owned()),
        // A key that everybody knows protects nothing that leaves the host.
        (None, None) if keys.otlp_endpoint.is_some() => None,
        // What is only printed here needs no credential.
        (None, None) => Some(String::new()),
    };
    let Consumers { rules, names, open_key, by_credential } =
        keys.consumers.understand(credential.as_deref())?;
    let response_time = match keys.response_time.as_ref().map(|given| given.value) {
        None | Some(ResponseTimeArg::LastByte) => ResponseTime::LastByte,
        Some(ResponseTimeArg::FirstByte) => ResponseTime::FirstByte,
    };
    let routes = keys.routes.understand()?;
    let policy = Policy {
        response_time,
        routes: Arc::new(routes.declared(None).expect("without a document they were looked at already")),
        consumers: rules.into(),
        keep: Keep { errors: keys.errors.as_ref().is_none_or(|given| given.value), ..Keep::default() },
        ..Policy::default()
    };
    let text = |given: &Given<String>| Some(given.value.trim().to_owned()).filter(|text| !text.is_empty());
    let app = AppConfig {
        version: keys.app_version.as_ref().and_then(text),
        client: keys.client.as_ref().map(client).transpose()?,
    };
    let mut warnings: Vec<Warning> = open_key.map(|path| Warning::OpenKey { path }).into_iter().collect();
    let token = keys.write_token.as_ref().and_then(open_file);
    warnings.extend(token.map(|path| Warning::OpenToken { path }));
    if by_credential {
        let client_id = keys.client_id.as_ref().and_then(open_file);
        warnings.extend(client_id.map(|path| Warning::OpenClientId { path }));
    }
    Ok(Counted { policy, app, names, routes, warnings })
}

fn client_id(keys: &TargetKeys) -> Result<Option<ClientId>, ConfigError> {
    let Some(given) = &keys.client_id else { return Ok(None) };
    let parsed = match &given.value {
        Credential::Text(text) => ClientId::parse(text).map_err(ValueError::from),
        // Its text is not shown: whoever names the wrong file may have named one with a secret.
        Credential::File(path) => read(path).and_then(|text| {
            ClientId::parse(&text).map_err(|_| ValueError::ClientIdFile { path: path.clone() })
        }),
    };
    parsed.map(Some).map_err(|error| ConfigError::naming(given, "client_id", error))
}

/// The file that a credential stands in, when any user of this host can read it.
fn open_file(given: &Given<Credential>) -> Option<PathBuf> {
    let path = match (&given.value, &given.by) {
        (Credential::File(path), _) => path,
        (Credential::Text(_), Origin::File(place)) => &*place.file,
        (
            Credential::Text(_),
            Origin::CommandLine | Origin::Environment(_) | Origin::Annotation | Origin::Label(_),
        ) => {
            return None;
        }
    };
    is_world_readable(path).then(|| path.to_owned())
}

fn read(path: &Path) -> Result<String, ValueError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_CREDENTIAL).read_to_string(&mut text))
        .map_err(|error| ValueError::Unreadable { path: path.to_owned(), error })?;
    Ok(text)
}

/// As frameworks are called in the hub's messages: `python:django`.
fn client(given: &Given<String>) -> Result<String, ConfigError> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if (1..=64).contains(&given.value.len()) && given.value.bytes().all(usable) {
        return Ok(given.value.clone());
    }
    let error = ValueError::Client { name: given.name("client"), saw: given.value.clone() };
    Err(ConfigError::about(given, error))
}
