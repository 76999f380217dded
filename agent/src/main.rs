//! Parse, configure, run, exit code.

use std::{io, process::ExitCode};

use agent::{
    check,
    cli::{Cli, Command, LogFormat, LogLevel},
    config::{self, Config},
    daemon,
    exit::{Exit, Failure},
    memory,
    telemetry,
};
use clap::{CommandFactory as _, Parser as _};
use tracing::error;

fn main() -> ExitCode {
    memory::return_large_blocks();
    let cli = match Cli::try_parse() {
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
            telemetry::start(cli.run.log_level, cli.run.log_format);
            end(Config::new(cli.run).map_err(Failure::from).and_then(run))
        }
        Some(Command::Check(args)) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            end(config::targets(&args.targets)
                .or_else(|error| if args.targets.is_empty() { Ok(Vec::new()) } else { Err(error) })
                .map_err(Failure::from)
                .and_then(|targets| check::run(&targets)))
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "apitally-agent", &mut io::stdout());
            Exit::Ok.into()
        }
        Some(Command::Man) => match clap_mangen::Man::new(Cli::command()).render(&mut io::stdout()) {
            Ok(()) => Exit::Ok.into(),
            Err(error) => end(Err(Failure::Io { doing: "print the manual page", error })),
        },
    }
}

fn run(config: Config) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { doing: "start the runtime", error })?;
    runtime.block_on(daemon::run(config))
}

fn end(outcome: Result<Exit, Failure>) -> ExitCode {
    outcome
        .unwrap_or_else(|failure| {
            error!("{failure}");
            failure.exit()
        })
        .into()
}
