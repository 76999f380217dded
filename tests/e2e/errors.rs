//! What bad input gets: one line that says what is wrong and what to do, the right exit code, a target that is
//! served as before, and no request lost that the hub's protocol lets us keep.

pub mod attempt;
mod command_line;
mod configuration;
mod host;
mod hub;
mod output;
mod seccomp;
mod target;
