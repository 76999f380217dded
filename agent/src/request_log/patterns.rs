//! Patterns that names, paths and user agents are looked at with: the hub's own and the user's.

use std::fmt;

use regex::{RegexBuilder, RegexSet, RegexSetBuilder};

/// Regular expressions that are searched for in any case, anywhere in a text. Searching takes time in proportion to
/// the text, whatever the expressions.
#[derive(Clone, Debug)]
pub struct Patterns(RegexSet);

/// What a list of patterns is for; as it is called where the user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    MaskQueryParams,
    MaskHeaders,
    MaskBodyFields,
    ExcludePaths,
    ExcludeUserAgents,
}

/// A pattern of the user's that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{list}: pattern {number}, {pattern:?}, {reason}")]
pub struct PatternError {
    pub list: List,
    /// Its place in the list, from 1.
    pub number: usize,
    pub pattern: String,
    pub reason: String,
}

impl Patterns {
    /// The hub's defaults and, behind them, the user's.
    ///
    /// # Errors
    /// The first of the user's that is empty, is no regular expression, or is too large.
    pub fn new(list: List, defaults: &[&str], extra: &[String]) -> Result<Self, PatternError> {
        for (number, pattern) in (1..).zip(extra) {
            let refused = |reason| PatternError { list, number, pattern: pattern.clone(), reason };
            if pattern.is_empty() {
                return Err(refused("is empty and would match everything".to_owned()));
            }
            if let Err(error) = RegexBuilder::new(pattern).case_insensitive(true).build() {
                return Err(refused(reason(&error)));
            }
        }
        let all = defaults.iter().copied().chain(extra.iter().map(String::as_str));
        let set = RegexSetBuilder::new(all).case_insensitive(true).build();
        set.map(Self).map_err(|error| PatternError {
            list,
            number: extra.len(),
            pattern: extra.last().cloned().unwrap_or_default(),
            reason: format!("is too much together with those before it: {}", reason(&error)),
        })
    }

    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// In one line: the library draws where in the pattern it gave up, and says why in the last line.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let why = text.lines().last().unwrap_or_default();
    let why = why.strip_prefix("error: ").unwrap_or(why);
    format!("is no regular expression that can be used: {why} (in the notation of Rust's regex crate)")
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaskQueryParams => "mask_query_params",
            Self::MaskHeaders => "mask_headers",
            Self::MaskBodyFields => "mask_body_fields",
            Self::ExcludePaths => "exclude_paths",
            Self::ExcludeUserAgents => "exclude_user_agents",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(extra: &[&str]) -> Result<Patterns, String> {
        let extra: Vec<String> = extra.iter().map(|pattern| (*pattern).to_owned()).collect();
        Patterns::new(List::MaskHeaders, &["api-?key"], &extra).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_extra_ones_are_searched_for_in_any_case() {
        let patterns = patterns(&["^x-internal", "pin$"]).unwrap();
        for name in ["APIKEY", "my-Api-Key-2", "X-Internal-Id", "user-pin"] {
            assert!(patterns.matches(name), "{name}");
        }
        for name in ["", "api--key", "not-x-internal", "pineapple"] {
            assert!(!patterns.matches(name), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_place() {
        let check = |extra: &[&str], want: &str| {
            let error = patterns(extra).unwrap_err();
            assert!(error.contains(want) && !error.contains('\n'), "{error}");
        };
        check(&["good", "a(b"], r#"mask_headers: pattern 2, "a(b", is no regular expression"#);
        check(&["a(b"], "unclosed group");
        check(&["(?=x)"], "look-around");
        check(&["good", ""], "pattern 2, \"\", is empty and would match everything");
        check(&["(a{1000}){1000}"], "size limit");
    }
}
