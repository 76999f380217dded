//! What the fuzzer feeds the agent, and what must hold whatever it feeds.
//!
//! A target is a function of bytes, `check` of the module that bears its name, which panics when something
//! does not hold. `targets/` hands them to libFuzzer, `tests/replay.rs` runs them on the seeds and on what was
//! found before. Where bytes stand for something with a structure, they are choices (`arbitrary`).

pub mod account;
pub mod dialog;
pub mod tap;

pub mod bodies;
pub mod dialogs;
pub mod errors;
pub mod events;
pub mod heads;
pub mod labels;
pub mod recordings;
pub mod records;
pub mod secrets;
pub mod streams;

/// Panics when something does not hold for these bytes.
pub type Check = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: [(&str, Check); 10] = [
    ("bodies", bodies::check),
    ("dialogs", dialogs::check),
    ("errors", errors::check),
    ("events", events::check),
    ("heads", heads::check),
    ("labels", labels::check),
    ("recordings", recordings::check),
    ("records", records::check),
    ("secrets", secrets::check),
    ("streams", streams::check),
];
