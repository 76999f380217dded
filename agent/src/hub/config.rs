//! Where messages go and in whose name: valid once parsed, so nothing behind this file checks again.

use std::fmt;

use reqwest::Url;
use uuid::Uuid;

use crate::delivery::{Address, AddressError};

/// Which app the messages belong to. Not a secret, but kept out of logs all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId(Uuid);

#[derive(Debug, thiserror::Error)]
#[error(
    "client id is not a UUID: saw {0:?}; copy it from the app's settings in the Apitally dashboard \
     (it looks like 76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9)"
)]
pub struct ClientIdError(String);

impl ClientId {
    /// Takes any spelling of a UUID, blanks around it included.
    ///
    /// # Errors
    /// Anything else, the all-zero UUID included: it is what an unfilled template looks like.
    pub fn parse(text: &str) -> Result<Self, ClientIdError> {
        match Uuid::try_parse(text.trim()) {
            Ok(id) if !id.is_nil() => Ok(Self(id)),
            _ => Err(ClientIdError(text.to_owned())),
        }
    }
}

/// The hub's spelling: lower case with dashes.
impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Which environment of the app: `dev`, `prod`, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env(String);

#[derive(Debug, thiserror::Error)]
#[error(
    "environment name is not usable: saw {0:?}; use 1 to 32 letters, digits, dashes and underscores, \
     best in lower case (like `prod`)"
)]
pub struct EnvError(String);

impl Env {
    /// Takes what the hub takes. Not changed in any way: the dashboard tells `Prod` from `prod`.
    ///
    /// # Errors
    /// Anything but 1 to 32 characters of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, EnvError> {
        let usable = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(usable) {
            Ok(Self(text.to_owned()))
        } else {
            Err(EnvError(text.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `dev`, like the in-process clients.
impl Default for Env {
    fn default() -> Self {
        Self("dev".to_owned())
    }
}

impl fmt::Display for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hub's address; may have a path, for relays that live below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Address);

#[derive(Debug, thiserror::Error)]
#[error("hub URL {0}; write it like {DEFAULT_URL}, the client id is an option of its own")]
pub struct BaseUrlError(AddressError);

const DEFAULT_URL: &str = "https://hub.apitally.io";

impl BaseUrl {
    /// # Errors
    /// Whatever is not `http(s)://host[:port][/path]`.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        Address::parse(text).map(Self).map_err(BaseUrlError)
    }

    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// Where messages of this kind go.
    pub(super) fn endpoint(&self, client_id: &ClientId, env: &Env, kind: &str) -> Url {
        self.0.below(&format!("/v2/{client_id}/{env}/{kind}"))
    }
}

/// Apitally's.
impl Default for BaseUrl {
    fn default() -> Self {
        Self::parse(DEFAULT_URL).expect("it is one")
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";

    #[test]
    fn client_id_is_sent_in_one_spelling() {
        for spelling in [
            ID,
            "76B5CB91-A0A4-4EA0-A894-57D2B9FCB2C9",
            "76b5cb91a0a44ea0a89457d2b9fcb2c9",
            "{76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9}",
            "urn:uuid:76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9",
            " 76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9\n",
        ] {
            assert_eq!(ClientId::parse(spelling).unwrap().to_string(), ID, "{spelling}");
        }
    }

    #[test]
    fn wrong_client_id_is_shown_with_what_to_do() {
        for wrong in
            ["", "my-app", "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c", "00000000-0000-0000-0000-000000000000"]
        {
            let message = ClientId::parse(wrong).unwrap_err().to_string();
            assert!(message.contains(&format!("saw {wrong:?}")), "{message}");
            assert!(message.contains("dashboard"), "{message}");
        }
    }

    #[test]
    fn env_is_what_the_hub_takes() {
        for good in ["dev", "Prod_2", "a", "-", &"x".repeat(32)] {
            assert_eq!(Env::parse(good).unwrap().as_str(), good);
        }
        for wrong in ["", "pre prod", "prod/eu", "größe", "prod\n", &"x".repeat(33)] {
            let message = Env::parse(wrong).unwrap_err().to_string();
            assert!(message.contains(&format!("saw {wrong:?}")), "{message}");
        }
    }

    #[test]
    fn base_url_loses_trailing_slashes() {
        //    given                             sent to                       called in logs
        check("https://hub.apitally.io", "https://hub.apitally.io", "hub.apitally.io");
        check("https://hub.apitally.io//", "https://hub.apitally.io", "hub.apitally.io");
        check("http://127.0.0.1:9000/", "http://127.0.0.1:9000", "127.0.0.1:9000");
        check("HTTP://[::1]:9000/relay/hub/", "http://[::1]:9000/relay/hub", "[::1]:9000");

        fn check(given: &str, sent_to: &str, host: &str) {
            let base = BaseUrl::parse(given).unwrap();
            assert_eq!((base.to_string().as_str(), base.host()), (sent_to, host));
            let url = base.endpoint(&ClientId::parse(ID).unwrap(), &Env::default(), "sync");
            assert_eq!(url.as_str(), format!("{sent_to}/v2/{ID}/dev/sync"));
        }
    }

    #[test]
    fn default_base_url_is_apitallys() {
        assert_eq!(BaseUrl::default().to_string(), "https://hub.apitally.io");
    }

    #[test]
    fn wrong_base_url_is_explained_without_its_password() {
        check("hub.apitally.io", "not a URL: saw \"hub.apitally.io\"");
        check("https://", "not a URL");
        check("ftp://hub.apitally.io", "scheme `ftp`");
        check("https://me:hunter2@hub.apitally.io", "leave out user, password");
        check("https://me:hunter2@hub.apitally.io:port", "not a URL");
        check("https://hub.apitally.io/?id=hunter2", "query");

        fn check(given: &str, says: &str) {
            let message = BaseUrl::parse(given).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
