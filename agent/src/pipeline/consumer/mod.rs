//! A request's head and its connection -> consumer: who called, in the hub's sense.
//!
//! [`ConsumerRules`] say where to look ([`source`]), in order; the first rule that finds something decides.
//! [`Consumers`] keeps those that were found, and what they are called ([`names`]). A credential is hashed before it
//! is stored or compared, so nothing here holds one.

pub mod address;
pub mod certificate;
pub mod jwt;
pub mod key;
pub mod names;
pub mod registry;
pub mod rules;
pub mod source;

pub use self::{
    address::Forwarding,
    certificate::CertificatePart,
    key::{Key, KeyError, is_sensitive_name, is_sensitive_parameter},
    names::{NameError, NameTable},
    registry::{ConsumerId, Consumers, Identified, OTHERS},
    rules::{ConsumerRule, ConsumerRules, Hashing, RuleError},
    source::{Evidence, Source},
};

/// Longest identifier, characters; the hub's bound.
pub const MAX_IDENTIFIER: usize = 128;

/// Longest name or group, characters; the hub's bound.
pub const MAX_NAME: usize = 64;
