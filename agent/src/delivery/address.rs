//! Where messages go.

use std::fmt;

use reqwest::Url;

/// An http or https URL of a host and a path, without trailing slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    text: String,
    /// Host, and port if there is one: what logs call it.
    host: String,
}

/// Goes on where the name of the option ends.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("is not a URL: saw {saw:?} ({reason})")]
    NotAUrl { saw: String, reason: String },
    #[error("has the scheme `{0}`; only https and http can be used")]
    Scheme(String),
    /// Does not repeat the URL: what it found may be a password.
    #[error("has more than a host and a path; leave out user, password, query and fragment")]
    MoreThanHostAndPath,
}

impl Address {
    /// # Errors
    /// Whatever is not `http(s)://host[:port][/path]`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let url = Url::parse(text).map_err(|error| {
            // What does not parse may still have a password in front of an `@`.
            let saw = text.rsplit('@').next().unwrap_or_default().to_owned();
            AddressError::NotAUrl { saw, reason: error.to_string() }
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Scheme(url.scheme().to_owned()));
        }
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::MoreThanHostAndPath);
        }
        let name = url.host_str().expect("an http URL that parsed has a host");
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        Ok(Self { text: url.as_str().trim_end_matches('/').to_owned(), host })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// What is at this path below the address. `path` begins with a slash and has nothing to be escaped.
    pub fn below(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.text))
            .expect("a valid URL with plain segments added is a valid URL")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
