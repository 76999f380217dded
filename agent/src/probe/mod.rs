//! The kernel edge: puts the programs into the kernel, tells them whom to watch, brings their records back.

pub mod btf;
pub mod cgroup;
pub mod clock;
pub mod container;
mod counters;
pub mod descriptors;
pub mod discover;
pub mod host;
pub mod load;
mod mutes;
pub mod program;
pub mod resources;
mod shared;
pub mod software;
pub mod source;
