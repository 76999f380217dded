//! Items -> gzip files of JSON lines, as the hub takes them (hub protocol, section 11.1).
//!
//! A file that grows lies in memory, where it is no larger than a file may be: what a crash costs is then what it costs
//! of the counts, one sync interval. Once it is closed it is a message like others, kept on disk until it is delivered.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use uuid::Uuid;

use super::item::Item;

/// A file with more than this is closed, bytes once compressed. The last item may make it larger, by less than 300 kB:
/// two heads and two bodies.
pub const MAX_FILE: usize = 1_000_000;

/// A complete file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its identity towards the hub, the same at each try.
    pub uuid: Uuid,
    /// Lines of JSON, compressed.
    pub gzip: Vec<u8>,
    pub items: u64,
}

/// The file that is being written. Empty when there is nothing to write.
#[derive(Debug, Default)]
pub struct LogWriter {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    encoder: GzEncoder<Vec<u8>>,
    items: u64,
}

impl LogWriter {
    /// Adds a line; gives the file when it is full.
    pub fn write(&mut self, item: &Item) -> Option<LogFile> {
        // Bodies are what costs time: several megabytes a second are possible, beside someone else's work.
        let begin = || Open { encoder: GzEncoder::new(Vec::new(), Compression::fast()), items: 0 };
        let open = self.open.get_or_insert_with(begin);
        let mut line = serde_json::to_vec(item).expect("items are plain data");
        line.push(b'\n');
        open.encoder.write_all(&line).expect("memory can be written to");
        open.items += 1;
        if open.encoder.get_ref().len() > MAX_FILE { self.close() } else { None }
    }

    /// Ends the file; None when there is nothing in it.
    pub fn close(&mut self) -> Option<LogFile> {
        let Open { encoder, items } = self.open.take()?;
        let gzip = encoder.finish().expect("memory can be written to");
        Some(LogFile { uuid: Uuid::new_v4(), gzip, items })
    }

    /// Lets the file go; gives the number of its items.
    pub fn discard(&mut self) -> u64 {
        self.open.take().map_or(0, |open| open.items)
    }
}
