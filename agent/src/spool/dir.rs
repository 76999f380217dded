//! The directory of a spool: one file for each message, and a lock that says whose they are.
//!
//! A file gets its name when it is complete and on disk, so whoever finds the name finds the message. The name is a
//! number, and the numbers are the order. A directory belongs to one process at a time; what a process leaves behind
//! that is gone, the next one with the same destination takes over.
//!
//! Everything here waits for the disk.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::geteuid,
};
use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};

use super::{
    clock::Moment,
    entry::{self, Damage, Entry, Label, Settled},
};

/// Agents that report to one destination at a time. Further ones keep their messages in memory.
const SLOTS: u32 = 100;
/// No message is that long, bytes; what is longer was not written by us.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// What nobody comes back for is removed when it is that old: no destination takes it any more.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
const LOCK: &str = "lock";
const MESSAGE: &str = ".msg";
const UNFINISHED: &str = ".tmp";

/// Names a message within its spool; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} belongs to another user, or others may write to it", .0.display())]
    NotOurs(PathBuf),
    #[error("all of {SLOTS} directories are in use by other agents")]
    NoneFree,
}

/// A directory that is ours as long as this lives.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    _lock: File,
}

/// What an earlier run left in a directory.
#[derive(Debug, Default)]
pub struct Found {
    /// Whole messages, in order.
    pub messages: Vec<Kept>,
    /// Files that should have been messages and are none; they are removed.
    pub damaged: u64,
    /// Files that we have nothing to do with; they are left alone.
    pub foreign: u64,
}

/// A message on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: Id,
    pub label: Label,
    /// Bytes of its body.
    pub len: usize,
    pub settled: Settled,
}

impl Dir {
    /// Takes the first directory of this destination that nobody has, and moves into it what others left behind.
    ///
    /// `destination` tells destinations apart; it is in no name, only its hash is.
    ///
    /// # Errors
    /// When there is no directory to be had.
    pub fn claim(state_dir: &Path, destination: &str, now: &Moment) -> Result<(Self, Found), ClaimError> {
        let parent = state_dir.join("spool");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| ClaimError::Io { path, error }
        };
        create(&parent).map_err(failed(&parent))?;
        let metadata = fs::symlink_metadata(&parent).map_err(failed(&parent))?;
        if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(ClaimError::NotOurs(parent));
        }
        let digest = Sha256::digest(destination);
        let key: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let slot = |slot: u32| parent.join(format!("{key}-{slot}"));
        for own in 0..SLOTS {
            let path = slot(own);
            create(&path).map_err(failed(&path))?;
            let Some(lock) = lock(&path).map_err(failed(&path))? else { continue };
            let dir = Self { path, _lock: lock };
            let mut found = dir.scan().map_err(failed(&dir.path))?;
            for other in (0..SLOTS).filter(|other| *other != own) {
                dir.adopt(&slot(other), &mut found);
            }
            sweep(&parent, &key, now);
            dir.sync().map_err(failed(&dir.path))?;
            return Ok((dir, found));
        }
        Err(ClaimError::NoneFree)
    }

    /// Writes a message; it is on disk for good after the next [`Self::sync`].
    ///
    /// # Errors
    /// When it is not there, not even in part.
    pub fn store(&self, id: Id, entry: &Entry, settled: Settled) -> io::Result<()> {
        let head = entry::head(entry, settled).ok_or(io::ErrorKind::FileTooLarge)?;
        let unfinished = self.path.join(format!("{id}{UNFINISHED}"));
        let written = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&head)?;
            file.write_all(&entry.body)?;
            file.sync_data()?;
            fs::rename(&unfinished, self.message(id))
        };
        written().inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })
    }

    /// Makes sure that the names of what was stored are on disk.
    ///
    /// # Errors
    /// When the disk does not say so.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// None when it cannot be read any more; that is logged.
    pub fn load(&self, id: Id) -> Option<Entry> {
        let path = self.message(id);
        match read(&path) {
            Ok(Ok((entry, _))) => return Some(entry),
            Ok(Err(damage)) => warn!(path = %path.display(), cause = %damage, "a kept message is damaged"),
            Err(error) => warn!(path = %path.display(), %error, "a kept message cannot be read"),
        }
        None
    }

    pub fn remove(&self, id: Id) {
        let path = self.message(id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %error, "a message is kept on disk, and will be sent once more");
        }
    }

    fn message(&self, id: Id) -> PathBuf {
        self.path.join(format!("{id}{MESSAGE}"))
    }

    /// Reads what is there, and removes what cannot be read.
    fn scan(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match (name, number(name, MESSAGE), number(name, UNFINISHED)) {
                (LOCK, ..) => {}
                (_, Some(id), _) => match read(&path) {
                    Ok(Ok((Entry { label, body }, settled))) => {
                        found.messages.push(Kept { id, label, len: body.len(), settled });
                    }
                    damaged => {
                        let cause = match damaged {
                            Ok(damage) => damage.err().map(|damage| damage.to_string()),
                            Err(error) => Some(error.to_string()),
                        };
                        warn!(path = %path.display(), cause, "a kept message is damaged, it is removed");
                        found.damaged += 1;
                        let _ = fs::remove_file(&path);
                    }
                },
                // Its exchanges are in the account of an agent that was killed.
                (_, _, Some(_)) => {
                    debug!(path = %path.display(), "a message was not written to its end, it is removed");
                    let _ = fs::remove_file(&path);
                }
                _ => {
                    warn!(path = %path.display(), "a file that does not belong here is left alone");
                    found.foreign += 1;
                }
            }
        }
        found.messages.sort_by_key(|kept| kept.id);
        Ok(found)
    }

    /// Moves into this directory what is in another one, if its owner is gone.
    fn adopt(&self, other: &Path, found: &mut Found) {
        if !other.exists() {
            return;
        }
        let Ok(Some(lock)) = lock(other) else { return };
        let other = Self { path: other.to_owned(), _lock: lock };
        let Ok(left) = other.scan() else { return };
        let mut next = Id(found.messages.last().map_or(0, |kept| kept.id.0 + 1));
        for kept in left.messages {
            let from = other.message(kept.id);
            if let Err(error) = fs::rename(&from, self.message(next)) {
                warn!(path = %from.display(), %error, "a message of an agent that is gone stays behind");
                continue;
            }
            found.messages.push(Kept { id: next, ..kept });
            next.0 += 1;
        }
        found.damaged += left.damaged;
        found.foreign += left.foreign;
        other.give_up();
    }

    /// Removes the directory if nothing is left in it.
    fn give_up(self) {
        let _ = fs::remove_file(self.path.join(LOCK));
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes what was left behind for other destinations, once nobody would take it any more.
fn sweep(parent: &Path, key: &str, now: &Moment) {
    for path in fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_slot = name.split_once('-').is_some_and(|(other, slot)| {
            other != key && is_hex(other, 16) && slot.parse::<u32>().is_ok_and(|slot| slot < SLOTS)
        });
        if !is_slot {
            continue;
        }
        let Ok(Some(lock)) = lock(&path) else { continue };
        let dir = Dir { path, _lock: lock };
        let Ok(found) = dir.scan() else { continue };
        if found.messages.iter().all(|kept| kept.label.made.age(now) > FORGOTTEN) {
            if !found.messages.is_empty() {
                let (path, messages) = (dir.path.display(), found.messages.len());
                warn!(%path, messages, "nobody came back for these messages for a day, they are removed");
            }
            found.messages.iter().for_each(|kept| dir.remove(kept.id));
            dir.give_up();
        }
    }
}

fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// None when another process has it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(dir.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Its last owner may have given up the directory between our two steps.
            Ok(()) if file.metadata()?.nlink() == 0 => create(dir)?,
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The message in a file, or what is wrong with it.
fn read(path: &Path) -> io::Result<Result<(Entry, Settled), Damage>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(Err(Damage::Foreign));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(entry::decode(bytes))
}

/// The number in a name like `00000000000000a1.msg`.
fn number(name: &str, suffix: &str) -> Option<Id> {
    let digits = name.strip_suffix(suffix)?;
    is_hex(digits, 16).then(|| u64::from_str_radix(digits, 16).ok().map(Id))?
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
