//! Files about consumers that the user keeps: what they are called, and the key of hashed identifiers.
//!
//! Nothing of what is in them is in an error: identifiers may be secrets. A message names file and line.

mod entries;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::pipeline::consumer::{Key, KeyError, NameTable};

/// Largest file of names that is read, bytes.
pub const MAX_NAMES_BYTES: u64 = 64 * 1024 * 1024;

/// Largest key file that is read, bytes.
pub const MAX_KEY_BYTES: u64 = 64 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("cannot tell how {} is written; its name must end in .toml, .json or .csv", path.display())]
    Format { path: PathBuf },
    #[error("{} has {saw} bytes; at most {max} are read", path.display())]
    TooLarge { path: PathBuf, saw: u64, max: u64 },
    #[error("{}:{line}: {what}", path.display())]
    Content { path: PathBuf, line: usize, what: String },
    #[error("{}: {error}; `openssl rand -hex 32` makes a good one", path.display())]
    Key { path: PathBuf, error: KeyError },
}

impl FileError {
    /// Whether it could not be read at all, as opposed to what is in it.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }
}

/// A file that says what consumers are called: TOML, JSON or CSV, by the end of its name. It is read again when it
/// changes; a file that cannot be used changes nothing.
#[derive(Debug)]
pub struct NamesFile {
    path: PathBuf,
    format: Format,
    key: Key,
    /// As it was when it was last read; None when it could not be.
    read: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Toml,
    Json,
    Csv,
}

/// What of a file changes with its content: another inode when it was replaced, otherwise its length and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl NamesFile {
    /// Reads the file. `key` is that of the rules its consumers are found by.
    ///
    /// # Errors
    /// When it cannot be read, or something in it cannot be used; see [`FileError`].
    pub fn open(path: &Path, key: &Key) -> Result<(Self, NameTable), FileError> {
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("toml") => Format::Toml,
            Some(extension) if extension.eq_ignore_ascii_case("json") => Format::Json,
            Some(extension) if extension.eq_ignore_ascii_case("csv") => Format::Csv,
            _ => return Err(FileError::Format { path: path.to_owned() }),
        };
        let mut file = Self { path: path.to_owned(), format, key: key.clone(), read: None };
        let table = file.load()?;
        Ok((file, table))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again if it is another one, or has another length or time, than when it was last read; to be
    /// called about once a second. None when nothing has changed, or the same thing is still wrong with it.
    pub fn reload_if_changed(&mut self) -> Option<Result<NameTable, FileError>> {
        let found = fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        (found != self.read).then(|| self.load())
    }

    fn load(&mut self) -> Result<NameTable, FileError> {
        // Taken before the content: what is written meanwhile shows next time.
        self.read = fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        let bytes = read(&self.path, MAX_NAMES_BYTES)?;
        let content = |line, what| FileError::Content { path: self.path.clone(), line, what };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes); // spreadsheets begin so
        let text = str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            content(line_of(before, before.len()), "this is no UTF-8".to_owned())
        })?;
        let read = match self.format {
            Format::Toml => entries::read_toml(text, &self.key),
            Format::Json => entries::read_json(text, &self.key),
            Format::Csv => entries::read_csv(text, &self.key),
        };
        read.map_err(|fault| content(fault.line, fault.what))
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

/// A key for hashed identifiers, out of a file.
#[derive(Debug)]
pub struct KeyFile {
    pub key: Key,
    /// Any user of this host can read it, which is worth a warning.
    pub is_world_readable: bool,
}

impl KeyFile {
    /// Reads the whole file; blanks and line ends around its content do not count.
    ///
    /// # Errors
    /// When it cannot be read, or is too short or too large for a key.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = read(path, MAX_KEY_BYTES)?;
        let key =
            Key::from_secret(&bytes).map_err(|error| FileError::Key { path: path.to_owned(), error })?;
        Ok(Self { key, is_world_readable: is_world_readable(path) })
    }
}

/// Whether any user of this host can read a file, as far as its own mode goes.
pub fn is_world_readable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

/// The content of a file of at most `max` bytes.
fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let unreadable = |error| FileError::Unreadable { path: path.to_owned(), error };
    // Looked at before it is opened, since opening a pipe waits for a writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("this is not a file")));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    let saw = metadata.len().max(bytes.len() as u64);
    if saw > max { Err(FileError::TooLarge { path: path.to_owned(), saw, max }) } else { Ok(bytes) }
}

/// Line of the byte at `at`, counted from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests;
