//! Ships counts to Apitally: the network edge, and the only place that knows its wire protocol.
//!
//! [`Hub::start`] spawns one task per client id and environment. Whoever watches the targets asks each
//! target's [`SyncTimer`] when a message is due, takes that target's counts, makes a [`Sync`] of them and
//! hands it over without waiting; the task keeps it in a [`crate::spool`] and delivers it, up to an hour later, if need
//! be after a restart. A message names its
//! target by the instance identity that [`Instance::claim`] took for it.
//!
//! Never here: an HTTP server of any kind, or anything about how the counts came about. Never in a log: the
//! client id, URLs and bodies of replies.

mod announce;
mod client;
mod config;
mod instance;
mod message;
mod queue;
mod schedule;

pub use announce::Announcements;
pub use client::{Answer, Condition, Hub, HubConfig, HubState, LastAnswer};
pub use config::{BaseUrl, BaseUrlError, ClientId, ClientIdError, Env, EnvError};
pub use instance::Instance;
pub use message::{App, ConsumerItem, PathItem, RequestsItem, Resources, Startup, Sync};
pub use queue::Dropped;
pub use schedule::{Pace, SyncTimer};
