//! Files that belong to one process at a time, and are there again for the next.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

/// Processes that can have a file of one kind and key.
pub const SLOTS: u32 = 100;

/// Makes a directory for its owner alone, unless it is there.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Opens the first of `{kind}_{key}_0.lock`, `{kind}_{key}_1.lock` and so on that no other process has, and locks it
/// for as long as the file is open. Makes the directory, for its owner alone, and the file, where they are missing.
/// None when all are in use.
///
/// # Errors
/// When the directory cannot be used.
pub fn claim(dir: &Path, kind: &str, key: &str) -> io::Result<Option<File>> {
    make_dir(dir)?;
    for slot in 0..SLOTS {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // what the last one left
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(dir.join(format!("{kind}_{key}_{slot}.lock")))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
