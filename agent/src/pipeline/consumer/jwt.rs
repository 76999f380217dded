//! A claim of a JSON Web Token (RFC 7519). The token is not verified: its claims are labels here, and prove nothing.

use std::fmt::{self, Write as _};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest payload that is looked into, bytes as they are encoded. A longer one is as good as none.
const MAX_PAYLOAD: usize = 16 * 1024;

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Writes the claim `path` of `token`; false when there is no such claim, or it is neither text nor a number.
///
/// `path` leads through objects by dots. A name may contain dots itself: `https://example.com/claims.org` finds both
/// the claim of that name and `org` in `https://example.com/claims`, whichever comes first in the token.
/// `scratch` is room to work in; what is in it is lost.
pub fn write_claim(token: &[u8], path: &str, scratch: &mut Vec<u8>, claim: &mut String) -> bool {
    claim.clear();
    // RFC 7515 section 3.1: three parts. What has five is encrypted.
    let mut parts = token.split(|&byte| byte == b'.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    if payload.len() > MAX_PAYLOAD {
        return false;
    }
    scratch.clear();
    scratch.resize(base64::decoded_len_estimate(payload.len()), 0);
    let Ok(length) = BASE64URL.decode_slice(payload, scratch) else { return false };
    let mut json = serde_json::Deserializer::from_slice(scratch.get(..length).unwrap_or_default());
    let found = Claim { path, text: &mut *claim }.deserialize(&mut json);
    matches!(found, Ok(true)) && json.end().is_ok()
}

/// Looks for a claim in an object, or takes what the path has led to when it is empty.
struct Claim<'a> {
    path: &'a str,
    text: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for Claim<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Claim<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut claims: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(rest) = claims.next_key_seed(Step { path: self.path })? {
            match rest {
                Some(rest) if !found => {
                    found = claims.next_value_seed(Claim { path: rest, text: &mut *self.text })?;
                }
                _ => {
                    claims.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<bool, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.take(text))
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(self.take(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        Ok(self.take(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<bool, E> {
        Ok(self.take(number))
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

impl Claim<'_> {
    fn take(self, value: impl fmt::Display) -> bool {
        self.path.is_empty() && write!(self.text, "{value}").is_ok()
    }
}

/// What is left of a path behind the name of a member; None when it does not lead there.
struct Step<'a> {
    path: &'a str,
}

impl<'a, 'de> DeserializeSeed<'de> for Step<'a> {
    type Value = Option<&'a str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Step<'a> {
    type Value = Option<&'a str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let rest = self.path.strip_prefix(name);
        Ok(rest.and_then(|rest| if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(payload: &str, path: &str) -> Option<String> {
        let token = format!("e30.{}.c2ln", BASE64URL.encode(payload));
        claim_of(token.as_bytes(), path)
    }

    fn claim_of(token: &[u8], path: &str) -> Option<String> {
        let mut text = String::new();
        write_claim(token, path, &mut Vec::new(), &mut text).then_some(text)
    }

    #[test]
    fn a_claim_is_found_by_its_path() {
        let check = |payload, path, want: Option<&str>| {
            assert_eq!(claim(payload, path).as_deref(), want, "{path} in {payload}");
        };
        check(r#"{"sub":"alice"}"#, "sub", Some("alice"));
        check(r#"{"iss":"x","sub":"al\u00efce","exp":1}"#, "sub", Some("alïce"));
        check(r#"{"sub":17}"#, "sub", Some("17"));
        check(r#"{"sub":-17}"#, "sub", Some("-17"));
        check(r#"{"sub":1.5}"#, "sub", Some("1.5"));
        check(r#"{"sub":true}"#, "sub", None);
        check(r#"{"sub":null}"#, "sub", None);
        check(r#"{"sub":["a"]}"#, "sub", None);
        check(r#"{"sub":{"a":"b"}}"#, "sub", None);
        check(r#"{"sub":"first","sub":"second"}"#, "sub", Some("first"));
        check(r#"{"org":{"id":7,"name":"Acme"}}"#, "org.name", Some("Acme"));
        check(r#"{"org":"x"}"#, "org.name", None);
        check(r#"{"or":{"g":"x"}}"#, "org", None);
        check(r#"{"https://a.b/c":"x"}"#, "https://a.b/c", Some("x"));
        check(r#"{"https://a.b/c":{"d.e":"x"}}"#, "https://a.b/c.d.e", Some("x"));
        check(r#"{"a":{"b":"x"},"a.b":"y"}"#, "a.b", Some("x"));
        check(r#"{"a":{"c":"x"},"a.b":"y"}"#, "a.b", Some("y"));
        check(r#"{"subject":"x"}"#, "sub", None);
        check(r#"["sub"]"#, "sub", None);
        check(r#""sub""#, "sub", None);
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        for token in [
            "",
            ".",
            "..",
            "...",
            "e30.eyJzdWIiOiJhIn0",
            "e30.eyJzdWIiOiJhIn0.s.",
            "e30.eyJzdWIiOiJhIn0.a.b.c",
            "e30.!!!!.s",
            "e30.eyJzdWIiOiJhIn0x.s",
            "e30.eyJzdWIiOiJhI.s",
        ] {
            assert_eq!(claim_of(token.as_bytes(), "sub"), None, "{token}");
        }
        assert_eq!(
            claim_of(b"e30.eyJzdWIiOiJhIn0.", "sub").as_deref(),
            Some("a"),
            "unsecured, RFC 7519 section 6"
        );
        assert_eq!(claim_of(b"e30.eyJzdWIiOiJhIn0=.s", "sub").as_deref(), Some("a"), "padded");
        assert_eq!(claim(r#"{"sub":"a"} {"#, "sub"), None);
        assert_eq!(claim(r#"{"sub":"a""#, "sub"), None);
        assert_eq!(claim(&format!(r#"{{"x":{}}}"#, "[".repeat(5000)), "sub"), None);
        assert_eq!(claim(&format!(r#"{{"pad":"{}","sub":"a"}}"#, "x".repeat(MAX_PAYLOAD)), "sub"), None);
        let deep = format!(r#"{{"x":{}{},"sub":"a"}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(claim(&deep, "sub").as_deref(), Some("a"));
    }
}
