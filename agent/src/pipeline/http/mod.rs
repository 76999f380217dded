//! HTTP/1.x as RFC 9112 frames it: heads, how long a body is, one direction, and the pairing of the two.

pub mod body;
pub mod exchange;
pub mod framing;
pub mod head;
mod pairs;
pub mod parser;
