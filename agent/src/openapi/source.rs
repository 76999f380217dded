//! Where an OpenAPI document comes from: a file or a URL, and whether it is another one by now.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    StatusCode, Url,
    header::{ACCEPT, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED},
    redirect,
};
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::document::{Document, DocumentError, MAX_DOCUMENT};

/// From the connection to the last byte of the document.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often [`OpenApiSource::follow`] looks. A look at a file costs a system call; one at a URL costs its server a
/// request, which is seen when it is the target itself.
const LOOK_AT_FILE: Duration = Duration::from_secs(2);
const LOOK_AT_URL: Duration = Duration::from_secs(60);

/// A document's origin, and what of it was seen last.
#[derive(Debug)]
pub struct OpenApiSource {
    origin: Origin,
    /// SHA-256 of the bytes that were parsed last, well or badly.
    digest: Option<[u8; 32]>,
    /// What was wrong the last time, so that it is told once.
    trouble: Option<String>,
}

#[derive(Debug)]
enum Origin {
    File { path: PathBuf, seen: Option<Stamp> },
    Url { url: Url, client: reqwest::Client, validators: HeaderMap },
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("it is empty; give a file or a URL like https://example.com/openapi.json")]
    Empty,
    #[error("{saw:?} is no URL that can be fetched: {cause}; give a file, or an http or https URL")]
    Url { saw: String, cause: String },
    #[error("cannot read the OpenAPI document {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the OpenAPI document {} is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("cannot fetch the OpenAPI document {url}: {cause}")]
    Fetch { url: String, cause: String },
    #[error("cannot fetch the OpenAPI document {url}: the server answers {status}")]
    Status { url: String, status: u16 },
    #[error("{origin}: {error}")]
    Document { origin: String, error: DocumentError },
}

impl SourceError {
    /// Whether it is the origin's name that means nothing: nobody has looked there.
    pub fn is_misspelt(&self) -> bool {
        matches!(self, Self::Empty | Self::Url { .. })
    }

    /// Whether the document could not be had at all, as opposed to what is in it.
    pub fn is_unreadable(&self) -> bool {
        match self {
            Self::File { .. } | Self::NotAFile { .. } | Self::Fetch { .. } | Self::Status { .. } => true,
            Self::Empty | Self::Url { .. } | Self::Document { .. } => false,
        }
    }
}

impl OpenApiSource {
    /// Reads what names a document: what has a scheme is a URL, everything else a file. Nothing is loaded yet.
    ///
    /// # Errors
    /// When it is a URL that cannot be fetched by HTTP.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text.trim().is_empty() {
            return Err(SourceError::Empty);
        }
        let origin = if text.contains("://") {
            let url = Url::parse(text.trim());
            let url = url
                .map_err(|error| error.to_string())
                .and_then(|url| match url.scheme() {
                    "http" | "https" => Ok(url),
                    scheme => Err(format!("the scheme is {scheme}")),
                })
                .map_err(|cause| SourceError::Url { saw: without_secrets(text.trim()), cause })?;
            let client = reqwest::Client::builder()
                .user_agent(concat!("apitally-agent/", env!("CARGO_PKG_VERSION")))
                .timeout(TIMEOUT)
                .redirect(redirect::Policy::limited(5))
                .build()
                .map_err(|error| SourceError::Fetch { url: name(&url), cause: cause(error) })?;
            Origin::Url { url, client, validators: HeaderMap::new() }
        } else {
            Origin::File { path: text.into(), seen: None }
        };
        Ok(Self { origin, digest: None, trouble: None })
    }

    /// Gets the document. Needs a tokio runtime around it; reading and parsing happen beside its threads.
    ///
    /// # Errors
    /// When it cannot be got, or is none that can be used.
    pub async fn load(&mut self) -> Result<Document, SourceError> {
        (self.digest, self.trouble) = (None, None);
        match &mut self.origin {
            Origin::File { seen, .. } => *seen = None,
            Origin::Url { validators, .. } => validators.clear(),
        }
        let looked = self.look().await?;
        Ok(looked.expect("without what was seen before, everything is new"))
    }

    /// Gets the document again if it is another one: None when it is not. A file is read when its inode, length or time
    /// is another one, a URL asked with what its server said of the document (RFC 9110 section 13.1).
    ///
    /// # Errors
    /// As [`OpenApiSource::load`]; the same one is told once. Until there is a document that can be used, the last one
    /// stands.
    pub async fn reload_if_changed(&mut self) -> Result<Option<Document>, SourceError> {
        match self.look().await {
            Ok(document) => {
                self.trouble = None;
                Ok(document)
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_ref() == Some(&text) {
                    return Ok(None);
                }
                self.trouble = Some(text);
                Err(error)
            }
        }
    }

    /// Looks again and again, in a task of its own that ends with the receiver. What changed is received; what cannot
    /// be used is warned about, and the last document stands. Call it after [`OpenApiSource::load`].
    pub fn follow(mut self) -> mpsc::Receiver<Document> {
        let (changed, receiver) = mpsc::channel(1);
        let every = match self.origin {
            Origin::File { .. } => LOOK_AT_FILE,
            Origin::Url { .. } => LOOK_AT_URL,
        };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = changed.closed() => return,
                    () = sleep(every) => {}
                }
                match self.reload_if_changed().await {
                    Ok(None) => {}
                    Ok(Some(document)) => {
                        info!(operations = document.operations.len(), "OpenAPI document changed");
                        if changed.send(document).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => warn!(%error, "OpenAPI document cannot be used, keeping the last one"),
                }
            }
        });
        receiver
    }

    /// The document, if it is not the one that was seen last.
    async fn look(&mut self) -> Result<Option<Document>, SourceError> {
        let bytes = match &mut self.origin {
            Origin::File { path, seen } => {
                let (file, before) = (path.clone(), *seen);
                let read = spawn_blocking(move || read_if_changed(&file, before))
                    .await
                    .expect("reading does not panic");
                match read {
                    Ok(Some((stamp, bytes))) => {
                        *seen = Some(stamp);
                        Some(bytes)
                    }
                    Ok(None) => None,
                    Err(error) => {
                        // When it is back, it is read, whatever it looks like.
                        *seen = None;
                        return Err(error);
                    }
                }
            }
            Origin::Url { url, client, validators } => fetch(client, url, validators).await?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let digest = Some(Sha256::digest(&bytes).into());
        if self.digest == digest {
            // It may have been away; what is wrong with it was told.
            return Ok(None);
        }
        self.digest = digest;
        let parsed = spawn_blocking(move || Document::parse(&bytes)).await.expect("parsing does not panic");
        parsed.map(Some).map_err(|error| SourceError::Document { origin: self.origin.name(), error })
    }
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Url { url, .. } => name(url),
        }
    }
}

/// None when it is the file that was seen before. At most one byte more than [`MAX_DOCUMENT`] is read.
fn read_if_changed(path: &Path, before: Option<Stamp>) -> Result<Option<(Stamp, Vec<u8>)>, SourceError> {
    let unreadable = |error| SourceError::File { path: path.to_owned(), error };
    // Before it is opened: that of a pipe would wait for someone to write.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let stamp = Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    if before == Some(stamp) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(Some((stamp, bytes)))
}

/// None when the server says that it is not modified. At most a piece more than [`MAX_DOCUMENT`] is read.
async fn fetch(
    client: &reqwest::Client,
    url: &Url,
    validators: &mut HeaderMap,
) -> Result<Option<Vec<u8>>, SourceError> {
    let unreachable = |error| SourceError::Fetch { url: name(url), cause: cause(error) };
    let request = client
        .get(url.clone())
        .header(ACCEPT, "application/json, application/yaml;q=0.9, */*;q=0.5")
        .headers(validators.clone());
    let mut response = request.send().await.map_err(unreachable)?;
    match response.status() {
        StatusCode::NOT_MODIFIED if !validators.is_empty() => return Ok(None),
        status if status.is_success() => {}
        status => return Err(SourceError::Status { url: name(url), status: status.as_u16() }),
    }
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(unreachable)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_DOCUMENT {
            break;
        }
    }
    let said = |name| response.headers().get(name).cloned();
    let known = [(IF_NONE_MATCH, said(ETAG)), (IF_MODIFIED_SINCE, said(LAST_MODIFIED))];
    *validators = known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Ok(Some(bytes))
}

/// A URL without user, password, query and fragment, any of which may be a secret.
fn name(url: &Url) -> String {
    let mut url = url.clone();
    // Fails for URLs without a host, which have none of them.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Likewise, of a text that is no URL.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Down to what went wrong, without the URL.
fn cause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests;
