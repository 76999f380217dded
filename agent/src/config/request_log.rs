//! Keys of the log of requests, and what they mean: `[request_log]` for all targets, `[target.request_log]` for one.

use std::sync::Arc;

use super::{
    ConfigError, ValueError,
    keys::{Origins, origin},
    table::{FileError, Given, Table},
};
use crate::request_log::{
    exclude::ExtraExclusions,
    mask::ExtraMasks,
    patterns::List,
    policy::{LogOptions, LogPolicy},
};

/// What a file says of it. Nothing is logged unless it says so.
#[derive(Clone, Debug, Default)]
pub struct LogKeys {
    enabled: Option<Given<bool>>,
    query_params: Option<Given<bool>>,
    request_headers: Option<Given<bool>>,
    request_body: Option<Given<bool>>,
    response_headers: Option<Given<bool>>,
    response_body: Option<Given<bool>>,
    content_types: Option<Given<Vec<String>>>,
    mask_query_params: Option<Given<Vec<String>>>,
    mask_headers: Option<Given<Vec<String>>>,
    mask_body_fields: Option<Given<Vec<String>>>,
    exclude_paths: Option<Given<Vec<String>>>,
    exclude_user_agents: Option<Given<Vec<String>>>,
}

impl LogKeys {
    pub fn origins(&self) -> Origins {
        let all = [
            origin("request_log.enabled", self.enabled.as_ref()),
            origin("request_log.query_params", self.query_params.as_ref()),
            origin("request_log.request_headers", self.request_headers.as_ref()),
            origin("request_log.request_body", self.request_body.as_ref()),
            origin("request_log.response_headers", self.response_headers.as_ref()),
            origin("request_log.response_body", self.response_body.as_ref()),
            origin("request_log.content_types", self.content_types.as_ref()),
            origin("request_log.mask_query_params", self.mask_query_params.as_ref()),
            origin("request_log.mask_headers", self.mask_headers.as_ref()),
            origin("request_log.mask_body_fields", self.mask_body_fields.as_ref()),
            origin("request_log.exclude_paths", self.exclude_paths.as_ref()),
            origin("request_log.exclude_user_agents", self.exclude_user_agents.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }

    pub fn take(outer: &mut Table<'_>) -> Result<Self, FileError> {
        let Some(mut table) = outer.take_table("request_log")? else { return Ok(Self::default()) };
        let keys = Self {
            enabled: table.take("enabled")?,
            query_params: table.take("query_params")?,
            request_headers: table.take("request_headers")?,
            request_body: table.take("request_body")?,
            response_headers: table.take("response_headers")?,
            response_body: table.take("response_body")?,
            content_types: table.take("content_types")?,
            mask_query_params: table.take("mask_query_params")?,
            mask_headers: table.take("mask_headers")?,
            mask_body_fields: table.take("mask_body_fields")?,
            exclude_paths: table.take("exclude_paths")?,
            exclude_user_agents: table.take("exclude_user_agents")?,
        };
        table.finish(&[])?;
        Ok(keys)
    }

    /// Its own values, and those of `fallback` where it has none.
    pub fn or(self, fallback: Self) -> Self {
        Self {
            enabled: self.enabled.or(fallback.enabled),
            query_params: self.query_params.or(fallback.query_params),
            request_headers: self.request_headers.or(fallback.request_headers),
            request_body: self.request_body.or(fallback.request_body),
            response_headers: self.response_headers.or(fallback.response_headers),
            response_body: self.response_body.or(fallback.response_body),
            content_types: self.content_types.or(fallback.content_types),
            mask_query_params: self.mask_query_params.or(fallback.mask_query_params),
            mask_headers: self.mask_headers.or(fallback.mask_headers),
            mask_body_fields: self.mask_body_fields.or(fallback.mask_body_fields),
            exclude_paths: self.exclude_paths.or(fallback.exclude_paths),
            exclude_user_agents: self.exclude_user_agents.or(fallback.exclude_user_agents),
        }
    }

    /// None when nothing is to be logged. What is wrong is wrong all the same.
    ///
    /// # Errors
    /// The first pattern that cannot be used.
    pub fn understand(&self) -> Result<Option<Arc<LogPolicy>>, ConfigError> {
        let usual = LogOptions::default();
        let flag = |given: &Option<Given<bool>>, usual| given.as_ref().map_or(usual, |given| given.value);
        let list = |given: &Option<Given<Vec<String>>>| {
            given.as_ref().map(|given| given.value.clone()).unwrap_or_default()
        };
        let options = LogOptions {
            query_params: flag(&self.query_params, usual.query_params),
            request_headers: flag(&self.request_headers, usual.request_headers),
            request_body: flag(&self.request_body, usual.request_body),
            response_headers: flag(&self.response_headers, usual.response_headers),
            response_body: flag(&self.response_body, usual.response_body),
            content_types: self
                .content_types
                .as_ref()
                .map_or(usual.content_types, |given| given.value.clone()),
            masks: ExtraMasks {
                query_params: list(&self.mask_query_params),
                headers: list(&self.mask_headers),
                body_fields: list(&self.mask_body_fields),
            },
            exclusions: ExtraExclusions {
                paths: list(&self.exclude_paths),
                user_agents: list(&self.exclude_user_agents),
            },
        };
        match LogPolicy::new(&options) {
            Ok(policy) => Ok(flag(&self.enabled, false).then(|| Arc::new(policy))),
            Err(error) => {
                let given = match error.list {
                    List::MaskQueryParams => &self.mask_query_params,
                    List::MaskHeaders => &self.mask_headers,
                    List::MaskBodyFields => &self.mask_body_fields,
                    List::ExcludePaths => &self.exclude_paths,
                    List::ExcludeUserAgents => &self.exclude_user_agents,
                };
                let given = given.as_ref().expect("what is wrong was given");
                Err(ConfigError::about(given, ValueError::Pattern(Box::new(error))))
            }
        }
    }
}
