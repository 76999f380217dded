//! Messages as JSON lines on stdout, exactly as they would be sent: `--dry-run` and `replay`.

use std::{
    io::{self, Write as _},
    sync::Once,
};

use serde::Serialize;
use tracing::error;

use crate::{
    hub::{Startup, Sync},
    otlp::Export,
    pipeline::ledger::{Coverage, Ledger},
    request_log::item::Item,
};

#[derive(Serialize)]
struct Line<'a, M> {
    kind: &'a str,
    /// The process the target is known by.
    target: u32,
    message: M,
}

pub fn print_startup(pid: u32, message: &Startup) {
    print("startup", pid, message);
}

pub fn print_sync(pid: u32, message: &Sync) {
    print("sync", pid, message);
}

/// In OTLP's own JSON; the kind is the signal.
pub fn print_export(pid: u32, export: &Export) {
    print(export.signal().as_str(), pid, export);
}

pub fn print_log(pid: u32, item: &Item) {
    print("log", pid, item);
}

pub fn print_ledger(pid: u32, ledger: &Ledger) {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        ledger.fields().map(|(name, count)| (name.to_owned(), count.into())).collect();
    fields.insert("coverage".to_owned(), ledger.coverage().map(Coverage::percent).into());
    print("ledger", pid, fields);
}

fn print(kind: &str, target: u32, message: impl Serialize) {
    let line = serde_json::to_string(&Line { kind, target, message }).expect("messages are plain data");
    // A reader that has gone away is no reason to stop watching; the log goes on.
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            error!(%error, "cannot print messages on stdout, they are lost from here on; look at where it leads");
        });
    }
}
