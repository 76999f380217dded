//! Who has the machine. Tests that look at times or at CPU use want it alone; the others may run side by side.
//!
//! A lock on a file, so that it holds between test programs too and goes away with whoever held it.

use std::fs::File;

/// Held as long as the machine is used in the way asked for.
#[must_use = "the machine is given back when this is dropped"]
#[derive(Debug)]
pub struct Machine {
    _lock: File,
}

/// Waits until no other test runs, and keeps them waiting.
pub fn alone() -> Machine {
    let lock = open();
    lock.lock().expect("the lock file can be locked");
    Machine { _lock: lock }
}

/// Waits until no test runs that wants to be alone, and keeps such tests waiting.
pub fn in_company() -> Machine {
    let lock = open();
    lock.lock_shared().expect("the lock file can be locked");
    Machine { _lock: lock }
}

fn open() -> File {
    let path = std::env::temp_dir().join("apitally-agent-tests.lock");
    File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
