//! Messages that wait to be delivered: pure, and bounded in number and age.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use super::message::{Startup, Sync};

/// Syncs kept per target: an hour of them at one every 10 s.
const SYNCS_PER_TARGET: usize = 360;
/// Start-ups kept, one per target.
const STARTUPS: usize = 256;
/// Bodies of all messages together. A usual sync has some kilobytes; an hour of the largest would be gigabytes.
const BYTES: usize = 64 * 1024 * 1024;
/// The hub takes no sync that is older.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// A message as it goes over the wire. Made once, so every try of it is the same, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// Whose it is.
    pub instance: Uuid,
    /// When it was made; a start-up has no age.
    pub timestamp: Option<Duration>,
    pub body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Sync,
}

impl Kind {
    /// As the hub's URLs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Sync => "sync",
        }
    }
}

impl From<&Startup> for Message {
    fn from(startup: &Startup) -> Self {
        let body = serde_json::to_vec(startup).expect("strings and lists of them are JSON");
        Self { kind: Kind::Startup, instance: startup.instance_uuid, timestamp: None, body }
    }
}

impl From<&Sync> for Message {
    fn from(sync: &Sync) -> Self {
        let body = serde_json::to_vec(sync).expect("strings, numbers and lists of them are JSON");
        let timestamp = Duration::try_from_secs_f64(sync.timestamp).ok();
        Self { kind: Kind::Sync, instance: sync.instance_uuid, timestamp, body }
    }
}

/// Messages given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// An hour old, or the oldest of more than an hour's.
    pub too_old: u64,
    /// More than fit.
    pub queue_full: u64,
    /// The hub understood and refused it (422).
    pub rejected: u64,
    /// The hub does not know our client id (404), so that nothing is sent any more.
    pub stopped: u64,
}

impl Dropped {
    /// Each reason and its messages.
    pub fn reasons(self) -> [(&'static str, u64); 4] {
        let Self { too_old, queue_full, rejected, stopped } = self;
        [("too_old", too_old), ("queue_full", queue_full), ("rejected", rejected), ("stopped", stopped)]
    }

    pub fn total(self) -> u64 {
        self.reasons().iter().map(|(_, count)| count).sum()
    }
}

/// What waits to be delivered: of each target the newest start-up, and syncs in the order they came.
///
/// At most 360 syncs of a target and 256 start-ups, and 64 MiB of all together, but for the newest sync; the oldest
/// makes room and is counted as `queue_full`. Syncs older than an hour, by their own timestamp, are counted as
/// `too_old`.
#[derive(Debug, Default)]
pub struct Queue {
    startups: VecDeque<Message>,
    /// Tried in this round; their turn comes again in the next.
    tried_startups: VecDeque<Message>,
    syncs: VecDeque<Message>,
    pub dropped: Dropped,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.startups.len() + self.tried_startups.len() + self.syncs.len()
    }

    /// Bytes of all bodies.
    pub fn bytes(&self) -> usize {
        let messages = self.startups.iter().chain(&self.tried_startups).chain(&self.syncs);
        messages.map(|message| message.body.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A start-up takes the place of its target's earlier one: it lists everything that one did.
    pub fn push(&mut self, message: Message) {
        match message.kind {
            Kind::Startup => {
                self.startups.retain(|earlier| earlier.instance != message.instance);
                self.tried_startups.retain(|earlier| earlier.instance != message.instance);
                self.startups.push_back(message);
                if self.startups.len() + self.tried_startups.len() > STARTUPS {
                    let _oldest = self.tried_startups.pop_front().or_else(|| self.startups.pop_front());
                    self.dropped.queue_full += 1;
                }
            }
            Kind::Sync => {
                let instance = message.instance;
                self.syncs.push_back(message);
                self.keep_bound(instance);
            }
        }
    }

    /// Starts a round: syncs that became too old are dropped, start-ups that failed in the last one are due.
    pub fn start_round(&mut self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = self.syncs.len();
        self.syncs.retain(|sync| sync.timestamp.is_none_or(|made| now.saturating_sub(made) <= MAX_AGE));
        self.dropped.too_old += (before - self.syncs.len()) as u64;

        let newer = mem::take(&mut self.startups);
        self.startups = mem::take(&mut self.tried_startups);
        self.startups.extend(newer);
    }

    /// Takes the next message of this round: start-ups first, then syncs, oldest first.
    pub fn take_next(&mut self) -> Option<Message> {
        self.startups.pop_front().or_else(|| self.syncs.pop_front())
    }

    /// Puts back what [`Self::take_next`] gave and could not be delivered: a sync where it was, a start-up for
    /// the next round, unless a newer one has come.
    pub fn put_back(&mut self, message: Message) {
        match message.kind {
            Kind::Startup => {
                if !self.startups.iter().any(|newer| newer.instance == message.instance) {
                    self.tried_startups.push_back(message);
                }
            }
            Kind::Sync => {
                let instance = message.instance;
                self.syncs.push_front(message);
                self.keep_bound(instance);
            }
        }
    }

    /// Like [`Self::put_back`], but a sync goes to the end, where it holds up no other.
    pub fn put_last(&mut self, message: Message) {
        match message.kind {
            Kind::Startup => self.put_back(message),
            Kind::Sync => self.push(message),
        }
    }

    /// Gives up everything.
    pub fn stop(&mut self) {
        self.dropped.stopped += self.len() as u64;
        self.startups.clear();
        self.tried_startups.clear();
        self.syncs.clear();
    }

    fn keep_bound(&mut self, instance: Uuid) {
        if self.syncs.iter().filter(|sync| sync.instance == instance).count() > SYNCS_PER_TARGET {
            let oldest = self.syncs.iter().position(|sync| sync.instance == instance);
            self.syncs.remove(oldest.expect("just counted more than one"));
            self.dropped.queue_full += 1;
        }
        while self.syncs.len() > 1 && self.bytes() > BYTES {
            self.syncs.pop_front();
            self.dropped.queue_full += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(0xa);
    const B: Uuid = Uuid::from_u128(0xb);

    fn sync(instance: Uuid, second: u64) -> Message {
        let body = format!("{instance} {second}").into_bytes();
        Message { kind: Kind::Sync, instance, timestamp: Some(Duration::from_secs(second)), body }
    }

    fn startup(instance: Uuid, body: &str) -> Message {
        Message { kind: Kind::Startup, instance, timestamp: None, body: body.as_bytes().to_vec() }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn take_all(queue: &mut Queue) -> Vec<Message> {
        std::iter::from_fn(|| queue.take_next()).collect()
    }

    #[test]
    fn startups_come_before_syncs_and_syncs_in_order() {
        let mut queue = Queue::default();
        for message in [sync(A, 1), sync(B, 2), startup(B, "b"), sync(A, 3)] {
            queue.push(message);
        }
        assert_eq!(take_all(&mut queue), [startup(B, "b"), sync(A, 1), sync(B, 2), sync(A, 3)]);
    }

    #[test]
    fn what_failed_keeps_its_place() {
        let mut queue = Queue::default();
        queue.push(sync(A, 1));
        let failed = queue.take_next().unwrap();
        queue.push(sync(A, 2));
        queue.put_back(failed);
        assert_eq!(take_all(&mut queue), [sync(A, 1), sync(A, 2)]);
    }

    #[test]
    fn what_the_hub_objects_to_holds_up_no_other() {
        let mut queue = Queue::default();
        queue.push(sync(A, 1));
        queue.push(sync(A, 2));
        let failed = queue.take_next().unwrap();
        queue.put_last(failed);
        assert_eq!(take_all(&mut queue), [sync(A, 2), sync(A, 1)]);
    }

    #[test]
    fn bound_holds_per_target_and_the_oldest_goes() {
        let mut queue = Queue::default();
        queue.push(sync(B, 0));
        for second in 0..365 {
            queue.push(sync(A, second));
        }
        assert_eq!((queue.len(), queue.dropped.queue_full), (361, 5));
        assert_eq!(queue.take_next(), Some(sync(B, 0)));
        assert_eq!(queue.take_next(), Some(sync(A, 5)));
    }

    #[test]
    fn bound_holds_for_the_bytes_of_all_and_the_newest_stays() {
        let large = |instance, second| Message { body: vec![b'x'; BYTES / 4], ..sync(instance, second) };
        let mut queue = Queue::default();
        (0..4).for_each(|second| queue.push(large(A, second)));
        assert_eq!((queue.len(), queue.bytes()), (4, BYTES));
        queue.push(large(B, 4));
        assert_eq!((queue.len(), queue.bytes(), queue.dropped.queue_full), (4, BYTES, 1));
        queue.push(Message { body: vec![b'x'; 2 * BYTES], ..sync(B, 5) });
        assert_eq!((queue.len(), queue.dropped.queue_full), (1, 5));
        assert_eq!(queue.take_next().and_then(|message| message.timestamp), Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_is_put_back_into_a_full_queue_is_the_oldest_and_goes() {
        let mut queue = Queue::default();
        queue.push(sync(A, 0));
        let failed = queue.take_next().unwrap();
        for second in 1..=360 {
            queue.push(sync(A, second));
        }
        queue.put_back(failed);
        assert_eq!((queue.len(), queue.dropped.queue_full), (360, 1));
        assert_eq!(queue.take_next(), Some(sync(A, 1)));
    }

    #[test]
    fn syncs_live_for_an_hour() {
        let mut queue = Queue::default();
        queue.push(sync(A, 100));
        queue.push(sync(A, 101));
        queue.push(startup(A, "a"));
        queue.start_round(at(3701));
        assert_eq!((queue.len(), queue.dropped.too_old), (2, 1));
        assert_eq!(take_all(&mut queue), [startup(A, "a"), sync(A, 101)]);
    }

    #[test]
    fn a_clock_set_back_makes_nothing_old() {
        let mut queue = Queue::default();
        queue.push(sync(A, 10_000));
        queue.start_round(at(100));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_failed_startup_waits_for_the_next_round() {
        let mut queue = Queue::default();
        queue.push(startup(A, "a"));
        queue.push(sync(A, 1));
        queue.start_round(at(1));
        let failed = queue.take_next().unwrap();
        queue.put_back(failed);
        assert_eq!(take_all(&mut queue), [sync(A, 1)]);
        queue.start_round(at(2));
        assert_eq!(take_all(&mut queue), [startup(A, "a")]);
    }

    #[test]
    fn only_the_newest_startup_of_a_target_is_kept() {
        let mut queue = Queue::default();
        queue.push(startup(A, "one route"));
        queue.push(startup(B, "b"));
        queue.push(startup(A, "two routes"));
        let taken = queue.take_next().unwrap();
        assert_eq!(taken, startup(B, "b"));
        queue.push(startup(B, "newer"));
        queue.put_back(taken);
        assert_eq!(take_all(&mut queue), [startup(A, "two routes"), startup(B, "newer")]);
        assert_eq!(queue.dropped.total(), 0);
    }

    #[test]
    fn startups_are_bounded() {
        let mut queue = Queue::default();
        for instance in 0..300 {
            queue.push(startup(Uuid::from_u128(instance), "s"));
        }
        assert_eq!((queue.len(), queue.dropped.queue_full), (256, 44));
        assert_eq!(queue.take_next(), Some(startup(Uuid::from_u128(44), "s")));
    }

    #[test]
    fn stopping_counts_what_it_gives_up() {
        let mut queue = Queue::default();
        queue.push(startup(A, "a"));
        queue.push(sync(A, 1));
        queue.stop();
        assert!(queue.is_empty());
        assert_eq!(queue.dropped.stopped, 2);
    }
}
