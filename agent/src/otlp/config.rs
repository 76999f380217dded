//! Where exports go and by what right: valid once parsed, so nothing behind this file checks again.

use std::{fmt, path::PathBuf, time::Duration};

use reqwest::{
    Url,
    header::{self, HeaderName, HeaderValue},
};
use sha2::{Digest as _, Sha256};

use super::{export::Signal, schedule::Pace};
use crate::{
    delivery::{Address, AddressError},
    hub::Env,
    spool::Clock,
};

/// One endpoint and how it is spoken to.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    pub endpoint: Endpoint,
    pub destination: Destination,
    /// Environment of the app.
    pub env: Env,
    /// For one try, from connecting to the end of the reply.
    pub timeout: Duration,
    pub pace: Pace,
    /// Below it payloads are kept until they are delivered. None: in memory.
    pub state_dir: Option<PathBuf>,
    /// For the age of payloads.
    pub clock: Clock,
}

impl OtlpConfig {
    pub fn new(endpoint: Endpoint, destination: Destination, env: Env) -> Self {
        let (timeout, pace, clock) = (Duration::from_secs(10), Pace::default(), Clock::default());
        Self { endpoint, destination, env, timeout, pace, state_dir: None, clock }
    }

    /// What the environment is called in messages. Apitally knows it in lower case and with dashes; any other
    /// collector gets it as it was given.
    pub fn environment(&self) -> String {
        match self.destination {
            Destination::Apitally(_) => self.env.as_str().to_ascii_lowercase().replace('_', "-"),
            Destination::Collector(_) => self.env.as_str().to_owned(),
        }
    }

    /// What tells the endpoint, and in whose name it is spoken to, from others. Holds no secret.
    pub fn spool_name(&self) -> String {
        format!("otlp {} {} {}", self.endpoint, self.env, self.destination.fingerprint())
    }
}

/// Who takes the exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Apitally(WriteToken),
    /// Any other, and what it wants to see in each request.
    Collector(Vec<Header>),
}

impl Destination {
    /// Another one for each token, and for other headers: they may say which of a collector's tenants it is for.
    fn fingerprint(&self) -> String {
        let digest = match self {
            Self::Apitally(token) => Sha256::digest(token.secret()),
            Self::Collector(headers) => {
                let mut hasher = Sha256::new();
                for Header { name, value } in headers {
                    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"] {
                        hasher.update(part);
                    }
                }
                hasher.finalize()
            }
        };
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Apitally's credential for the new way in. Secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteToken(String);

/// Does not repeat the token.
#[derive(Debug, thiserror::Error)]
#[error(
    "write token is not usable: it is `apt_` followed by 24 letters and digits, and what we saw {saw}; copy it from \
     the app's settings in the Apitally dashboard (a client id goes with --client-id instead)"
)]
pub struct WriteTokenError {
    saw: String,
}

const TOKEN_PREFIX: &str = "apt_";
const TOKEN_LENGTH: usize = 24;

impl WriteToken {
    /// Takes `^apt_[A-Za-z0-9]{24}$`, blanks around it included.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, WriteTokenError> {
        let text = text.trim();
        let saw = match text.strip_prefix(TOKEN_PREFIX) {
            None => "begins otherwise".to_owned(),
            Some(rest) if rest.chars().count() != TOKEN_LENGTH => {
                format!("has {} characters behind the prefix", rest.chars().count())
            }
            Some(rest) if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                "has other characters in it".to_owned()
            }
            Some(_) => return Ok(Self(text.to_owned())),
        };
        Err(WriteTokenError { saw })
    }

    /// The token itself, to derive keys from.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).expect("letters and digits");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for WriteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A header that the user wants in each request to a collector. Its value may be a secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
}

/// Does not repeat the value.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error(
        "a header for the OTLP endpoint is not of the form `Name: value`; write it like `X-Api-Key: 0815`"
    )]
    NoName,
    #[error("header name {0:?} is not usable; write it like X-Api-Key")]
    Name(String),
    #[error("the value of header {0} has characters that no header can have")]
    Value(HeaderName),
    #[error("header {0} is the agent's own to set; leave it out")]
    Ours(HeaderName),
}

impl Header {
    /// Takes `Name: value`.
    ///
    /// # Errors
    /// Anything else, and headers that describe the message or its way.
    pub fn parse(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once(':').ok_or(HeaderError::NoName)?;
        let name = name.trim();
        let name = HeaderName::try_from(name).map_err(|_| HeaderError::Name(name.to_owned()))?;
        let ours = [
            header::CONNECTION,
            header::CONTENT_ENCODING,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::HOST,
            header::TRANSFER_ENCODING,
            header::USER_AGENT,
        ];
        if ours.contains(&name) {
            return Err(HeaderError::Ours(name));
        }
        match HeaderValue::try_from(value.trim()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                Ok(Self { name, value })
            }
            Err(_) => Err(HeaderError::Value(name)),
        }
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ***", self.name)
    }
}

/// Address of an OTLP/HTTP endpoint without the signal's own path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Address);

#[derive(Debug, thiserror::Error)]
#[error("OTLP endpoint {0}; write it like {DEFAULT_ENDPOINT} (gRPC is not spoken)")]
pub struct EndpointError(AddressError);

const DEFAULT_ENDPOINT: &str = "https://otlp.apitally.io";

impl Endpoint {
    /// # Errors
    /// Whatever is not `http(s)://host[:port][/path]`.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        Address::parse(text).map(Self).map_err(EndpointError)
    }

    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// Where exports of this signal go.
    pub(super) fn url(&self, signal: Signal) -> Url {
        self.0.below(&format!("/v1/{}", signal.as_str()))
    }
}

/// Apitally's.
impl Default for Endpoint {
    fn default() -> Self {
        Self::parse(DEFAULT_ENDPOINT).expect("it is one")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "apt_A1b2C3d4E5f6G7h8I9j0K1l2";

    #[test]
    fn token_is_checked_and_never_shown() {
        let token = WriteToken::parse(&format!(" {TOKEN}\n")).unwrap();
        assert_eq!(token.authorization(), format!("Bearer {TOKEN}"));
        assert_eq!(format!("{token:?} {:?}", token.authorization()), "*** Sensitive");
        check(&TOKEN[..27], "23 characters behind the prefix");
        check(&format!("{TOKEN}3"), "25 characters behind the prefix");
        check(&TOKEN[4..], "begins otherwise");
        check(&TOKEN.replace('C', "-"), "other characters");
        check(&TOKEN.replace('C', "ä"), "other characters");
        check("76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9", "--client-id");
        check("", "begins otherwise");

        fn check(text: &str, says: &str) {
            let error = WriteToken::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(text.len() < 8 || !error.contains(&text[4..]), "{error}");
        }
    }

    #[test]
    fn endpoint_keeps_its_path_and_loses_its_slashes() {
        for (text, url, host) in [
            ("https://otlp.apitally.io", "https://otlp.apitally.io/v1/traces", "otlp.apitally.io"),
            ("http://localhost:4318/", "http://localhost:4318/v1/traces", "localhost:4318"),
            (" http://h/otlp/x// ", "http://h/otlp/x/v1/traces", "h"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces", "[::1]:4318"),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.url(Signal::Traces).as_str(), endpoint.host()), (url, host));
        }
        assert_eq!(Endpoint::default(), Endpoint::parse("https://otlp.apitally.io").unwrap());
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for (text, says) in [
            ("localhost:4318", "scheme `localhost`"),
            ("grpc://h:4317", "gRPC is not spoken"),
            ("collector", "relative URL without a base"),
            ("https://user:hunter2@h", "leave out user"),
            ("https://user:hunter2@", "empty host"),
            ("http://h?a=b", "query"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn headers_are_checked_and_their_values_never_shown() {
        let header = Header::parse("X-Api-Key: 0815:x ").unwrap();
        assert_eq!((header.name.as_str(), header.value.as_bytes()), ("x-api-key", &b"0815:x"[..]));
        assert_eq!(format!("{header:?}"), "x-api-key: ***");
        for (text, says) in [
            ("X-Api-Key", "`Name: value`"),
            ("X Y: hunter2", "\"X Y\""),
            ("a: hunter2\n", "a: ***"),
            ("a: hunter2\u{7f}", "characters that no header can have"),
            ("Content-Type: hunter2", "the agent's own"),
            ("host: hunter2", "the agent's own"),
        ] {
            let said =
                Header::parse(text).map_or_else(|error| error.to_string(), |header| format!("{header:?}"));
            assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn each_endpoint_environment_and_credential_has_a_spool_of_its_own() {
        let name = |endpoint, destination, env| {
            let env = Env::parse(env).unwrap();
            OtlpConfig::new(Endpoint::parse(endpoint).unwrap(), destination, env).spool_name()
        };
        let token = |text| Destination::Apitally(WriteToken::parse(text).unwrap());
        let headers = |all: &[&str]| {
            Destination::Collector(all.iter().map(|text| Header::parse(text).unwrap()).collect())
        };
        let names = [
            name("http://h", token(TOKEN), "dev"),
            name("http://h", token(TOKEN), "prod"),
            name("http://g", token(TOKEN), "dev"),
            name("http://h", token("apt_A1b2C3d4E5f6G7h8I9j0K1l3"), "dev"),
            name("http://h", headers(&[]), "dev"),
            name("http://h", headers(&["a: hunter2"]), "dev"),
            name("http://h", headers(&["a: hunter3"]), "dev"),
            name("http://h", headers(&["a: hunter2", "b: 1"]), "dev"),
        ];
        assert_eq!(name("http://h/", token(TOKEN), "dev"), names[0]);
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
            assert!(!name.contains("apt_") && !name.contains("hunter"), "{name}");
        }
    }

    #[test]
    fn apitally_gets_its_own_spelling_of_the_environment() {
        let config = |destination| {
            OtlpConfig::new(Endpoint::default(), destination, Env::parse("Pre_Prod").unwrap()).environment()
        };
        assert_eq!(config(Destination::Apitally(WriteToken::parse(TOKEN).unwrap())), "pre-prod");
        assert_eq!(config(Destination::Collector(Vec::new())), "Pre_Prod");
    }
}
