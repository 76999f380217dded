//! What was typed -> what it means. After this every value is valid for good.

use std::{path::PathBuf, time::Duration};

use crate::{
    cli::{ConsumerHash, CountArgs, ResponseTimeArg, RunArgs, RuntimeArgs, TargetArgs},
    hub::{BaseUrl, BaseUrlError, ClientId, ClientIdError, Env, EnvError},
    pipeline::{
        Policy, ResponseTime,
        consumer::{ConsumerRules, HeaderRule, Identity, is_sensitive_name, key_from_client_id},
    },
};

/// Where systemd says that a service keeps its state; several directories are separated by colons.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// Likewise, where it has its sockets.
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";
const DEFAULT_STATE_DIR: &str = "/var/lib/apitally-agent";
const DEFAULT_RUNTIME_DIR: &str = "/run/apitally-agent";
const SHORTEST_SYNC_INTERVAL: Duration = Duration::from_millis(100);
const SMALLEST_RING: u32 = 4096;

/// Everything the daemon needs to know.
#[derive(Debug)]
pub struct Config {
    pub targets: Vec<TargetConfig>,
    pub record: Option<PathBuf>,
    /// Where identities of targets are kept.
    pub state_dir: PathBuf,
    /// Where the status socket is.
    pub runtime_dir: PathBuf,
    /// Bytes, a power of two.
    pub ring_bytes: u32,
}

/// One thing to watch, how it is counted, and to whom it is reported.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    pub spec: TargetSpec,
    /// Its ports are those that the processes found for `spec` say.
    pub policy: Policy,
    pub app: AppConfig,
    pub delivery: Delivery,
    /// None: as the protocol has it.
    pub sync_interval: Option<Duration>,
}

/// What the user says about an app, beyond what can be seen of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppConfig {
    pub version: Option<String>,
}

/// One thing to watch, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    Pid(u32),
    Port(u16),
}

impl std::fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "--pid {pid}"),
            Self::Port(port) => write!(f, "--port {port}"),
        }
    }
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Hub(HubTarget),
    /// JSON lines on stdout.
    Stdout,
}

/// One environment of one app at a hub. Targets that report to the same one share its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubTarget {
    pub base_url: BaseUrl,
    pub client_id: ClientId,
    pub env: Env,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("nothing to watch: name a process with --pid PID, or a listening port with --port PORT")]
    NoTarget,
    #[error("--pid {0} is given twice")]
    SamePid(u32),
    #[error("--port {0} is given twice")]
    SamePort(u16),
    #[error(
        "no client id: give --client-id UUID or set APITALLY_CLIENT_ID (the dashboard shows it), or try --dry-run"
    )]
    NoClientId,
    #[error(transparent)]
    ClientId(#[from] ClientIdError),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    HubUrl(#[from] BaseUrlError),
    #[error("--consumer-header {saw:?} is not a header name; write it like X-API-Key")]
    HeaderName { saw: String },
    #[error("--sync-interval is {saw:?}; it must be at least {SHORTEST_SYNC_INTERVAL:?}")]
    SyncInterval { saw: Duration },
    #[error("--ring-bytes is {saw}; it must be a power of two of at least {SMALLEST_RING}, such as 8388608")]
    RingBytes { saw: u32 },
}

impl Config {
    /// Validates the command line.
    ///
    /// # Errors
    /// The first value that cannot be used, with what to write instead.
    pub fn new(args: RunArgs) -> Result<Self, ConfigError> {
        let specs = targets(&args.targets)?;
        let (client_id, policy) = counting(&args.count)?;
        let env = Env::parse(&args.env)?;
        let base_url = BaseUrl::parse(&args.hub_url)?;
        if let Some(saw) = args.sync_interval
            && saw < SHORTEST_SYNC_INTERVAL
        {
            return Err(ConfigError::SyncInterval { saw });
        }
        if !args.ring_bytes.is_power_of_two() || args.ring_bytes < SMALLEST_RING {
            return Err(ConfigError::RingBytes { saw: args.ring_bytes });
        }
        let delivery = if args.dry_run {
            Delivery::Stdout
        } else {
            let client_id = client_id.ok_or(ConfigError::NoClientId)?;
            Delivery::Hub(HubTarget { base_url, client_id, env })
        };
        let target = |spec| TargetConfig {
            spec,
            policy: policy.clone(),
            app: AppConfig { version: app_version(&args.count) },
            delivery: delivery.clone(),
            sync_interval: args.sync_interval,
        };
        Ok(Self {
            targets: specs.into_iter().map(target).collect(),
            record: args.record,
            state_dir: args
                .state_dir
                .or_else(|| systemd_dir(STATE_DIRECTORY))
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            runtime_dir: runtime_dir(args.runtime),
            ring_bytes: args.ring_bytes,
        })
    }
}

/// Where the sockets of running agents are.
pub fn runtime_dir(args: RuntimeArgs) -> PathBuf {
    args.runtime_dir.or_else(|| systemd_dir(RUNTIME_DIRECTORY)).unwrap_or_else(|| DEFAULT_RUNTIME_DIR.into())
}

/// What a run and a replay have in common.
///
/// # Errors
/// The first value that cannot be used. A bad client id is an error even where none is needed: `--dry-run` is
/// there to find such things.
pub fn counting(args: &CountArgs) -> Result<(Option<ClientId>, Policy), ConfigError> {
    let client_id = args.client_id.as_deref().map(ClientId::parse).transpose()?;
    let policy = Policy {
        consumers: consumer_rules(&args.consumer_header, args.consumer_hash, client_id.as_ref())?.into(),
        response_time: match args.response_time {
            ResponseTimeArg::LastByte => ResponseTime::LastByte,
            ResponseTimeArg::FirstByte => ResponseTime::FirstByte,
        },
        ..Policy::default()
    };
    Ok((client_id, policy))
}

/// The app's version, unless it is blank.
pub fn app_version(args: &CountArgs) -> Option<String> {
    args.app_version.as_deref().map(str::trim).filter(|version| !version.is_empty()).map(str::to_owned)
}

/// What was asked for, each thing once.
///
/// # Errors
/// When nothing was asked for, or the same thing twice.
pub fn targets(args: &TargetArgs) -> Result<Vec<TargetSpec>, ConfigError> {
    let mut targets = Vec::new();
    for pid in &args.pid {
        if targets.contains(&TargetSpec::Pid(*pid)) {
            return Err(ConfigError::SamePid(*pid));
        }
        targets.push(TargetSpec::Pid(*pid));
    }
    for port in &args.port {
        if targets.contains(&TargetSpec::Port(*port)) {
            return Err(ConfigError::SamePort(*port));
        }
        targets.push(TargetSpec::Port(*port));
    }
    if targets.is_empty() { Err(ConfigError::NoTarget) } else { Ok(targets) }
}

/// The key of hashed identities comes from the client id, so that a consumer is the same one on every host.
/// A dry run without a client id uses the empty one.
fn consumer_rules(
    headers: &[String],
    hash: ConsumerHash,
    client_id: Option<&ClientId>,
) -> Result<ConsumerRules, ConfigError> {
    let key = key_from_client_id(&client_id.map(ToString::to_string).unwrap_or_default());
    let mut rules = Vec::new();
    for header in headers {
        let name = header.trim();
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(ConfigError::HeaderName { saw: header.clone() });
        }
        let hashed = match hash {
            ConsumerHash::Auto => is_sensitive_name(name),
            ConsumerHash::Always => true,
            ConsumerHash::Never => false,
        };
        rules.push(HeaderRule::new(name, if hashed { Identity::hashed(&key) } else { Identity::Plain }));
    }
    Ok(ConsumerRules { headers: rules })
}

/// RFC 9110 section 5.6.2, token.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn systemd_dir(variable: &str) -> Option<PathBuf> {
    let directories = std::env::var_os(variable)?;
    std::env::split_paths(&directories).next().filter(|first| !first.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    const ID: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";

    fn config(words: &str) -> Result<Config, String> {
        let words = words.replace("ID", ID);
        let cli = Cli::try_parse_from(std::iter::once("apitally-agent").chain(words.split_whitespace()))
            .map_err(|error| error.to_string())?;
        Config::new(cli.run).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let check = |words: &str, want: &str| {
            let error = config(words).unwrap_err();
            assert!(error.contains(want), "{words}: {error}");
        };
        check("", "nothing to watch");
        check("--pid 1", "no client id");
        check("--pid 1 --pid 1 --dry-run", "given twice");
        check("--pid one --dry-run", "invalid value 'one' for '--pid");
        check("--pid -4 --dry-run", "unexpected argument");
        check("--port 0 --dry-run", "0 is not in 1..=65535");
        check("--port 70000 --dry-run", "70000 is not in 1..=65535");
        check("--pid 1 --client-id 42", "client id");
        check("--pid 1 --client-id ID --env no/slash", "env");
        check("--pid 1 --client-id ID --hub-url gopher://x", "scheme");
        check("--pid 1 --dry-run --consumer-header a:b", "not a header name");
        check("--pid 1 --dry-run --sync-interval 1ms", "at least 100ms");
        check("--pid 1 --dry-run --sync-interval soon", "invalid value 'soon'");
        check("--pid 1 --dry-run --ring-bytes 5000", "power of two");
        check("--pid 1 --dry-run --frobnicate", "unexpected argument");
    }

    #[test]
    fn targets_are_kept_in_order() {
        let config = config("--pid 7,8 --port 80 --pid 9 --dry-run").unwrap();
        let want = [TargetSpec::Pid(7), TargetSpec::Pid(8), TargetSpec::Pid(9), TargetSpec::Port(80)];
        let specs: Vec<TargetSpec> = config.targets.into_iter().map(|target| target.spec).collect();
        assert_eq!(specs, want);
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
