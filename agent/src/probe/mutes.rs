//! The table of mutes: memory that the programs read and we write, without a system call for each.

use std::sync::atomic::{AtomicU64, Ordering};

use agent_common::{
    conn::{ConnId, Mute, MuteSlot, mute_set},
    limits::{MUTE_SETS, MUTE_SLOTS},
};

use super::shared::Shared;

/// One connection's mute is in one of the slots of its set; a full set gives up the mute of another connection,
/// which costs records and nothing else.
pub struct Mutes {
    table: Shared,
}

/// Words of a [`MuteSlot`], in its order, and of a set.
const SLOT_WORDS: usize = size_of::<MuteSlot>() / size_of::<u64>();
const SET_WORDS: usize = SLOT_WORDS * MUTE_SLOTS;
const _: () = assert!(SLOT_WORDS == 3);

impl Mutes {
    /// Words of the whole table.
    pub const WORDS: usize = SET_WORDS * MUTE_SETS as usize;

    pub fn new(table: Shared) -> Self {
        Self { table }
    }

    /// Puts down what is not needed of a connection.
    pub fn set(&mut self, conn: ConnId, mute: Mute) {
        let set = self.set_of(conn);
        let of = |conn| slots(set).find(|[owner, ..]| owner.load(Ordering::Relaxed) == conn);
        let another = || slots(set).nth(conn as usize % MUTE_SLOTS);
        let Some([owner, ingress_until, egress_until]) = of(conn).or_else(|| of(FREE)).or_else(another)
        else {
            return;
        };
        if owner.load(Ordering::Relaxed) != conn {
            owner.store(FREE, Ordering::Release);
        }
        ingress_until.store(mute.ingress_until, Ordering::Release);
        egress_until.store(mute.egress_until, Ordering::Release);
        owner.store(conn, Ordering::Release);
    }

    /// Takes out a connection that is gone.
    pub fn remove(&mut self, conn: ConnId) {
        for [owner, ..] in slots(self.set_of(conn)) {
            if owner.load(Ordering::Relaxed) == conn {
                owner.store(FREE, Ordering::Release);
            }
        }
    }

    fn set_of(&self, conn: ConnId) -> &[AtomicU64] {
        let start = mute_set(conn) as usize * SET_WORDS;
        self.table.words().get(start..start + SET_WORDS).unwrap_or_default()
    }
}

fn slots(set: &[AtomicU64]) -> impl Iterator<Item = &[AtomicU64; SLOT_WORDS]> {
    set.chunks_exact(SLOT_WORDS).filter_map(|slot| slot.try_into().ok())
}

/// [`MuteSlot::conn`] of a slot that nobody has. No socket has this inode number.
const FREE: ConnId = 0;

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use super::*;

    fn table() -> (File, Mutes) {
        let file = tempfile::tempfile().unwrap();
        file.set_len((Mutes::WORDS * size_of::<u64>()) as u64).unwrap();
        let mutes = Mutes::new(Shared::of_map(file.as_fd(), Mutes::WORDS).unwrap());
        (file, mutes)
    }

    fn of(mutes: &Mutes, conn: ConnId) -> Option<(u64, u64)> {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let slot = slots(mutes.set_of(conn)).find(|slot| load(&slot[0]) == conn)?;
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
