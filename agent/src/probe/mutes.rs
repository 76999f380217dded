//! The table of mutes: memory that the programs read and we write, without a system call for each.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU64, Ordering},
};

use agent_common::{
    conn::{ConnId, Mute, MuteSet, MuteSlot, mute_set},
    limits::{MUTE_SETS, MUTE_SLOTS},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The mapped table. One connection's mute is in one of the slots of its set; a full set gives up the mute of
/// another connection, which costs records and nothing else.
pub struct Mutes {
    table: NonNull<AtomicU64>,
}

/// A slot as the words it consists of, in the order of [`MuteSlot`].
type Slot = [AtomicU64; SLOT_WORDS];
const SLOT_WORDS: usize = size_of::<MuteSlot>() / size_of::<u64>();
const _: () = assert!(SLOT_WORDS == 3);
const TABLE_BYTES: usize = size_of::<MuteSet>() * MUTE_SETS as usize;

// SAFETY: the memory belongs to the value, and is accessed by atomic operations alone.
unsafe impl Send for Mutes {}

impl Mutes {
    /// Maps the map's memory.
    ///
    /// # Errors
    /// When the kernel refuses, for lack of memory.
    pub fn of_map(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a fresh mapping at a place of the kernel's choice; no other memory is touched.
        let address = unsafe {
            mmap(null_mut(), TABLE_BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }?;
        let table = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { table })
    }

    /// Puts down what is not needed of a connection.
    pub fn set(&mut self, conn: ConnId, mute: Mute) {
        let slots = self.slots(conn);
        let of = |conn| slots.iter().find(|slot| slot[0].load(Ordering::Relaxed) == conn);
        let slot = match (of(conn), of(FREE)) {
            (Some(slot), _) | (None, Some(slot)) => slot,
            (None, None) => &slots[conn as usize % MUTE_SLOTS],
        };
        let [owner, ingress_until, egress_until] = slot;
        if owner.load(Ordering::Relaxed) != conn {
            owner.store(FREE, Ordering::Release);
        }
        ingress_until.store(mute.ingress_until, Ordering::Release);
        egress_until.store(mute.egress_until, Ordering::Release);
        owner.store(conn, Ordering::Release);
    }

    /// Takes out a connection that is gone.
    pub fn remove(&mut self, conn: ConnId) {
        for slot in self.slots(conn).iter().filter(|slot| slot[0].load(Ordering::Relaxed) == conn) {
            slot[0].store(FREE, Ordering::Release);
        }
    }

    fn slots(&self, conn: ConnId) -> &[Slot; MUTE_SLOTS] {
        let set = mute_set(conn) as usize;
        // SAFETY: `mute_set` is below `MUTE_SETS`, so the set lies in the mapping, which lives as long as `self`;
        // it is zeroed memory at first, and atomics may be shared with the kernel.
        unsafe { self.table.cast::<[Slot; MUTE_SLOTS]>().add(set).as_ref() }
    }
}

impl Drop for Mutes {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no reference into it outlives a call.
        let unmapped = unsafe { munmap(self.table.as_ptr().cast(), TABLE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

/// [`MuteSlot::conn`] of a slot that nobody has. No socket has this inode number.
const FREE: ConnId = 0;

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use super::*;

    fn table() -> (File, Mutes) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(TABLE_BYTES as u64).unwrap();
        let mutes = Mutes::of_map(file.as_fd()).unwrap();
        (file, mutes)
    }

    fn of(mutes: &Mutes, conn: ConnId) -> Option<(u64, u64)> {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let slot = mutes.slots(conn).iter().find(|slot| load(&slot[0]) == conn)?;
        Some((load(&slot[1]), load(&slot[2])))
    }

    #[test]
    fn a_mute_stays_until_it_is_replaced_or_removed() {
        let (_file, mut mutes) = table();
        mutes.set(7, Mute { ingress_until: 1, egress_until: 2 });
        mutes.set(8, Mute::FOR_GOOD);
        mutes.set(7, Mute { ingress_until: 3, egress_until: 2 });
        assert_eq!((of(&mutes, 7), of(&mutes, 8)), (Some((3, 2)), Some((u64::MAX, u64::MAX))));
        mutes.remove(7);
        assert_eq!((of(&mutes, 7), of(&mutes, 8)), (None, Some((u64::MAX, u64::MAX))));
    }

    #[test]
    fn a_full_set_gives_up_one_mute_for_the_next() {
        let (_file, mut mutes) = table();
        let same_set: Vec<ConnId> = (1..).filter(|conn| mute_set(*conn) == mute_set(1)).take(5).collect();
        for conn in &same_set {
            mutes.set(*conn, Mute { ingress_until: *conn, egress_until: 0 });
        }
        let kept: Vec<_> = same_set.iter().filter(|conn| of(&mutes, **conn).is_some()).collect();
        assert_eq!(kept.len(), MUTE_SLOTS);
        assert_eq!(of(&mutes, same_set[4]), Some((same_set[4], 0)));
    }
}
