//! Keys that say which routes there are, and what they mean.

use std::path::PathBuf;

use clap::ValueEnum as _;
use toml::de::DeValue;

use super::{
    ConfigError, ValueError,
    keys::{Origins, origin},
    table::{FileError, Given, Origin, Table, Value},
};
use crate::{
    cli::CountArgs,
    openapi::{BasePath, Document, DocumentError, OpenApiSource, SourceError},
    pipeline::route::declared::{Declared, Endpoint, Matching, Otherwise, TooManyRoutes, TrailingSlash},
};

/// What was given about routes.
#[derive(Clone, Debug, Default)]
pub struct RouteKeys {
    openapi: Option<Given<String>>,
    base_path: Option<Given<String>>,
    routes: Option<Given<Vec<String>>>,
    trailing_slash: Option<Given<SlashWord>>,
    other_paths: Option<Given<OtherWord>>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SlashWord {
    Strict,
    Ignore,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OtherWord {
    Unmatched,
    Learn,
}

/// The routes of a target, as far as they are known beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteConfig {
    openapi: Option<Given<String>>,
    base_path: BasePath,
    endpoints: Vec<Endpoint>,
    matching: Matching,
}

/// Why the routes of a document cannot be used together with those of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    TooMany(#[from] TooManyRoutes),
}

/// Why an OpenAPI document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenApiError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Routes(#[from] RouteError),
}

impl OpenApiError {
    /// Whether what names the document means nothing: nobody has looked there.
    pub fn is_misspelt(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_misspelt())
    }

    /// Whether the document could not be had at all, as opposed to what is in it.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_unreadable())
    }
}

impl RouteConfig {
    /// File or URL of an OpenAPI document.
    pub fn openapi(&self) -> Option<&str> {
        self.openapi.as_ref().map(|given| given.value.as_str())
    }

    /// An error about the document, which says where that is named.
    pub fn about_openapi(&self, error: impl Into<OpenApiError>) -> ConfigError {
        let error = error.into();
        match &self.openapi {
            Some(given) => about_openapi(given, error),
            None => {
                ConfigError::Value(ValueError::OpenApi { name: "openapi".to_owned(), error: error.into() })
            }
        }
    }

    /// All routes, those of the configuration first.
    ///
    /// # Errors
    /// When there are too many, or the base path does not fit.
    pub fn declared(&self, document: Option<&Document>) -> Result<Declared, RouteError> {
        let mut endpoints = self.endpoints.clone();
        if let Some(document) = document {
            endpoints.extend(document.endpoints(&self.base_path)?);
        }
        Ok(Declared::new(endpoints, self.matching)?)
    }

    /// Where the document comes from; nothing is loaded yet.
    ///
    /// # Errors
    /// None that [`RouteKeys::understand`] has not told.
    pub fn source(&self) -> Result<Option<OpenApiSource>, ConfigError> {
        let parsed = self.openapi().map(OpenApiSource::parse).transpose();
        parsed.map_err(|error| self.about_openapi(error))
    }
}

impl RouteKeys {
    pub fn origins(&self) -> Origins {
        let all = [
            origin("openapi", self.openapi.as_ref()),
            origin("base_path", self.base_path.as_ref()),
            origin("routes", self.routes.as_ref()),
            origin("trailing_slash", self.trailing_slash.as_ref()),
            origin("other_paths", self.other_paths.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }

    pub fn of_flags(args: &CountArgs) -> Self {
        let by_flag = |value: &String| Given { value: value.clone(), by: Origin::CommandLine };
        Self { openapi: args.openapi.as_ref().map(by_flag), ..Self::default() }
    }

    pub fn of_patterns(routes: Option<Given<Vec<String>>>) -> Self {
        Self { routes, ..Self::default() }
    }

    pub fn take(table: &mut Table<'_>) -> Result<Self, FileError> {
        let beside = table.directory();
        let openapi: Option<Given<String>> = table.take("openapi")?;
        let from_here = |text: &str| beside.join(PathBuf::from(text)).to_string_lossy().into_owned();
        let openapi = openapi.map(|given| match given.value.as_str() {
            text if text.is_empty() || text.contains("://") => given,
            text => Given { value: from_here(text), by: given.by },
        });
        Ok(Self {
            openapi,
            base_path: table.take("base_path")?,
            routes: table.take("routes")?,
            trailing_slash: table.take("trailing_slash")?,
            other_paths: table.take("other_paths")?,
        })
    }

    /// Its own values, and those of `fallback` where it has none.
    pub fn or(self, fallback: Self) -> Self {
        Self {
            openapi: self.openapi.or(fallback.openapi),
            base_path: self.base_path.or(fallback.base_path),
            routes: self.routes.or(fallback.routes),
            trailing_slash: self.trailing_slash.or(fallback.trailing_slash),
            other_paths: self.other_paths.or(fallback.other_paths),
        }
    }

    /// # Errors
    /// The first value that cannot be used.
    pub fn understand(&self) -> Result<RouteConfig, ConfigError> {
        if let Some(openapi) = &self.openapi {
            let parsed = OpenApiSource::parse(&openapi.value);
            parsed.map_err(|error| about_openapi(openapi, error.into()))?;
        }
        let mut endpoints = Vec::new();
        if let Some(routes) = &self.routes {
            for route in &routes.value {
                let about = |error| ConfigError::about(routes, ValueError::Route(error));
                endpoints.push(Endpoint::parse(route).map_err(about)?);
            }
            let about = |error| ConfigError::about(routes, ValueError::TooManyRoutes(error));
            Declared::new(endpoints.clone(), Matching::default()).map_err(about)?;
        }
        let trailing_slash = match self.trailing_slash.as_ref().map(|given| given.value) {
            None | Some(SlashWord::Strict) => TrailingSlash::Strict,
            Some(SlashWord::Ignore) => TrailingSlash::Ignore,
        };
        let otherwise = match self.other_paths.as_ref().map(|given| given.value) {
            None | Some(OtherWord::Unmatched) => Otherwise::Unmatched,
            Some(OtherWord::Learn) => Otherwise::Learn,
        };
        Ok(RouteConfig {
            openapi: self.openapi.clone(),
            base_path: self
                .base_path
                .as_ref()
                .map_or(BasePath::OfDocument, |given| BasePath::Is(given.value.clone())),
            endpoints,
            matching: Matching { trailing_slash, otherwise },
        })
    }
}

fn about_openapi(given: &Given<String>, error: OpenApiError) -> ConfigError {
    ConfigError::about(given, ValueError::OpenApi { name: given.name("openapi"), error: error.into() })
}

impl Value for SlashWord {
    const WANTED: &'static str = "\"strict\" or \"ignore\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::from_str(value.as_str()?, false).ok()
    }
}

impl Value for OtherWord {
    const WANTED: &'static str = "\"unmatched\" or \"learn\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::from_str(value.as_str()?, false).ok()
    }
}
