//! The recording that is made while the daemon runs.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::Path,
};

use agent_common::{decode::Record, event::HEADER_LEN};
use tracing::{error, warn};

use crate::{exit::Failure, recording::Recorder, watch::Target};

/// What `--record` asks for. A recording that cannot be written on ends; the watching does not.
pub struct Tape {
    recorder: Option<Recorder<BufWriter<File>>>,
}

impl Tape {
    pub fn create(path: Option<&Path>) -> Result<Self, Failure> {
        let recorder = path.map(Recorder::create).transpose();
        if let (Some(path), Ok(_)) = (path, &recorder) {
            warn!(path = %path.display(), "recording what the targets read and write, secrets included, unmasked");
        }
        Ok(Self {
            recorder: recorder.map_err(|error| Failure::Io { doing: "create the --record file", error })?,
        })
    }

    /// `ports` are those of its policy.
    pub fn target(&mut self, target: &Target, ports: &[u16]) {
        self.write(|recorder| recorder.target(target.id, target.pid, ports));
    }

    pub fn record(&mut self, bytes: &[u8], record: &Record<'_>) {
        let captured = if let Record::Data(data) = record { data.bytes.len() } else { 0 };
        self.write(|recorder| recorder.record(bytes, HEADER_LEN + captured));
    }

    pub fn finish(&mut self) {
        self.write(Recorder::flush);
    }

    fn write(&mut self, write: impl FnOnce(&mut Recorder<BufWriter<File>>) -> io::Result<()>) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            error!(%error, "the recording cannot be written on and ends here; look at the space on its disk");
            self.recorder = None;
        }
    }
}
