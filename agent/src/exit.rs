//! How the agent ends: every way out has a number of its own, after sysexits.h.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    config::{ConfigError, ValueError},
    probe::{discover::DiscoverError, host::Obstacle, load::LoadError},
    recording::ReadError,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// A bad flag, environment value or combination.
    Usage = 64,
    /// A file that we were given cannot be read.
    NoInput = 66,
    /// Cannot run here, or no such target.
    Unavailable = 69,
    /// An error we did not foresee.
    Software = 70,
    /// Not permitted.
    NoPermission = 77,
    /// A configuration file's content is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the agent could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}", join(.0))]
    Host(Vec<Obstacle>),
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("there are as many targets as can be watched; run several agents, or choose fewer")]
    TooManyTargets,
    #[error(transparent)]
    Kubernetes(#[from] crate::kubernetes::watch::StartError),
    #[error(transparent)]
    Pods(#[from] crate::kubernetes::watch::ListError),
    #[error(transparent)]
    Delivery(#[from] crate::delivery::StartError),
    #[error(transparent)]
    Metrics(#[from] crate::metrics::serve::ListenError),
    #[error(transparent)]
    Status(#[from] crate::status::client::StatusError),
    #[error("{}: {error}", path.display())]
    Recording { path: PathBuf, error: ReadError },
    #[error("cannot {doing}: {error}")]
    Io { doing: &'static str, error: std::io::Error },
}

impl Failure {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(error) => of_config(error),
            Self::Recording { .. } => Exit::NoInput,
            Self::Metrics(error) => error.exit(),
            Self::Status(error) => error.exit(),
            // Permissions alone: the host could, we may not.
            Self::Host(obstacles) if obstacles.iter().all(Obstacle::is_permission) => Exit::NoPermission,
            Self::Host(_)
            | Self::Discover(_)
            | Self::Load(_)
            | Self::Kubernetes(_)
            | Self::Pods(_)
            | Self::TooManyTargets => Exit::Unavailable,
            Self::Delivery(_) | Self::Io { .. } => Exit::Software,
        }
    }
}

fn of_config(error: &ConfigError) -> Exit {
    match error {
        ConfigError::Unreadable { .. } => Exit::NoInput,
        ConfigError::InFile { error, .. } if error.is_unreadable() => Exit::NoInput,
        ConfigError::File(_) | ConfigError::InFile { .. } => Exit::Config,
        // A document that a flag names is input, whatever is wrong with it.
        ConfigError::Value(ValueError::OpenApi { error, .. }) if !error.is_misspelt() => Exit::NoInput,
        ConfigError::NoTarget | ConfigError::Value(_) | ConfigError::Named { .. } => Exit::Usage,
    }
}

fn join(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
