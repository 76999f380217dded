//! Ring buffer -> records.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

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

    /// Hands over the bytes of up to `max` waiting records; returns how many there were.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < max
            && let Some(item) = self.ring.next()
        {
            each(&item);
            count += 1;
        }
        count
    }

    /// Something to wait on: readable when the kernel side has asked for attention.
    ///
    /// # Errors
    /// When the descriptor cannot be registered with the runtime.
    pub fn readiness(&self) -> io::Result<AsyncFd<OwnedFd>> {
        readiness(self.ring.as_fd())
    }
}

/// Registers a copy of a descriptor with the runtime.
///
/// # Errors
/// When there are no descriptors left, or the runtime refuses it.
#[expect(
    deprecated,
    reason = "unsound for types that change their descriptor; an OwnedFd does not, and the replacement is unsafe"
)]
pub fn readiness(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd.try_clone_to_owned()?, Interest::READABLE)
}
