//! OpenAPI 3.0 and 3.1 and Swagger 2, in JSON or YAML -> operations.
//!
//! *Base paths.* OpenAPI 3 has them in the URLs of `servers`, Swagger 2 in `basePath`. What the app itself sees depends
//! on whether a proxy in front of it strips them, which no document says. So a path is found with any of its base paths
//! and without one, and reported with the first: that is how FastAPI's `root_path` shows in its document and in what
//! the in-process client reports. [`BasePath::Is`] settles it where that is wrong.

use serde_json::Value;

use crate::pipeline::{
    http::head::Method,
    route::{
        Source,
        declared::Endpoint,
        pattern::{Notation, Pattern},
        segment,
    },
};

/// Longest document, bytes. While it is read it takes some ten times as much memory.
pub const MAX_DOCUMENT: usize = 8 * 1024 * 1024;

/// Operations of one document.
pub const MAX_OPERATIONS: usize = 10_000;

/// Longest document that is sent on, bytes; what the newer protocol takes.
pub const MAX_SENT: usize = 4_000_000;

/// Base paths of one document; further servers are not looked at.
const MAX_BASES: usize = 4;

/// Summaries and descriptions of all operations together, bytes: a reference may repeat one ten thousand times. What
/// is beyond is left out.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Nested lists and objects, as serde_json has it.
const MAX_DEPTH: usize = 128;

/// References that lead from one to the next.
const MAX_REFERENCES: usize = 16;

/// Methods that a path can have: all of OpenAPI 3.2, in its spelling.
const METHODS: [&str; 9] = ["get", "put", "post", "delete", "options", "head", "patch", "trace", "query"];

/// A document that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// As JSON text; None when it is longer than [`MAX_SENT`].
    pub json: Option<String>,
    /// In the order of the document; at most [`MAX_OPERATIONS`].
    pub operations: Vec<Operation>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub method: Method,
    /// As the document has it, without a base path.
    path: Pattern,
    /// What may come before the path; never empty. An empty one is no base path.
    bases: Vec<String>,
    pub summary: Option<Box<str>>,
    pub description: Option<Box<str>>,
}

/// What stands before the paths of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BasePath {
    /// What the document says, or nothing; reported as it says.
    #[default]
    OfDocument,
    /// This alone; empty for none.
    Is(String),
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the OpenAPI document has {saw} bytes; at most {MAX_DOCUMENT} are read")]
    TooLong { saw: usize },
    #[error("the OpenAPI document is no UTF-8 from byte {at} on")]
    Encoding { at: usize },
    #[error("the OpenAPI document cannot be read as JSON: {0}")]
    Json(serde_json::Error),
    #[error("the OpenAPI document cannot be read as YAML: {0}")]
    Yaml(String),
    #[error(
        "this is HTML or XML, no OpenAPI document; its page mostly names the document, such as /openapi.json"
    )]
    Markup,
    #[error("this is no OpenAPI document: it has neither `openapi` nor `swagger` at the top{}", saw(.0))]
    NotOpenApi(Vec<String>),
    #[error("the document is of {key} {saw}; 3.x of `openapi` and 2.0 of `swagger` can be read")]
    Version { key: &'static str, saw: String },
    #[error("at {place} of the OpenAPI document: {problem}")]
    Content { place: String, problem: String },
    #[error("the OpenAPI document has more than {MAX_OPERATIONS} operations")]
    TooManyOperations,
}

fn saw(keys: &[String]) -> String {
    if keys.is_empty() { String::new() } else { format!(", but {}", keys.join(", ")) }
}

impl Document {
    /// Reads a document. What begins with `{` is JSON, everything else YAML.
    ///
    /// # Errors
    /// When it cannot be read, is no OpenAPI document, or exceeds a bound; with the place and what is there.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLong { saw: bytes.len() });
        }
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let text =
            str::from_utf8(bytes).map_err(|error| DocumentError::Encoding { at: error.valid_up_to() })?;
        if text.trim_start().starts_with('<') {
            return Err(DocumentError::Markup);
        }
        let (root, json) = if text.trim_start().starts_with('{') {
            (serde_json::from_str(text).map_err(DocumentError::Json)?, text.to_owned())
        } else {
            let root: Value = from_yaml(text)?;
            let json = root.to_string();
            (root, json)
        };
        let reader = Reader { root: &root, text: 0 };
        let operations = reader.operations()?;
        Ok(Self { json: Some(json).filter(|json| json.len() <= MAX_SENT), operations })
    }

    /// Its routes.
    ///
    /// # Errors
    /// When a path is too long together with a base path, or the base path is none.
    pub fn endpoints(&self, base: &BasePath) -> Result<Vec<Endpoint>, DocumentError> {
        let operations = self.operations.iter();
        operations.map(|operation| operation.endpoint(base)).collect()
    }
}

impl Operation {
    fn endpoint(&self, base: &BasePath) -> Result<Endpoint, DocumentError> {
        let below = |base: &str| {
            self.path
                .below(base)
                .map_err(|error| content(format!("the base path {base:?}"), error.to_string()))
        };
        let (pattern, also) = match base {
            BasePath::Is(base) => (below(trimmed(base))?, Vec::new()),
            BasePath::OfDocument => {
                let first = self.bases.first().map_or("", String::as_str);
                let mut also = Vec::new();
                for other in self.bases.iter().map(String::as_str).chain([""]) {
                    let pattern = below(other)?;
                    if other != first && !also.contains(&pattern) {
                        also.push(pattern);
                    }
                }
                (below(first)?, also)
            }
        };
        let (summary, description) = (self.summary.clone(), self.description.clone());
        Ok(Endpoint {
            method: Some(self.method),
            pattern,
            also,
            source: Source::OpenApi,
            summary,
            description,
        })
    }
}

/// A base path without its slash at the end.
fn trimmed(base: &str) -> &str {
    base.trim_end_matches('/')
}

fn content(place: String, problem: String) -> DocumentError {
    DocumentError::Content { place, problem }
}

fn from_yaml(text: &str) -> Result<Value, DocumentError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: 1_000_000,
            max_events: 3_000_000,
            max_documents: 1,
            max_total_scalar_bytes: 2 * MAX_DOCUMENT,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| DocumentError::Yaml(error.to_string()))
}

struct Reader<'a> {
    root: &'a Value,
    /// Bytes of summaries and descriptions so far.
    text: usize,
}

impl<'a> Reader<'a> {
    fn operations(mut self) -> Result<Vec<Operation>, DocumentError> {
        let bases = self.bases_of_document()?;
        let mut operations = Vec::new();
        // OpenAPI 3.1 can do without.
        let Some(paths) = self.root.get("paths") else { return Ok(operations) };
        let Some(paths) = paths.as_object() else {
            return Err(content("paths".to_owned(), format!("an object is due here, not {}", kind(paths))));
        };
        for (path, item) in paths {
            if path.starts_with("x-") {
                continue;
            }
            let place = format!("paths.{path:?}");
            let pattern = Pattern::parse(path, Notation::OpenApi)
                .map_err(|error| content(place.clone(), error.to_string()))?;
            let item = self.resolved(item, &place)?;
            let item_bases = servers(item, &place)?;
            for name in METHODS {
                let Some(operation) = item.get(name) else { continue };
                let place = format!("{place}.{name}");
                if !operation.is_object() {
                    return Err(content(place, format!("an object is due here, not {}", kind(operation))));
                }
                if operations.len() == MAX_OPERATIONS {
                    return Err(DocumentError::TooManyOperations);
                }
                let own_bases = servers(operation, &place)?.or_else(|| item_bases.clone());
                let text_of = |key| operation.get(key).or_else(|| item.get(key)).and_then(Value::as_str);
                let (summary, description) = (text_of("summary"), text_of("description"));
                let method = Method::new(name);
                operations.push(Operation {
                    method: method.ok_or_else(|| content(place, "no method".to_owned()))?,
                    path: pattern.clone(),
                    bases: own_bases.unwrap_or_else(|| bases.clone()),
                    summary: self.within_bounds(summary),
                    description: self.within_bounds(description),
                });
            }
        }
        Ok(operations)
    }

    /// Checks the version on the way.
    fn bases_of_document(&self) -> Result<Vec<String>, DocumentError> {
        let version = |key: &'static str| self.root.get(key).map(|version| (key, version));
        let (key, version) = version("openapi").or_else(|| version("swagger")).ok_or_else(|| {
            let keys = self.root.as_object().into_iter().flat_map(|root| root.keys());
            DocumentError::NotOpenApi(keys.take(5).map(|key| shown(key)).collect())
        })?;
        // YAML has 2.0 as a number.
        let text = version.as_str().map_or_else(|| version.to_string(), str::to_owned);
        match (key, text.split('.').next()) {
            ("openapi", Some("3")) => {
                let bases = servers(self.root, "the top")?;
                Ok(bases.unwrap_or_else(|| vec![String::new()]))
            }
            ("swagger", Some("2")) => {
                let Some(base) = self.root.get("basePath") else { return Ok(vec![String::new()]) };
                let Some(base) = base.as_str() else {
                    return Err(content(
                        "basePath".to_owned(),
                        format!("text is due here, not {}", kind(base)),
                    ));
                };
                Ok(vec![path_of_url(base)])
            }
            _ => Err(DocumentError::Version { key, saw: shown(&text) }),
        }
    }

    /// What a path item is behind its references.
    fn resolved(&self, item: &'a Value, place: &str) -> Result<&'a Value, DocumentError> {
        let mut item = item;
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = item.get("$ref") else {
                let is_item = item.is_object() || item.is_null();
                return if is_item {
                    Ok(item)
                } else {
                    Err(content(place.to_owned(), format!("an object is due here, not {}", kind(item))))
                };
            };
            let problem = |problem: &str| {
                let reference = reference.as_str().map_or_else(|| kind(reference).to_owned(), shown);
                content(place.to_owned(), format!("the reference {reference} {problem}"))
            };
            let Some(pointer) = reference.as_str().and_then(|reference| reference.strip_prefix('#')) else {
                return Err(problem("leads out of the document; put what it means into it"));
            };
            // A fragment is percent-encoded (RFC 6901 section 6); an encoded slash is one of a name, and written ~1.
            let mut decoded = String::new();
            segment::decode(pointer, &mut decoded);
            item = self.root.pointer(&decoded).ok_or_else(|| problem("leads nowhere"))?;
        }
        Err(content(place.to_owned(), format!("more than {MAX_REFERENCES} references lead on from here")))
    }

    fn within_bounds(&mut self, text: Option<&str>) -> Option<Box<str>> {
        let text = text.filter(|text| !text.is_empty() && self.text + text.len() <= MAX_TEXT)?;
        self.text += text.len();
        Some(text.into())
    }
}

/// Base paths of the `servers` of something; None when it has none.
fn servers(owner: &Value, place: &str) -> Result<Option<Vec<String>>, DocumentError> {
    let Some(servers) = owner.get("servers").filter(|servers| !servers.is_null()) else { return Ok(None) };
    let Some(servers) = servers.as_array() else {
        return Err(content(place.to_owned(), format!("`servers` is {}, not a list", kind(servers))));
    };
    let mut bases = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let place = || format!("{place}, servers[{index}]");
        let Some(url) = server.get("url").and_then(Value::as_str) else {
            return Err(content(place(), "there is no text under `url`".to_owned()));
        };
        let base = path_of_url(&with_defaults(url, server).map_err(|problem| content(place(), problem))?);
        if bases.len() < MAX_BASES && !bases.contains(&base) {
            bases.push(base);
        }
    }
    Ok(Some(bases).filter(|bases| !bases.is_empty()))
}

/// A server's URL with the defaults of its variables.
fn with_defaults(url: &str, server: &Value) -> Result<String, String> {
    let mut whole = String::new();
    let mut rest = url;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind
            .split_once('}')
            .ok_or_else(|| format!("the url {} opens a variable and does not close it", shown(url)))?;
        let default = server.get("variables").and_then(|variables| variables.get(name)?.get("default"));
        let default = match default {
            Some(Value::String(text)) => text.clone(),
            Some(number @ Value::Number(_)) => number.to_string(),
            _ => {
                return Err(format!(
                    "the variable {} of the url has no default under `variables`",
                    shown(name)
                ));
            }
        };
        whole.push_str(before);
        whole.push_str(&default);
        if whole.len() > MAX_DOCUMENT {
            return Err("the url is too long".to_owned());
        }
        rest = after;
    }
    whole.push_str(rest);
    Ok(whole)
}

/// The path of a URL, with a slash in front and none at the end; empty for none. A relative one is taken for one from
/// the root: where the document itself is served, no file knows.
fn path_of_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default().trim();
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => match url.strip_prefix("//") {
            Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
            None => url.trim_start_matches("./"),
        },
    };
    let path = path.trim_matches('/');
    if path.is_empty() || path == "." { String::new() } else { format!("/{path}") }
}

/// What something is, for a message: never its content.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Quoted, escaped and not too long.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests;
