//! How the agent ends: every way out has a number of its own, after sysexits.h.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    config::ConfigError,
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
    #[error(transparent)]
    Hub(#[from] crate::hub::StartError),
    #[error(transparent)]
    OpenApi(#[from] crate::openapi::SourceError),
    #[error(transparent)]
    Routes(#[from] crate::config::RouteError),
    #[error(transparent)]
    Otlp(#[from] crate::otlp::StartError),
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
            Self::Config(ConfigError::NoTarget | ConfigError::Value(_)) => Exit::Usage,
            Self::Config(ConfigError::File(_) | ConfigError::InFile { .. }) => Exit::Config,
            Self::Config(ConfigError::Unreadable { .. }) => Exit::NoInput,
            Self::Config(ConfigError::ConsumerFile(error)) if error.is_unreadable() => Exit::NoInput,
            Self::Config(ConfigError::ConsumerFile(_)) => Exit::Config,
            Self::Recording { .. } => Exit::NoInput,
            Self::OpenApi(error) => error.exit(),
            Self::Routes(_) => Exit::NoInput,
            Self::Status(error) => error.exit(),
            // Permissions alone: the host could, we may not.
            Self::Host(obstacles) if obstacles.iter().all(Obstacle::is_permission) => Exit::NoPermission,
            Self::Host(_) | Self::Discover(_) | Self::Load(_) => Exit::Unavailable,
            Self::Hub(_) | Self::Otlp(_) | Self::Io { .. } => Exit::Software,
        }
    }
}

fn join(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
