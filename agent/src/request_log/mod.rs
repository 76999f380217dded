//! What of single exchanges may leave the host, where the user switched that on.
//!
//! Never here: anything unmasked that is written, sent or logged.

pub mod mask;
pub mod patterns;
