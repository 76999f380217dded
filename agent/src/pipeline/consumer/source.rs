//! Where in a request a value is found that says who called.

use core::net::SocketAddr;
use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use httparse::Header;
use percent_encoding::percent_decode;

use super::{
    RuleError,
    address::{self, Forwarding},
    certificate::{self, CertificatePart},
    jwt,
    key::{is_sensitive_name, is_sensitive_parameter},
};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest name of a cookie, a parameter, a claim or an attribute that a rule may have, bytes.
const MAX_RULE_NAME: usize = 256;

/// What a request shows of whoever sent it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    pub fields: &'a [Header<'a>],
    /// What the request line asks for, query included.
    pub target: &'a str,
    /// The other end of the connection; None on a Unix socket, or where it was not seen.
    pub peer: Option<SocketAddr>,
}

/// A place to look for a value: an identifier, a name, a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header(String),
    BasicUser,
    /// `bearer`: behind that scheme; otherwise the header is the token.
    JwtClaim {
        header: String,
        bearer: bool,
        claim: String,
    },
    Cookie(String),
    Query(String),
    ForwardedCertificate(CertificatePart),
    DistinguishedName {
        header: String,
        attribute: String,
    },
    Peer,
    Forwarded {
        by: Forwarding,
        proxies: usize,
    },
}

impl Source {
    /// The first value of this header that is not blank. `name` in any case.
    ///
    /// # Errors
    /// When it is no name of a header.
    pub fn header(name: &str) -> Result<Self, RuleError> {
        Ok(Self(Place::Header(header_name(name)?)))
    }

    /// The user name of `Authorization: Basic` (RFC 7617). The password is not looked at.
    pub fn basic_user() -> Self {
        Self(Place::BasicUser)
    }

    /// A claim of the token behind `Authorization: Bearer`, text or a number; dots lead into objects. The token is not
    /// verified.
    ///
    /// # Errors
    /// When the claim has no name, or a longer one than 256 bytes.
    pub fn jwt_claim(claim: &str) -> Result<Self, RuleError> {
        let (header, claim) = ("authorization".to_owned(), rule_name("a claim", claim)?);
        Ok(Self(Place::JwtClaim { header, bearer: true, claim }))
    }

    /// Likewise of a token that stands alone in a header of another name, where proxies put those they have verified:
    /// `Cf-Access-Jwt-Assertion`, `X-Goog-Iap-Jwt-Assertion`, `X-Amzn-Oidc-Data`.
    ///
    /// # Errors
    /// Likewise, or when `header` is no name of one.
    pub fn jwt_claim_in(header: &str, claim: &str) -> Result<Self, RuleError> {
        let (header, claim) = (header_name(header)?, rule_name("a claim", claim)?);
        let bearer = header == "authorization";
        Ok(Self(Place::JwtClaim { header, bearer, claim }))
    }

    /// The value of a cookie, without quotes around it. Names are taken as they are spelled.
    ///
    /// # Errors
    /// When it is no name of a cookie.
    pub fn cookie(name: &str) -> Result<Self, RuleError> {
        let name = rule_name("a cookie", name)?;
        if name.bytes().all(is_token_byte) {
            Ok(Self(Place::Cookie(name)))
        } else {
            Err(RuleError::CookieName { saw: name })
        }
    }

    /// The value of a query parameter, decoded. Names are taken as they are spelled.
    ///
    /// # Errors
    /// When it has no name, or a longer one than 256 bytes.
    pub fn query(name: &str) -> Result<Self, RuleError> {
        Ok(Self(Place::Query(rule_name("a query parameter", name)?)))
    }

    /// The client's certificate, as Envoy and Istio tell of it in `X-Forwarded-Client-Cert`.
    pub fn forwarded_certificate(part: CertificatePart) -> Self {
        Self(Place::ForwardedCertificate(part))
    }

    /// An attribute, such as `CN`, of the distinguished name in a header such as `X-SSL-Client-S-DN`.
    ///
    /// # Errors
    /// When `header` is no name of one, or the attribute has none.
    pub fn distinguished_name(header: &str, attribute: &str) -> Result<Self, RuleError> {
        let (header, attribute) = (header_name(header)?, rule_name("an attribute", attribute)?);
        Ok(Self(Place::DistinguishedName { header, attribute }))
    }

    /// The address at the other end of the connection. A Unix socket has none.
    pub fn peer_address() -> Self {
        Self(Place::Peer)
    }

    /// The client's address as the farthest of `proxies` trusted proxies has written it; see [`address::client`].
    ///
    /// # Errors
    /// When no proxy is trusted: then only the connection's own address is worth anything.
    pub fn forwarded_address(by: Forwarding, proxies: usize) -> Result<Self, RuleError> {
        if proxies == 0 { Err(RuleError::NoProxies) } else { Ok(Self(Place::Forwarded { by, proxies })) }
    }

    /// Whether what is there may be a secret: it is in a header or a parameter that the hub masks. A cookie always is.
    /// Names of users, claims, certificates and addresses are no secrets.
    pub fn is_secret(&self) -> bool {
        match &self.0 {
            Place::Header(name) => is_sensitive_name(name),
            Place::Cookie(_) => true,
            Place::Query(name) => is_sensitive_parameter(name),
            Place::BasicUser
            | Place::JwtClaim { .. }
            | Place::ForwardedCertificate(_)
            | Place::DistinguishedName { .. }
            | Place::Peer
            | Place::Forwarded { .. } => false,
        }
    }

    /// Whether it is a header's value as it stands there.
    pub fn is_header(&self) -> bool {
        matches!(self.0, Place::Header(_))
    }

    /// Whether the kernel side must tell who is at the other end.
    pub fn needs_peer(&self) -> bool {
        matches!(self.0, Place::Peer | Place::Forwarded { .. })
    }

    /// The first value there that is not blank, without blanks around it.
    pub fn find<'v>(&self, evidence: &Evidence<'v>, scratch: &'v mut Scratch) -> Option<&'v [u8]> {
        let found = match &self.0 {
            Place::Header(name) => return values(evidence.fields, name).next(),
            Place::BasicUser => {
                let credentials =
                    values(evidence.fields, "authorization").find_map(|it| behind_scheme(it, "Basic"))?;
                basic_user(credentials, &mut scratch.found)?
            }
            Place::JwtClaim { header, bearer, claim } => {
                let mut tokens = values(evidence.fields, header)
                    .filter_map(|value| if *bearer { behind_scheme(value, "Bearer") } else { Some(value) });
                tokens.find(|token| jwt::write_claim(token, claim, &mut scratch.work, &mut scratch.claim))?;
                scratch.claim.as_bytes()
            }
            Place::Cookie(name) => return values(evidence.fields, "cookie").find_map(|it| cookie(it, name)),
            Place::Query(name) => parameter(evidence.target, name, scratch)?,
            Place::ForwardedCertificate(part) => {
                values(evidence.fields, "x-forwarded-client-cert").find(|value| {
                    certificate::write_from_xfcc(value, part, &mut scratch.work, &mut scratch.found)
                })?;
                &scratch.found
            }
            Place::DistinguishedName { header, attribute } => {
                values(evidence.fields, header)
                    .find(|value| certificate::write_attribute(value, attribute, &mut scratch.found))?;
                &scratch.found
            }
            Place::Peer => scratch.write(evidence.peer?.ip().to_canonical()),
            Place::Forwarded { by, proxies } => {
                scratch.write(address::client(evidence.fields, evidence.peer, *by, *proxies)?)
            }
        };
        let found = found.trim_ascii();
        (!found.is_empty()).then_some(found)
    }
}

/// Room to work in, so that looking a value up costs no allocation. What is in it is captured, so it is never shown.
#[derive(Default)]
pub struct Scratch {
    work: Vec<u8>,
    found: Vec<u8>,
    claim: String,
}

impl Scratch {
    fn write(&mut self, value: impl fmt::Display) -> &[u8] {
        use fmt::Write as _;
        self.claim.clear();
        let _ = write!(self.claim, "{value}"); // a string takes everything
        self.claim.as_bytes()
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scratch")
    }
}

/// The part of `value` behind an authentication scheme (RFC 9110 section 11.4), if it is this one, in any case.
pub fn behind_scheme<'v>(value: &'v [u8], scheme: &str) -> Option<&'v [u8]> {
    let (first, rest) = value.split_at_checked(scheme.len())?;
    let is_it =
        first.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first().is_some_and(u8::is_ascii_whitespace);
    let rest = rest.trim_ascii();
    (is_it && !rest.is_empty()).then_some(rest)
}

/// RFC 9110 section 5.6.2, token.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Values of a header that are not blank, without blanks around them.
fn values<'v>(fields: &'v [Header<'v>], name: &str) -> impl Iterator<Item = &'v [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
        .filter(|value| !value.is_empty())
}

fn basic_user<'v>(credentials: &[u8], found: &'v mut Vec<u8>) -> Option<&'v [u8]> {
    found.clear();
    found.resize(base64::decoded_len_estimate(credentials.len()), 0);
    let length = BASE64.decode_slice(credentials, found).ok()?;
    let decoded = found.get(..length)?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    found.truncate(colon);
    Some(found)
}

/// RFC 6265 section 5.4 says how clients write it, 4.1.1 that quotes may stand around a value.
fn cookie<'v>(header: &'v [u8], name: &str) -> Option<&'v [u8]> {
    header.split(|&byte| byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        let value = value.trim_ascii();
        (!value.is_empty()).then_some(value)
    })
}

/// Pairs as forms write them: `+` for a blank, percent signs before hex digits, in names too.
fn parameter<'v>(target: &str, name: &str, scratch: &'v mut Scratch) -> Option<&'v [u8]> {
    let (_, query) = target.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != name {
            if !key.contains(['%', '+']) {
                continue;
            }
            decode(key, &mut scratch.work);
            if scratch.work != name.as_bytes() {
                continue;
            }
        }
        decode(value, &mut scratch.found);
        if !scratch.found.trim_ascii().is_empty() {
            return Some(&scratch.found);
        }
    }
    None
}

fn decode(text: &str, bytes: &mut Vec<u8>) {
    bytes.clear();
    for (index, part) in text.as_bytes().split(|&byte| byte == b'+').enumerate() {
        if index > 0 {
            bytes.push(b' ');
        }
        bytes.extend(percent_decode(part));
    }
}

/// In lower case.
fn header_name(name: &str) -> Result<String, RuleError> {
    let trimmed = name.trim();
    let is_name = !trimmed.is_empty() && trimmed.len() <= MAX_RULE_NAME && trimmed.bytes().all(is_token_byte);
    if is_name {
        Ok(trimmed.to_ascii_lowercase())
    } else {
        Err(RuleError::HeaderName { saw: name.to_owned() })
    }
}

fn rule_name(what: &'static str, name: &str) -> Result<String, RuleError> {
    let trimmed = name.trim();
    if trimmed.is_empty() || trimmed.len() > MAX_RULE_NAME {
        return Err(RuleError::Name { what, max: MAX_RULE_NAME, length: trimmed.len() });
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests;
