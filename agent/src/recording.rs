//! Recorded taps: what the kernel side delivered, in a file, to be run through the pipeline again.
//!
//! A file is the eight bytes of [`MAGIC`], whose last one is the version, and then frames:
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | length of the payload, little endian, at most [`MAX_PAYLOAD`] |
//! | 4 | CRC-32 (IEEE) of the payload |
//! | n | payload: one byte for its kind, then the content |
//!
//! The content of a *target* frame is its id, its process, and its local ports (u32, u32, any number of u16).
//! The content of a *record* frame is a record as it stood in the ring buffer, without the rest of its size
//! class. Numbers in records are in the order of the machine that wrote them; there are only little-endian
//! ones among those we run on.
//!
//! A recording holds what was captured, secrets in headers and bodies included. It is created readable for
//! its owner alone.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use agent_common::{conn::TargetId, event, limits::PIECE_MAX};

/// What a recording begins with: a name and a version.
const MAGIC: [u8; 8] = *b"APITTAP\x01";
/// Largest payload of a frame, bytes.
const MAX_PAYLOAD: usize = 1 + event::HEADER_LEN + PIECE_MAX;
/// A target with more ports than this is none we wrote.
const MAX_PORTS: usize = 1024;

const TARGET: u8 = 1;
const RECORD: u8 = 2;

/// Writes a recording.
pub struct Recorder<W: Write> {
    out: W,
    payload: Vec<u8>,
}

impl Recorder<BufWriter<File>> {
    /// Creates the file, or empties the one that is there.
    ///
    /// # Errors
    /// When it cannot be created or written to.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // One that was there keeps its mode otherwise. A pipe or a terminal has none that matters.
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Self::new(BufWriter::with_capacity(256 * 1024, file))
    }
}

impl<W: Write> Recorder<W> {
    /// # Errors
    /// When the beginning cannot be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Self { out, payload: Vec::with_capacity(MAX_PAYLOAD) })
    }

    /// Says whose records follow under this id.
    ///
    /// # Errors
    /// When the frame cannot be written.
    pub fn target(&mut self, id: TargetId, pid: u32, ports: &[u16]) -> io::Result<()> {
        self.payload.clear();
        self.payload.push(TARGET);
        self.payload.extend_from_slice(&id.to_le_bytes());
        self.payload.extend_from_slice(&pid.to_le_bytes());
        self.payload.extend(ports.iter().take(MAX_PORTS).flat_map(|port| port.to_le_bytes()));
        self.frame()
    }

    /// Keeps a record; `bytes` are those of the ring buffer.
    ///
    /// # Errors
    /// When the frame cannot be written.
    pub fn record(&mut self, bytes: &[u8], len: usize) -> io::Result<()> {
        self.payload.clear();
        self.payload.push(RECORD);
        self.payload.extend_from_slice(bytes.get(..len).unwrap_or(bytes));
        self.frame()
    }

    /// # Errors
    /// When what is buffered cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn frame(&mut self) -> io::Result<()> {
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&crc32fast::hash(&self.payload).to_le_bytes())?;
        self.out.write_all(&self.payload)
    }
}

/// One frame of a recording.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Target {
        id: TargetId,
        pid: u32,
        ports: Vec<u16>,
    },
    /// Bytes of a record, to be decoded.
    Record(&'a [u8]),
}

/// Why a recording cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("this is no recording; give a file that --record has written")]
    NotARecording,
    #[error("a recording of version {found}, and this agent reads version {ours}; record it anew", ours = MAGIC[7])]
    Version { found: u8 },
    #[error("damaged at byte {at}, where {what}; what is before that was replayed")]
    Damaged { at: u64, what: &'static str },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a recording, frame by frame, up to its end or the first damage.
pub struct Reader<R: Read> {
    input: R,
    /// Bytes read so far.
    at: u64,
    payload: Vec<u8>,
}

impl Reader<BufReader<File>> {
    /// # Errors
    /// When the file cannot be opened or does not begin like a recording.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::new(BufReader::with_capacity(256 * 1024, File::open(path)?))
    }
}

impl<R: Read> Reader<R> {
    /// # Errors
    /// When `input` does not begin like a recording of our version.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let mut magic = [0; 8];
        match input.read_exact(&mut magic) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ReadError::NotARecording);
            }
            other => other?,
        }
        if magic[..7] != MAGIC[..7] {
            return Err(ReadError::NotARecording);
        }
        if magic[7] != MAGIC[7] {
            return Err(ReadError::Version { found: magic[7] });
        }
        Ok(Self { input, at: 8, payload: Vec::new() })
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// At the first damage. What was read before it is good; nothing behind it can be.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        let at = self.at;
        let damaged = |what| ReadError::Damaged { at, what };
        let mut head = [0; 8];
        match read_some(&mut self.input, &mut head)? {
            0 => return Ok(None),
            8 => {}
            _ => return Err(damaged("it ends inside a frame's head")),
        }
        let [len, crc] =
            [&head[..4], &head[4..]].map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default()));
        let len = len as usize;
        if len == 0 || len > MAX_PAYLOAD {
            return Err(damaged("a frame's length is impossible"));
        }
        self.payload.resize(len, 0);
        if read_some(&mut self.input, &mut self.payload)? < len {
            return Err(damaged("it ends inside a frame"));
        }
        if crc32fast::hash(&self.payload) != crc {
            return Err(damaged("a frame's checksum does not match"));
        }
        self.at = at + 8 + len as u64;
        parse(&self.payload).map(Some).ok_or(damaged("a frame is of no kind that this version has"))
    }
}

fn parse(payload: &[u8]) -> Option<Frame<'_>> {
    let (kind, content) = payload.split_first()?;
    match *kind {
        RECORD => Some(Frame::Record(content)),
        TARGET => {
            let (id, rest) = content.split_first_chunk()?;
            let (pid, ports) = rest.split_first_chunk()?;
            let ports = ports.chunks_exact(2).map(|port| u16::from_le_bytes([port[0], port[1]])).collect();
            Some(Frame::Target { id: u32::from_le_bytes(*id), pid: u32::from_le_bytes(*pid), ports })
        }
        _ => None,
    }
}

/// Fills `buffer` as far as there is something to fill it with.
fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut recorder = Recorder::new(Vec::new()).unwrap();
        recorder.target(1, 4242, &[80, 8080]).unwrap();
        recorder.record(b"record one........", 10).unwrap();
        recorder.record(b"two", 3).unwrap();
        recorder.out
    }

    /// Frames up to the end or the damage, and how it ended.
    fn read(bytes: &[u8]) -> (usize, Result<(), String>) {
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(error) => return (0, Err(error.to_string())),
        };
        let mut frames = 0;
        loop {
            match reader.next_frame() {
                Ok(Some(_)) => frames += 1,
                Ok(None) => return (frames, Ok(())),
                Err(error) => return (frames, Err(error.to_string())),
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = sample();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let target = Frame::Target { id: 1, pid: 4242, ports: vec![80, 8080] };
        assert_eq!(reader.next_frame().unwrap(), Some(target));
        assert_eq!(reader.next_frame().unwrap(), Some(Frame::Record(b"record one")));
        assert_eq!(reader.next_frame().unwrap(), Some(Frame::Record(b"two")));
        assert_eq!(reader.next_frame().unwrap(), None);
    }

    #[test]
    fn a_truncated_recording_is_read_up_to_the_cut() {
        let whole = sample();
        // Where a frame ends: behind the mark, 8 + 13 bytes of a target, 8 + 11 and 8 + 4 bytes of records.
        let ends = [8, 29, 48, 60];
        for cut in 0..=whole.len() {
            let (frames, end) = read(&whole[..cut]);
            let complete = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(frames, complete.saturating_sub(1), "{cut}: {end:?}");
            assert_eq!(end.is_ok(), ends.contains(&cut), "{cut}: {end:?}");
        }
        assert!(read(&whole[..whole.len() - 1]).1.unwrap_err().contains("ends inside a frame"));
        assert_eq!(read(&whole), (3, Ok(())));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let whole = sample();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            assert!(read(&damaged).1.is_err(), "byte {at}");
        }
        assert!(read(b"").1.unwrap_err().contains("no recording"));
        assert!(read(b"APITTAP\x09").1.unwrap_err().contains("version 9"));
    }
}
