//! When a target is announced again: pure, syncs are handed in.

/// At most so many syncs are between a route that is new and the start-up message that lists it: a minute while a watch
/// is young.
const PATIENCE: u32 = 6;

/// What the hub was told of a target's routes. The start-up message goes out before the first sync, and again with the
/// full list, since whether the hub merges lists is not known. Not for every new route: of a target that is young, each
/// sync finds some. It is sent when the list has doubled, so that a young target shows up at once and costs a dozen
/// messages at most, and else with the last of [`PATIENCE`] syncs.
#[derive(Debug, Default)]
pub struct Announcements {
    last: Option<Announcement>,
}

#[derive(Debug)]
struct Announcement {
    generation: u64,
    routes: usize,
    /// Syncs since then.
    syncs: u32,
}

impl Announcements {
    /// To be asked once before each sync. `generation` moves when the list of routes changes. When it is due, it is
    /// taken as sent.
    pub fn take_due(&mut self, generation: u64, routes: usize) -> bool {
        if let Some(last) = &mut self.last {
            last.syncs = last.syncs.saturating_add(1);
            let is_worth_it = routes >= 2 * last.routes || routes < last.routes || last.syncs >= PATIENCE;
            if last.generation == generation || !is_worth_it {
                return false;
            }
        }
        self.last = Some(Announcement { generation, routes, syncs: 0 });
        true
    }

    /// Is there anything that the hub was not told?
    pub fn is_behind(&self, generation: u64) -> bool {
        self.last.as_ref().is_none_or(|last| last.generation != generation)
    }

    /// The target is another process now: it is announced before its next sync.
    pub fn restart(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many routes each announcement lists, when there are so many at each sync.
    fn announced(routes: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut announcements = Announcements::default();
        let due = |count: &usize| announcements.take_due(*count as u64, *count);
        routes.into_iter().filter(due).collect()
    }

    #[test]
    fn a_target_is_announced_at_once_and_when_its_routes_double() {
        assert_eq!(announced([0, 0, 1, 1, 2, 3, 4, 7, 8]), [0, 1, 2, 4, 8]);
        assert!(announced(0..1000).len() <= 10 + 1000 / PATIENCE as usize);
        assert_eq!(announced([0; 100]), [0]);
    }

    #[test]
    fn other_routes_wait_for_the_sixth_sync() {
        assert_eq!(announced([100, 101, 102, 103, 104, 105, 106, 107]), [100, 106]);
        assert_eq!(announced([100, 100, 100, 100, 100, 100, 100, 100, 101, 101, 102]), [100, 101]);
    }

    #[test]
    fn other_declared_routes_and_other_processes_are_announced() {
        let mut announcements = Announcements::default();
        assert!(announcements.is_behind(0));
        assert!(announcements.take_due(0, 100));
        assert!(!announcements.is_behind(0) && !announcements.take_due(0, 100));
        // A document with fewer routes took the place of the one before.
        assert!(announcements.is_behind(1) && announcements.take_due(1, 50));
        announcements.restart();
        assert!(announcements.take_due(1, 50));
    }
}
