//! The command line: clap types, no logic. Names and defaults are the ones that README.md promises.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    parser::ValueSource,
};

use crate::probe::{cgroup::UnitName, container::ContainerName, program::ExeGlob};

/// Watches HTTP servers on this host through eBPF and reports their metrics to Apitally.
///
/// The servers are not touched: nothing is installed into them, and nothing of their traffic is changed.
/// Needs root (or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE) and Linux 5.8 or newer with type information (BTF).
#[derive(Debug, Parser)]
#[command(name = "apitally-agent", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

impl Cli {
    /// Reads these words, the first of which is the program's name, and the environment.
    ///
    /// # Errors
    /// What cannot be used; also for help and version, which are to be printed.
    pub fn of<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let variables = |command: &clap::Command, matches: &ArgMatches| Variables::of(command, matches);
        match (&mut cli.command, matches.subcommand()) {
            (Some(Command::Replay(args)), Some((name, matches))) => {
                let command = command.find_subcommand(name).expect("it was found in there");
                args.count.variables = variables(command, matches);
            }
            (Some(_), _) => {}
            (None, _) => cli.run.count.variables = variables(&command, &matches),
        }
        Ok(cli)
    }
}

/// The environment variables that gave a value, by the names of the fields here.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    fn of(command: &clap::Command, matches: &ArgMatches) -> Self {
        let of_environment = command.get_arguments().filter_map(|arg| {
            let variable = arg.get_env()?.to_str()?.to_owned();
            let is_source = matches.value_source(arg.get_id().as_str()) == Some(ValueSource::EnvVariable);
            is_source.then(|| (arg.get_id().to_string(), variable))
        });
        Self(of_environment.collect())
    }

    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tells whether the agent can run here, what it would watch, and what it would not see
    Check(CheckArgs),
    /// Runs a recorded tap through the same pipeline and prints what would be sent; needs no root
    Replay(ReplayArgs),
    /// Shows what the agents that run here see, report and lose; needs the rights of their user
    Status(StatusArgs),
    /// Prints a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Prints the manual page (roff)
    Man,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub targets: TargetArgs,

    /// Say what this configuration file means, too
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Watch the targets for this long, to say what their clients speak; 0s: do not
    #[arg(long = "for", value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub time: Duration,
}

/// Whom to watch.
#[derive(Clone, Debug, Default, Args)]
pub struct TargetArgs {
    /// Watch this process and its children; may be given several times
    #[arg(long, value_name = "PID", value_delimiter = ',', action = ArgAction::Append)]
    pub pid: Vec<u32>,

    /// Watch the process that listens on this TCP port, and its children; may be given several times
    #[arg(long, value_name = "PORT", value_delimiter = ',', action = ArgAction::Append, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,

    /// Watch the processes that run this program, by its path or name with * and ?, and their children; may be given
    /// several times
    #[arg(long, value_name = "GLOB", action = ArgAction::Append, value_parser = ExeGlob::parse)]
    pub exe: Vec<ExeGlob>,

    /// Watch the processes of this systemd unit; may be given several times
    #[arg(long, value_name = "SYSTEMD-UNIT", value_delimiter = ',', action = ArgAction::Append, value_parser = UnitName::parse)]
    pub unit: Vec<UnitName>,

    /// Watch the processes of this container, by its id or the name that Docker or Podman has for it; may be given
    /// several times
    #[arg(long, value_name = "ID|NAME", value_delimiter = ',', action = ArgAction::Append, value_parser = ContainerName::parse)]
    pub container: Vec<ContainerName>,
}

impl TargetArgs {
    pub fn is_empty(&self) -> bool {
        let Self { pid, port, exe, unit, container } = self;
        pid.is_empty() && port.is_empty() && exe.is_empty() && unit.is_empty() && container.is_empty()
    }
}

#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub targets: TargetArgs,

    #[command(flatten)]
    pub count: CountArgs,

    /// Read what is not said here from this TOML file, and again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Watch the pods of this node that are annotated with apitally.io/client-id, or that the file selects
    ///
    /// Which node this is says NODE_NAME.
    #[arg(long)]
    pub kubernetes: bool,

    /// Environment of the app [default: dev]
    #[arg(long, value_name = "ENV", env = "APITALLY_ENV")]
    pub env: Option<String>,

    /// Where to report to [default: https://hub.apitally.io]
    #[arg(long, value_name = "URL", env = "APITALLY_HUB_BASE_URL")]
    pub hub_url: Option<String>,

    /// Write token of the app, as the Apitally dashboard shows it: report by OTLP, without a client id
    #[arg(long, value_name = "TOKEN", env = "APITALLY_WRITE_TOKEN", hide_env_values = true)]
    pub write_token: Option<String>,

    /// Report by OTLP/HTTP to this address, Apitally's or any collector's
    ///
    /// [default: https://otlp.apitally.io with a write token]
    #[arg(long, value_name = "URL", env = "APITALLY_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// Send this header to the collector with each request; may be given several times
    #[arg(long, value_name = "NAME: VALUE", action = ArgAction::Append)]
    pub otlp_header: Vec<String>,

    /// Where the agent keeps its identity [default: $STATE_DIRECTORY, else /var/lib/apitally-agent]
    #[arg(long, value_name = "DIR", env = "APITALLY_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    #[command(flatten)]
    pub runtime: RuntimeArgs,

    /// Serve metrics for Prometheus at this address, such as 9464 for 127.0.0.1:9464; needs no client id
    #[arg(long, value_name = "ADDR", env = "APITALLY_METRICS_LISTEN")]
    pub metrics_listen: Option<String>,

    /// Time between two reports, such as 10s; at least 100ms [default: 10s in the first hour, then 60s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub sync_interval: Option<Duration>,

    /// Print each message that would be sent, as JSON lines on stdout; needs no client id
    #[arg(long)]
    pub dry_run: bool,

    /// Keep what the kernel side delivers in this file, for `replay`; it holds captured secrets
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// From which level on the log speaks [default: info]
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub log_level: Option<LogLevel>,

    /// Form of the log, which goes to stderr [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// Size of the ring buffer between kernel and agent, a power of two of at least a page [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    pub ring_bytes: Option<u32>,

    /// CPU time that the agent itself may take, percent of one core: it looks at less when it comes near [default: 50]
    #[arg(long, value_name = "PERCENT")]
    pub max_cpu: Option<u32>,

    /// Memory that the agent itself may take, megabytes: likewise [default: 256]
    #[arg(long, value_name = "MEGABYTES")]
    pub max_memory: Option<u32>,
}

impl RunArgs {
    /// What the environment says, without a command line.
    pub fn of_environment() -> Self {
        Cli::of(["apitally-agent"]).map(|cli| cli.run).unwrap_or_default()
    }
}

/// How exchanges become counts: what a run and a replay have in common.
#[derive(Clone, Debug, Default, Args)]
pub struct CountArgs {
    /// Client id of the app, as the Apitally dashboard shows it
    #[arg(long, value_name = "UUID", env = "APITALLY_CLIENT_ID", hide_env_values = true)]
    pub client_id: Option<String>,

    /// Version of the app, reported with the start-up message
    #[arg(long, value_name = "VERSION")]
    pub app_version: Option<String>,

    /// Take the routes from this OpenAPI document, a file or a URL
    #[arg(long, value_name = "FILE|URL")]
    pub openapi: Option<String>,

    /// Take the consumer from this request header; the first of several that a request has decides
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub consumer_header: Vec<String>,

    /// Send the consumer as a keyed hash: auto hashes headers whose names say that they carry a secret
    ///
    /// [default: auto]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub consumer_hash: Option<ConsumerHash>,

    /// What the response time ends with [default: last-byte]
    #[arg(long, value_name = "BYTE", value_enum)]
    pub response_time: Option<ResponseTimeArg>,

    /// Which values came from the environment.
    #[arg(skip)]
    pub variables: Variables,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RuntimeArgs {
    /// Where running agents are found by `status` [default: $RUNTIME_DIRECTORY, else /run/apitally-agent]
    #[arg(long, value_name = "DIR", env = "APITALLY_RUNTIME_DIR")]
    pub runtime_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub runtime: RuntimeArgs,

    /// Print one JSON document, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A file that --record has written
    pub file: PathBuf,

    /// Count as this configuration file says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    pub count: CountArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsumerHash {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResponseTimeArg {
    /// As the Node clients and the newest Python client measure
    LastByte,
    /// As the Python client up to 0.25 measures
    FirstByte,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}
