//! What was given -> what it means. After this every value is valid for good.
//!
//! Each value is taken from a flag, else the flag's environment variable, else the configuration file, else the
//! default: [`keys`] says which one counts, [`target`] what it means.

mod annotations;
mod consumers;
mod file;
mod keys;
mod kubernetes;
mod request_log;
mod routes;
mod table;
mod target;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_common::{conn::LocalPorts, limits};

pub use self::{
    annotations::AnnotationError,
    kubernetes::KubernetesConfig,
    routes::{OpenApiError, RouteConfig, RouteError},
    table::{FileError, Origin, Place},
    target::{Counted, Destination},
};
use self::{
    file::ConfigFile,
    keys::{AgentKeys, Origins, TargetKeys},
    kubernetes::KubernetesKeys,
    table::Given,
};
use crate::{
    cli::{CheckArgs, LogFormat, LogLevel, ReplayArgs, RunArgs, RuntimeArgs, TargetArgs},
    consumer_files::{self, NamesFile},
    hub::{BaseUrl, BaseUrlError, ClientId, ClientIdError, Env, EnvError},
    kubernetes::{containers::UnknownContainer, pod::PodName, selector::SelectorError},
    otlp::{self, Endpoint, EndpointError, HeaderError, WriteTokenError},
    pipeline::{
        Policy,
        consumer::RuleError,
        route::declared::{self, TooManyRoutes},
    },
    probe::{cgroup::UnitName, container::ContainerName, program::ExeGlob},
    request_log::{patterns::PatternError, policy::LogPolicy},
    thermostat::Bounds,
};

/// Where systemd says that a service keeps its state; several directories are separated by colons.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// Likewise, where it has its sockets.
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";
const DEFAULT_STATE_DIR: &str = "/var/lib/apitally-agent";
const DEFAULT_RUNTIME_DIR: &str = "/run/apitally-agent";
const SHORTEST_SYNC_INTERVAL: Duration = Duration::from_millis(100);
const SMALLEST_RING: u32 = 4096;
const MEGABYTE: u64 = 1_000_000;
/// Megabytes that the agent must have beside its ring buffer, whose pages count twice in what is resident. When it has
/// nothing to do it takes 15 of them, most of which are the program itself.
const ROOM: u64 = 40;
/// Numbers of targets are below the kernel side's bound, and begin with 1.
const MOST_TARGETS: usize = limits::TARGETS as usize - 1;

/// Everything the daemon needs to know.
#[derive(Debug)]
pub struct Config {
    pub targets: Vec<TargetConfig>,
    /// None when pods are not watched.
    pub kubernetes: Option<KubernetesConfig>,
    pub agent: AgentConfig,
    /// Who said what of the agent as a whole.
    pub origins: Origins,
}

/// What concerns the agent as a whole, and stays as it is for as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    pub record: Option<PathBuf>,
    /// Where identities of targets are kept.
    pub state_dir: PathBuf,
    /// Where the status socket is.
    pub runtime_dir: PathBuf,
    /// Where metrics are served; None when they are not.
    pub metrics_listen: Option<SocketAddr>,
    /// Bytes, a power of two.
    pub ring_bytes: u32,
    /// What the agent may cost.
    pub bounds: Bounds,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
}

impl AgentConfig {
    /// Names of what differs.
    pub fn changes(&self, other: &Self) -> Vec<&'static str> {
        let Self {
            record,
            state_dir,
            runtime_dir,
            metrics_listen,
            ring_bytes,
            bounds,
            log_level,
            log_format,
        } = self;
        let all = [
            ("record", *record != other.record),
            ("state_dir", *state_dir != other.state_dir),
            ("runtime_dir", *runtime_dir != other.runtime_dir),
            ("metrics_listen", *metrics_listen != other.metrics_listen),
            ("ring_bytes", *ring_bytes != other.ring_bytes),
            ("max_cpu", bounds.cpu_percent != other.bounds.cpu_percent),
            ("max_memory", bounds.memory != other.bounds.memory),
            ("log_level", *log_level != other.log_level),
            ("log_format", *log_format != other.log_format),
        ];
        all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// One thing to watch, how it is counted, and to whom it is reported.
#[derive(Debug)]
pub struct TargetConfig {
    pub spec: TargetSpec,
    /// None when it is no container of a pod.
    pub pod: Option<OfPod>,
    /// Its ports are those of `spec`.
    pub policy: Policy,
    pub app: AppConfig,
    /// Where its consumers' names are kept, if in a file.
    pub names: Option<NamesFile>,
    pub routes: RouteConfig,
    pub delivery: Delivery,
    /// None when no requests are logged.
    pub request_log: Option<Arc<LogPolicy>>,
    /// None: as the protocol has it.
    pub sync_interval: Option<Duration>,
    pub warnings: Vec<Warning>,
    /// Who said what of it.
    pub origins: Origins,
}

/// Which container of which pod a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfPod {
    pub pod: PodName,
    /// What made the pod, and makes its successor.
    pub workload: String,
    pub container: String,
}

impl OfPod {
    /// The same for the pod's successor, which then goes on in its name.
    pub fn stable_name(&self) -> String {
        format!("{}/{}/{}", self.pod.namespace, self.workload, self.container)
    }
}

impl fmt::Display for OfPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {} container {}", self.pod, self.container)
    }
}

/// What can be used, and had better be changed.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    #[error("any user of this host can read {}; with the key in it, hashed consumers can be found out", path.display())]
    OpenKey { path: PathBuf },
    #[error(
        "any user of this host can read {}; with the write token in it, anybody can report as this app: chmod 600, \
         or keep it in a file of its own", path.display()
    )]
    OpenToken { path: PathBuf },
    /// Whoever has the client id has the key that is made from it.
    #[error(
        "any user of this host can read {}; with the client id in it, hashed consumers can be found out: chmod 600, or \
         name a key with `consumer_key_file`", path.display()
    )]
    OpenClientId { path: PathBuf },
}

/// What the user says about an app, beyond what can be seen of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppConfig {
    pub version: Option<String>,
    /// The hub's name for the framework, such as `python:django`.
    pub client: Option<String>,
}

/// One thing to watch, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    Pid(u32),
    Port(u16),
    Exe(ExeGlob),
    Unit(UnitName),
    Container(ContainerName),
}

impl TargetSpec {
    /// Whether it can be there again, as another process.
    pub fn may_return(&self) -> bool {
        !matches!(self, Self::Pid(_))
    }

    /// Whether it is known by what its processes are, one by one.
    pub fn is_of_processes(&self) -> bool {
        matches!(self, Self::Exe(_) | Self::Unit(_) | Self::Container(_))
    }

    /// The local ports that count; empty when all do.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Self::Port(port) => vec![*port],
            Self::Pid(_) | Self::Exe(_) | Self::Unit(_) | Self::Container(_) => Vec::new(),
        }
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "--pid {pid}"),
            Self::Port(port) => write!(f, "--port {port}"),
            Self::Exe(glob) => write!(f, "--exe {glob}"),
            Self::Unit(unit) => write!(f, "--unit {unit}"),
            Self::Container(container) => write!(f, "--container {container}"),
        }
    }
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Hub(HubTarget),
    Otlp(OtlpTarget),
    /// What the hub would get, as JSON lines on stdout.
    Stdout,
    /// Likewise, what would go out by OTLP.
    OtlpStdout(OtlpTarget),
    /// Nobody is named to send them to, and metrics are served.
    Nowhere,
}

/// One environment of one app at Apitally, or a collector. Targets that report to the same one share its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpTarget {
    pub endpoint: Endpoint,
    pub destination: otlp::Destination,
    pub env: Env,
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
    #[error(
        "nothing to watch: name a process with --pid PID, a listening port with --port PORT, a program with --exe GLOB, \
         a systemd unit with --unit UNIT, a container with --container ID, a file with [[target]] tables with \
         --config FILE, or with --kubernetes the annotated pods of this node"
    )]
    NoTarget,
    /// From the command line, or the environment.
    #[error("{0}")]
    Value(ValueError),
    /// Likewise, of an error that does not say where by itself.
    #[error("{name}: {error}")]
    Named { name: String, error: ValueError },
    #[error("{place}: {error}")]
    InFile { place: Place, error: ValueError },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("--config: cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
}

/// Why a value cannot be used. `name` is what it is called where it was given.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("{0} is given twice")]
    SameTarget(TargetSpec),
    #[error("there are more than {MOST_TARGETS} targets; run several agents")]
    TooManyTargets,
    #[error(
        "no client id: give --client-id UUID, set APITALLY_CLIENT_ID, or write `client_id` into the configuration \
         file (the dashboard shows it), or try --dry-run; with a newer app that has a write token instead, give \
         --write-token, for another OTLP collector --otlp-endpoint, and for Prometheus alone --metrics-listen 9464"
    )]
    NoClientId,
    #[error(
        "{name} is one value for targets that the configuration file keeps apart; take it away, or take `{key}` \
         out of their tables"
    )]
    OneForAll { name: String, key: &'static str },
    #[error(transparent)]
    ClientId(#[from] ClientIdError),
    #[error("{} holds no client id: it must be a UUID alone, as the dashboard shows it", path.display())]
    ClientIdFile { path: PathBuf },
    #[error(
        "{name} and {client_id} are two ways to report; a client id reports to the hub, a write token or an OTLP \
         endpoint by OTLP: leave one of them out"
    )]
    TwoWays { name: String, client_id: String },
    #[error(transparent)]
    WriteToken(#[from] WriteTokenError),
    #[error("{} holds no write token: it must be alone in there, as the dashboard shows it", path.display())]
    WriteTokenFile { path: PathBuf },
    #[error(transparent)]
    OtlpEndpoint(#[from] EndpointError),
    #[error("{name}: {error}")]
    OtlpHeader { name: String, error: HeaderError },
    #[error(
        "{name} goes to a collector with its own way to know us; with a write token there is none to send"
    )]
    HeaderBesideToken { name: String },
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    HubUrl(#[from] BaseUrlError),
    #[error("{name}: {error}")]
    Consumer { name: String, error: RuleError },
    #[error(
        "{name}: what this rule finds would be sent as a keyed hash, and a collector without a write token gives \
         nothing to make the key from; name a file with one as `consumer_key_file` in the configuration file, or have \
         values sent as they are, with hash = \"never\" in the rule or --consumer-hash never"
    )]
    NoConsumerKey { name: String },
    #[error(
        "`address` is {saw:?}; it must be \"peer\", or \"X-Forwarded-For\", \"Forwarded\" or \"X-Real-IP\" with the \
         number of `proxies` that are trusted"
    )]
    Address { saw: String },
    #[error("{name}: {error}")]
    OpenApi { name: String, error: Box<OpenApiError> },
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(transparent)]
    ConsumerFile(Box<consumer_files::FileError>),
    #[error(transparent)]
    Route(declared::EndpointError),
    #[error(transparent)]
    TooManyRoutes(TooManyRoutes),
    #[error("{name} is {saw:?}; it must be at least {SHORTEST_SYNC_INTERVAL:?}")]
    SyncInterval { name: String, saw: Duration },
    #[error("{name} is {saw}; it must be a power of two of at least {SMALLEST_RING}, such as 8388608")]
    RingBytes { name: String, saw: u32 },
    #[error("{name} is 0; it must be percent of one core, at least 1, such as 50")]
    MaxCpu { name: String },
    #[error(
        "{name} is {saw}; it must be at least {least} megabytes, {ROOM} beside the ring buffer of {ring_bytes} bytes, \
         which counts twice"
    )]
    MaxMemory { name: String, saw: u32, least: u64, ring_bytes: u32 },
    #[error(
        "{name} is {saw:?}; it must be a port, to be had from this host alone, or an address and a port: 9464, \
         0.0.0.0:9464, [::1]:9464"
    )]
    MetricsListen { name: String, saw: String },
    #[error(
        "{spec} is where the agent itself serves its metrics; choose another port for them with --metrics-listen"
    )]
    OwnPort { spec: TargetSpec },
    #[error(transparent)]
    Pattern(Box<PatternError>),
    #[error(
        "nothing says on which node the agent runs: set NODE_NAME in its container from the field spec.nodeName, or \
         write `node` into [kubernetes]"
    )]
    NoNode,
    #[error("{name} is {saw:?}, which is no name of a node")]
    NodeName { name: String, saw: String },
    #[error("{name} has {saw} ports; name {most} at most, or none to have all count", most = LocalPorts::MOST)]
    TooManyPorts { name: String, saw: usize },
    #[error("{name} is {saw:?}, which is no name of a label, such as app.kubernetes.io/version")]
    Label { name: String, saw: String },
    #[error(transparent)]
    Selector(SelectorError),
    #[error(transparent)]
    Annotation(AnnotationError),
    #[error(transparent)]
    UnknownContainer(UnknownContainer),
    #[error(
        "nothing says which app this is: annotate the pod with apitally.io/client-id, or write `client_id` into \
         [[kubernetes.pods]]"
    )]
    NoApp,
    #[error("{name} is {saw:?}; it must be 1 to 64 letters, digits and any of -_.:, such as python:django")]
    Client { name: String, saw: String },
}

impl ConfigError {
    /// An error about a value, which says where that stands.
    fn about<T>(given: &Given<T>, error: impl Into<ValueError>) -> Self {
        let error = error.into();
        match &given.by {
            Origin::CommandLine | Origin::Environment(_) | Origin::Annotation | Origin::Label(_) => {
                Self::Value(error)
            }
            Origin::File(place) => Self::InFile { place: place.clone(), error },
        }
    }

    /// Likewise, with the name of the flag or variable, which `error` does not have.
    fn naming<T>(given: &Given<T>, key: &str, error: impl Into<ValueError>) -> Self {
        match Self::about(given, error) {
            Self::Value(error) => Self::Named { name: given.name(key), error },
            located => located,
        }
    }
}

impl ValueError {
    /// Whether it names what could not be read at all, as opposed to what is in it.
    pub fn is_unreadable(&self) -> bool {
        match self {
            Self::Unreadable { .. } => true,
            Self::ConsumerFile(error) => error.is_unreadable(),
            Self::OpenApi { error, .. } => error.is_unreadable(),
            _ => false,
        }
    }
}

impl Config {
    /// Reads the command line and the file it names, if it does.
    ///
    /// # Errors
    /// The first value that cannot be used, with what to write instead.
    pub fn load(args: &RunArgs) -> Result<Self, ConfigError> {
        let file = args.config.as_deref().map(ConfigFile::read).transpose()?;
        let agent_keys =
            AgentKeys::of_flags(args).or(file.as_ref().map(|file| file.agent.clone()).unwrap_or_default());
        let metrics = agent_keys.metrics_listen.as_ref().map(metrics_listen).transpose()?;
        let base_url = target::hub_url(&agent_keys)?;
        let destination = match (args.dry_run, metrics) {
            (true, _) => Destination::Stdout,
            (false, None) => Destination::Hub(base_url),
            (false, Some(_)) => Destination::HubIfNamed(base_url),
        };
        let flags = TargetKeys::of_run(args);
        if let Some(file) = &file {
            keep_apart(&flags, file)?;
        }
        let keys = file.as_ref().and_then(|file| file.kubernetes.clone());
        let keys = keys.or_else(|| args.kubernetes.then(KubernetesKeys::default));
        let defaults = file.as_ref().map(|file| file.defaults.clone()).unwrap_or_default();
        let kubernetes =
            keys.map(|keys| keys.understand(flags.clone(), defaults, destination.clone())).transpose()?;
        let wanted = all_targets(&args.targets, flags, file.as_ref())?;
        if wanted.is_empty() && kubernetes.is_none() {
            return Err(ConfigError::NoTarget);
        }
        let origins = agent_keys.origins();
        let targets = wanted.into_iter().map(|(spec, keys)| {
            if metrics.is_some_and(|metrics| spec.value == TargetSpec::Port(metrics.port())) {
                let error = ValueError::OwnPort { spec: spec.value.clone() };
                return Err(ConfigError::about(&spec, error));
            }
            target::understand(spec, &keys, &destination)
        });
        Ok(Self {
            targets: targets.collect::<Result<_, _>>()?,
            kubernetes,
            agent: agent(agent_keys)?,
            origins,
        })
    }

    /// What `check` is asked about: the same as a run would be. Without a file nobody need say to whom it reports.
    ///
    /// # Errors
    /// As [`Config::load`], though there need not be any target.
    pub fn load_to_check(args: &CheckArgs) -> Result<Self, ConfigError> {
        let run = RunArgs {
            targets: args.targets.clone(),
            config: args.config.clone(),
            dry_run: args.config.is_none(),
            ..RunArgs::of_environment()
        };
        match Self::load(&run) {
            Err(ConfigError::NoTarget) if args.config.is_none() => {
                let keys = AgentKeys::of_flags(&run);
                Ok(Self {
                    targets: Vec::new(),
                    kubernetes: None,
                    origins: keys.origins(),
                    agent: agent(keys)?,
                })
            }
            loaded => loaded,
        }
    }
}

/// How the targets of a recording are counted.
#[derive(Debug)]
pub struct ReplayConfig {
    pub targets: Vec<TargetConfig>,
    /// For those that are none of `targets`.
    pub others: Counted,
}

impl ReplayConfig {
    /// # Errors
    /// The first value that cannot be used, with what to write instead.
    pub fn load(args: &ReplayArgs) -> Result<Self, ConfigError> {
        let file = args.config.as_deref().map(ConfigFile::read).transpose()?;
        let flags = TargetKeys::of_flags(&args.count);
        let defaults = file.as_ref().map(|file| file.defaults.clone()).unwrap_or_default();
        let others = target::count(&flags.clone().or(&defaults))?;
        let of_file = file.iter().flat_map(|file| &file.targets);
        let targets = of_file.map(|target| {
            let keys = flags.clone().or(&target.keys).or(&defaults);
            target::understand(target.spec.clone(), &keys, &Destination::Stdout)
        });
        Ok(Self { targets: targets.collect::<Result<_, _>>()?, others })
    }

    /// For a target that was recorded as this process with these ports: what the file says of its port, else of its
    /// process. A file with one target alone means that one, whatever its number is today.
    pub fn of(&self, pid: u32, ports: &[u16]) -> (&Policy, &AppConfig) {
        let is = |target: &&TargetConfig| match target.spec {
            TargetSpec::Port(port) => ports.contains(&port),
            TargetSpec::Pid(of) => of == pid,
            TargetSpec::Exe(_) | TargetSpec::Unit(_) | TargetSpec::Container(_) => false,
        };
        let found = match &self.targets[..] {
            [only] => Some(only),
            several => several.iter().find(is),
        };
        found.map_or((&self.others.policy, &self.others.app), |target| (&target.policy, &target.app))
    }
}

/// Where the sockets of running agents are.
pub fn runtime_dir(args: RuntimeArgs) -> PathBuf {
    directory(args.runtime_dir, RUNTIME_DIRECTORY, DEFAULT_RUNTIME_DIR)
}

/// What is said of the agent as a whole.
fn agent(keys: AgentKeys) -> Result<AgentConfig, ConfigError> {
    let value = |path: Option<Given<PathBuf>>| path.map(|path| path.value);
    let ring_bytes = match keys.ring_bytes {
        None => limits::RING_BYTES,
        Some(bytes) if bytes.value.is_power_of_two() && bytes.value >= SMALLEST_RING => bytes.value,
        Some(bytes) => {
            let error = ValueError::RingBytes { name: bytes.name("ring_bytes"), saw: bytes.value };
            return Err(ConfigError::about(&bytes, error));
        }
    };
    Ok(AgentConfig {
        metrics_listen: keys.metrics_listen.as_ref().map(metrics_listen).transpose()?,
        record: value(keys.record),
        state_dir: directory(value(keys.state_dir), STATE_DIRECTORY, DEFAULT_STATE_DIR),
        runtime_dir: directory(value(keys.runtime_dir), RUNTIME_DIRECTORY, DEFAULT_RUNTIME_DIR),
        ring_bytes,
        bounds: bounds(keys.max_cpu, keys.max_memory, ring_bytes)?,
        log_level: keys.log_level.map_or(LogLevel::Info, |level| level.value),
        log_format: keys.log_format.map_or(LogFormat::Text, |format| format.value),
    })
}

/// What the agent may cost. With a very large ring buffer the default for memory is larger than usual.
fn bounds(
    cpu: Option<Given<u32>>,
    memory: Option<Given<u32>>,
    ring_bytes: u32,
) -> Result<Bounds, ConfigError> {
    let least = (2 * u64::from(ring_bytes)).div_ceil(MEGABYTE) + ROOM;
    let mut bounds = Bounds::DEFAULT;
    bounds.memory = bounds.memory.max(least * MEGABYTE);
    if let Some(percent) = cpu {
        if percent.value == 0 {
            return Err(ConfigError::about(&percent, ValueError::MaxCpu { name: percent.name("max_cpu") }));
        }
        bounds.cpu_percent = percent.value;
    }
    if let Some(megabytes) = memory {
        let saw = megabytes.value;
        if u64::from(saw) < least {
            let error = ValueError::MaxMemory { name: megabytes.name("max_memory"), saw, least, ring_bytes };
            return Err(ConfigError::about(&megabytes, error));
        }
        bounds.memory = u64::from(saw) * MEGABYTE;
    }
    Ok(bounds)
}

/// A port alone is one of this host's, for this host.
fn metrics_listen(given: &Given<String>) -> Result<SocketAddr, ConfigError> {
    let text = given.value.trim();
    let port = text.strip_prefix(':').unwrap_or(text).parse().ok();
    let address = port.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    address.or_else(|| text.parse().ok()).ok_or_else(|| {
        let (name, saw) = (given.name("metrics_listen"), given.value.clone());
        ConfigError::about(given, ValueError::MetricsListen { name, saw })
    })
}

/// What was asked for, each thing once, in order: the command line's, then the file's.
fn all_targets(
    args: &TargetArgs,
    flags: TargetKeys,
    file: Option<&ConfigFile>,
) -> Result<Vec<(Given<TargetSpec>, TargetKeys)>, ConfigError> {
    let by_flag = |value| Given { value, by: Origin::CommandLine };
    let pids = args.pid.iter().map(|pid| TargetSpec::Pid(*pid));
    let ports = args.port.iter().map(|port| TargetSpec::Port(*port));
    let exes = args.exe.iter().map(|glob| TargetSpec::Exe(glob.clone()));
    let units = args.unit.iter().map(|unit| TargetSpec::Unit(unit.clone()));
    let containers = args.container.iter().map(|container| TargetSpec::Container(container.clone()));
    let of_flags = pids.chain(ports).chain(exes).chain(units).chain(containers).map(by_flag);
    let defaults = file.map(|file| file.defaults.clone()).unwrap_or_default();
    let mut targets: Vec<_> = of_flags.map(|spec| (spec, flags.clone().or(&defaults))).collect();
    targets.extend(
        file.iter()
            .flat_map(|file| &file.targets)
            .map(|target| (target.spec.clone(), flags.clone().or(&target.keys).or(&defaults))),
    );
    for (index, (spec, _)) in targets.iter().enumerate() {
        if targets.iter().take(index).any(|(earlier, _)| earlier.value == spec.value) {
            return Err(ConfigError::about(spec, ValueError::SameTarget(spec.value.clone())));
        }
        if index == MOST_TARGETS {
            return Err(ConfigError::about(spec, ValueError::TooManyTargets));
        }
    }
    Ok(targets)
}

/// A flag beats what the file says; but one that would report several apps as one is a mistake.
fn keep_apart(flags: &TargetKeys, file: &ConfigFile) -> Result<(), ConfigError> {
    fn differ<'f, T: PartialEq + 'f>(mut values: impl Iterator<Item = Option<&'f Given<T>>>) -> bool {
        let first = values.next().flatten();
        values.any(|other| other.map(|given| &given.value) != first.map(|given| &given.value))
    }
    let all = || file.targets.iter().map(|target| target.keys.clone().or(&file.defaults));
    let keys: Vec<TargetKeys> = all().collect();
    if let Some(flag) = &flags.client_id
        && differ(keys.iter().map(|keys| keys.client_id.as_ref()))
    {
        let name = flag.name("client_id");
        return Err(ConfigError::about(flag, ValueError::OneForAll { name, key: "client_id" }));
    }
    if let Some(flag) = &flags.write_token
        && differ(keys.iter().map(|keys| keys.write_token.as_ref()))
    {
        let name = flag.name("write_token");
        return Err(ConfigError::about(flag, ValueError::OneForAll { name, key: "write_token" }));
    }
    if let Some(flag) = &flags.env
        && differ(keys.iter().map(|keys| keys.env.as_ref()))
    {
        let name = flag.name("env");
        return Err(ConfigError::about(flag, ValueError::OneForAll { name, key: "env" }));
    }
    Ok(())
}

/// A directory as it was given, else systemd's first one, else the usual one.
fn directory(given: Option<PathBuf>, variable: &str, usual: &str) -> PathBuf {
    let of_systemd = || {
        let directories = std::env::var_os(variable)?;
        std::env::split_paths(&directories).next().filter(|first| !first.as_os_str().is_empty())
    };
    given.or_else(of_systemd).unwrap_or_else(|| Path::new(usual).to_owned())
}

#[cfg(test)]
mod tests;
