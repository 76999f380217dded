//! Bodies of responses: in any content coding, and whatever they say of errors.

use agent::pipeline::{
    coding::{MAX_DECODED, decode},
    errors::{
        Said, Says,
        server::{MAX_KIND, MAX_MESSAGE, MAX_TRACEBACK, ServerError},
        validation::ValidationError,
    },
};

/// Codings that a body may be said to be in.
const CODINGS: [&str; 7] = ["", "gzip", "deflate", "br", "zstd", "br, gzip", "zstd, deflate, gzip"];

/// Decodes the body in every way, and reads whatever comes of it.
pub fn check(input: &[u8]) {
    for coding in CODINGS {
        let Ok(body) = decode(input, coding.as_bytes()) else { continue };
        assert!(coding.is_empty() || body.len() <= MAX_DECODED, "{} bytes", body.len());
        for status in [400, 422, 404, 500] {
            for has_allow in [false, true] {
                read(status, has_allow, &body);
            }
        }
    }
}

/// What it says is bounded, whatever it says.
fn read(status: u16, has_allow: bool, body: &[u8]) {
    let says = Says::of(status, b"application/problem+json").expect("such bodies are wanted");
    match Said::read(says, status, has_allow, body) {
        Said::Nothing => {}
        Said::WrongRequest(found) => {
            assert!((1..=1000).contains(&found.errors.len()));
            let text: usize = found.errors.iter().map(ValidationError::text).sum();
            // One error may be as long as the body, each of its bytes a part of the place.
            assert!(text <= 1024 * 1024 + 32 * MAX_DECODED, "{text} bytes");
        }
        Said::ServerError(ServerError { kind, message, traceback }) => {
            assert!(kind.chars().count() <= MAX_KIND);
            assert!(message.chars().count() <= MAX_MESSAGE);
            assert!(traceback.chars().count() <= MAX_TRACEBACK);
            assert!(!(message.is_empty() && traceback.is_empty() && kind.is_empty()));
        }
    }
}
