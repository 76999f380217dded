//! Parse, configure, run, exit code.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use agent::{
    check,
    cli::{Cli, Command, LogFormat, LogLevel, RunArgs},
    config::{self, Config, ReplayConfig},
    daemon,
    exit::{Exit, Failure},
    memory, privileges, replay,
    status::client::{self, Form},
    telemetry,
};
use clap::CommandFactory as _;
use tracing::error;

fn main() -> ExitCode {
    memory::return_large_blocks();
    let cli = match Cli::of(env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to stdout.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            let _ = error.print();
            return exit.into();
        }
    };
    match cli.command {
        None => {
            let config = Config::load(&cli.run);
            let (level, format) = match &config {
                Ok(config) => (config.agent.log_level, config.agent.log_format),
                Err(_) => (LogLevel::Info, cli.run.log_format.unwrap_or(LogFormat::Text)), // to say why
            };
            telemetry::start(level, format);
            end(config.map_err(Failure::from).and_then(|config| run(config, cli.run)))
        }
        Some(Command::Check(args)) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            let config = Config::load_to_check(&args);
            privileges::take_up();
            end(config.map_err(Failure::from).and_then(|config| check::run(&config, args.time)))
        }
        Some(Command::Replay(args)) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            let config = ReplayConfig::load(&args);
            end(config.map_err(Failure::from).and_then(|config| replay::run(&args.file, config)))
        }
        Some(Command::Status(args)) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            let form = if args.json { Form::Json } else { Form::Text };
            end(client::run(&config::runtime_dir(args.runtime), form))
        }
        Some(Command::Completions { shell }) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            let mut script = Vec::new(); // written to directly, a stdout that is full would be a panic
            clap_complete::generate(shell, &mut Cli::command(), "apitally-agent", &mut script);
            end(print(&script, "print the completion script"))
        }
        Some(Command::Man) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
            rendered.expect("memory can be written to");
            end(print(&page, "print the manual page"))
        }
    }
}

fn print(text: &[u8], doing: &'static str) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text).and_then(|()| out.flush());
    printed.map(|()| Exit::Ok).map_err(|error| Failure::Io { doing, error })
}

fn run(config: Config, args: RunArgs) -> Result<Exit, Failure> {
    privileges::take_up();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { doing: "start the runtime", error })?;
    let outcome = runtime.block_on(daemon::run(config, args));
    // Dropped, it would wait for a look-up of the hub's name that may take longer than we may take to exit.
    runtime.shutdown_background();
    outcome
}

fn end(outcome: Result<Exit, Failure>) -> ExitCode {
    outcome
        .unwrap_or_else(|failure| {
            error!("{failure}");
            failure.exit()
        })
        .into()
}
