//! Who has the machine. Tests that look at times or at CPU use want it alone; the others may run side by side.
//!
//! A lock on a file, so that it holds between test programs too and goes away with whoever held it.

use std::fs::{self, File};

use rustix::process::setpriority_process;

const FIRST: i32 = -15;
const USUAL: i32 = 0;

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

/// Who has this goes before everyone else on the machine, with all that it starts, until it is dropped.
#[must_use = "the turn is given back when this is dropped"]
#[derive(Debug)]
pub struct FirstInLine(());

/// For tests that compare times: a client that waits for the processor measures that, and nothing of the server.
///
/// Where the kernel takes no priorities from us (a container without the right to set them) nothing changes, and
/// it depends on how busy the machine is whether such a test can pass.
pub fn first_in_line() -> FirstInLine {
    set_priority(FIRST);
    FirstInLine(())
}

impl Drop for FirstInLine {
    fn drop(&mut self) {
        set_priority(USUAL);
    }
}

/// Where the kernel groups processes by session, priorities count only inside of a group, and the group has one of
/// its own.
fn set_priority(nice: i32) {
    let _ = setpriority_process(None, nice);
    let _ = fs::write("/proc/self/autogroup", nice.to_string());
}

fn open() -> File {
    let path = std::env::temp_dir().join("apitally-agent-tests.lock");
    File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
