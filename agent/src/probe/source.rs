//! Ring buffer -> records.

use std::os::fd::{AsRawFd, RawFd};

use agent_common::decode::{DecodeError, Record, decode};
use aya::maps::{Map, MapData, MapError, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// The ring buffer's reading end. Each record is read once, in the order in which the kernel reserved them.
pub struct Records {
    ring: RingBuf<MapData>,
}

impl TryFrom<Map> for Records {
    type Error = MapError;

    fn try_from(map: Map) -> Result<Self, MapError> {
        RingBuf::try_from(map).map(Self::new)
    }
}

impl Records {
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Hands over up to `max` waiting records; returns how many there were.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(Result<Record<'_>, DecodeError>)) -> usize {
        let mut count = 0;
        while count < max
            && let Some(item) = self.ring.next()
        {
            each(decode(&item));
            count += 1;
        }
        count
    }

    /// Something to wait on: readable when the kernel side has asked for attention.
    ///
    /// # Errors
    /// When the descriptor cannot be registered with the runtime.
    pub fn readiness(&self) -> std::io::Result<AsyncFd<RawFd>> {
        AsyncFd::with_interest(self.ring.as_raw_fd(), Interest::READABLE)
    }
}
