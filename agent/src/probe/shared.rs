//! Memory of a map that the programs and we see alike, without a system call for each look.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{NonNull, null_mut},
    slice,
    sync::atomic::AtomicU64,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The mapped values of an array map (`BPF_F_MMAPABLE`), as the words they consist of.
pub struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory belongs to the value, and is accessed by atomic operations alone.
unsafe impl Send for Shared {}
// SAFETY: likewise.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the first `words` words of a map's values.
    ///
    /// # Errors
    /// When the kernel refuses: the map has less, or there is no memory.
    pub fn of_map(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = words * size_of::<AtomicU64>();
        // SAFETY: a fresh mapping at a place of the kernel's choice; no other memory is touched.
        let start = unsafe { mmap(null_mut(), bytes, protection, MapFlags::SHARED, map, 0) }?;
        Ok(Self { start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?, words })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many words are mapped, at the beginning of a page, for as long as `self` lives; the kernel
        // has zeroed them, and atomics may be shared with it.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
        debug_assert!(unmapped.is_ok());
    }
}
