//! Kernel event -> connection -> HTTP exchange -> route and consumer -> counters -> hub message.

pub mod hub;
pub mod pipeline;
pub mod probe;
