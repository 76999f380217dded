//! Whose turn it is: the order in which payloads are delivered, and what becomes of those that are not.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::export::{Payload, Signal};
use crate::spool::{self, Entry, Id, Item, KindRules, Label, Moment, Rules, Spool};

/// Whoever got a payload and did not say so knows it again for about an hour. So a payload is given up this long after
/// it was first tried.
const MAX_AGE: Duration = Duration::from_secs(59 * 60);

/// As many bytes as the official client keeps. Files of any length take at most 64 MiB more on disk than is in them.
/// Traces make room first, then logs, then metrics.
pub const RULES: Rules = Rules { bytes: 50_000_000, messages: MESSAGES, kinds: &KINDS };
const MESSAGES: usize = 16_384;
static KINDS: [KindRules; 3] = [rules(Signal::Traces), rules(Signal::Logs), rules(Signal::Metrics)];

const fn rules(signal: Signal) -> KindRules {
    // Not the age of a payload counts, but for how long it was tried.
    let (messages, per_source, newest_only, max_age) = (MESSAGES, MESSAGES, false, None);
    KindRules { kind: kind(signal), messages, per_source, newest_only, max_age }
}

const fn kind(signal: Signal) -> spool::Kind {
    match signal {
        Signal::Traces => spool::Kind(1),
        Signal::Logs => spool::Kind(2),
        Signal::Metrics => spool::Kind(3),
    }
}

/// Payloads that were given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The endpoint will not have them.
    pub rejected: u64,
    /// 402 on traces: the plan's quota is used up.
    pub over_quota: u64,
    /// First tried 59 minutes ago.
    pub too_old: u64,
    /// More than fit.
    pub queue_full: u64,
    /// Its file was torn or changed.
    pub damaged: u64,
}

impl Dropped {
    /// Each reason and its payloads.
    pub fn reasons(self) -> [(&'static str, u64); 5] {
        let Self { too_old, queue_full, rejected, over_quota, damaged } = self;
        [
            ("too_old", too_old),
            ("queue_full", queue_full),
            ("rejected", rejected),
            ("over_quota", over_quota),
            ("damaged", damaged),
        ]
    }

    pub fn total(self) -> u64 {
        self.reasons().iter().map(|(_, count)| count).sum()
    }
}

/// What waits to be delivered: traces, logs, metrics, and each oldest first.
///
/// Bounded by [`RULES`]. What does not fit is counted as `queue_full`.
#[derive(Debug)]
pub struct Queue {
    pub spool: Spool,
    /// Up to here, payloads are those of an earlier run. Nobody knows when it first tried them: as soon as they were
    /// made, for all we know.
    inherited: Option<Id>,
    /// When ours that were tried in vain were first.
    first_tries: HashMap<Id, Moment>,
    /// What the spool does not count.
    dropped: Dropped,
}

impl Queue {
    pub fn new(spool: Spool) -> Self {
        let inherited = spool.all().last().map(|item| item.id);
        Self { spool, inherited, first_tries: HashMap::new(), dropped: Dropped::default() }
    }

    pub fn push(&mut self, payload: Payload, now: &Moment) {
        let Payload { signal, body, receipt } = payload;
        // The receiver knows a payload by its bytes, and whose it is stands in them.
        let label = Label { kind: kind(signal), message: Uuid::nil(), source: Uuid::nil(), made: *now };
        self.spool.push(Entry { label, body }, receipt, now);
    }

    /// Starts a round: what was tried for too long is dropped.
    pub fn start_round(&mut self, now: &Moment) {
        self.first_tries.retain(|id, _| self.spool.contains(*id));
        let too_old: Vec<Id> = self
            .spool
            .all()
            .filter(|item| self.tried_for(item, now).is_some_and(|tried_for| tried_for >= MAX_AGE))
            .map(|item| item.id)
            .collect();
        self.dropped.too_old += too_old.len() as u64;
        too_old.into_iter().for_each(|id| self.spool.remove(id));
    }

    /// The payload whose turn it is. It stays until it is taken out.
    pub fn next(&self) -> Option<(Signal, Id)> {
        let first = |signal| self.spool.items().find(|item| item.label.kind == kind(signal));
        let signals = [Signal::Traces, Signal::Logs, Signal::Metrics];
        signals.into_iter().find_map(|signal| Some((signal, first(signal)?.id)))
    }

    /// The endpoint took it.
    pub fn delivered(&mut self, id: Id) {
        self.spool.remove(id);
    }

    /// The endpoint will never take it.
    pub fn rejected(&mut self, id: Id) {
        self.dropped.rejected += 1;
        self.spool.remove(id);
    }

    /// The endpoint takes no traces for now, and so not these.
    pub fn over_quota(&mut self, id: Id) {
        self.dropped.over_quota += 1;
        self.spool.remove(id);
    }

    /// It was tried in vain, and keeps its place.
    pub fn put_back(&mut self, id: Id, now: &Moment) {
        self.first_tries.entry(id).or_insert(*now);
    }

    pub fn dropped(&self) -> Dropped {
        let given_up = self.spool.given_up();
        Dropped {
            too_old: self.dropped.too_old + given_up.too_old,
            queue_full: given_up.full,
            damaged: given_up.damaged,
            ..self.dropped
        }
    }

    /// None: not at all.
    fn tried_for(&self, item: &Item, now: &Moment) -> Option<Duration> {
        if self.inherited.is_some_and(|last| item.id <= last) {
            return Some(item.age(now));
        }
        self.first_tries.get(&item.id).map(|first| first.age(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Moment {
        let since_boot = Duration::from_secs(60 * minute);
        Moment { wall: since_boot, since_boot, ..Moment::default() }
    }

    fn queue() -> Queue {
        Queue::new(Spool::open(None, "", RULES, &at(0)))
    }

    impl Queue {
        fn put(&mut self, minute: u64, signal: Signal, name: u8) {
            self.push(Payload { signal, body: vec![name], receipt: None }, &at(minute));
        }

        fn put_large(&mut self, signal: Signal, name: u8) {
            self.push(Payload { signal, body: vec![name; RULES.bytes / 4], receipt: None }, &at(0));
        }

        fn peek(&self) -> Option<(Id, u8)> {
            let (_, id) = self.next()?;
            let mut loading = std::pin::pin!(self.spool.load(id));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let std::task::Poll::Ready(Some(entry)) = loading.as_mut().poll(&mut context) else {
                panic!("what is in memory is there at once")
            };
            Some((id, entry.body[0]))
        }

        fn deliver_all(&mut self) -> Vec<u8> {
            let mut names = Vec::new();
            while let Some((id, name)) = self.peek() {
                names.push(name);
                self.delivered(id);
            }
            names
        }
    }

    #[test]
    fn traces_come_before_logs_before_metrics_and_each_in_order() {
        let mut queue = queue();
        for (signal, name) in [
            (Signal::Metrics, 5),
            (Signal::Traces, 1),
            (Signal::Logs, 3),
            (Signal::Traces, 2),
            (Signal::Logs, 4),
        ] {
            queue.put(0, signal, name);
        }
        assert_eq!(queue.deliver_all(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_failed_is_next_again() {
        let mut queue = queue();
        queue.put(0, Signal::Logs, 1);
        let (failed, _) = queue.peek().unwrap();
        queue.put(0, Signal::Logs, 2);
        queue.put_back(failed, &at(0));
        assert_eq!(queue.deliver_all(), [1, 2]);
    }

    #[test]
    fn what_was_first_tried_an_hour_ago_is_given_up_and_what_never_was_is_not() {
        let mut queue = queue();
        queue.put(0, Signal::Metrics, 1);
        queue.put(0, Signal::Metrics, 2);
        for minute in [10, 68] {
            queue.start_round(&at(minute));
            let (failed, name) = queue.peek().unwrap();
            assert_eq!(name, 1);
            queue.put_back(failed, &at(minute));
        }
        let set_back = Moment { wall: Duration::ZERO, ..at(68) };
        queue.start_round(&set_back);
        assert_eq!(queue.spool.len(), 2);
        queue.start_round(&at(69));
        assert_eq!(queue.dropped(), Dropped { too_old: 1, ..Dropped::default() });
        assert_eq!(queue.deliver_all(), [2]);
    }

    #[test]
    fn what_an_earlier_run_left_is_given_up_an_hour_after_it_was_made() {
        let mut spool = Spool::open(None, "", RULES, &at(0));
        for (minute, name) in [(0, 1), (1, 2)] {
            let label = Label {
                kind: kind(Signal::Metrics),
                message: Uuid::nil(),
                source: Uuid::nil(),
                made: at(minute),
            };
            spool.push(Entry { label, body: vec![name] }, None, &at(minute));
        }
        let mut queue = Queue::new(spool);
        queue.put(0, Signal::Metrics, 3);
        queue.start_round(&at(59));
        assert_eq!(queue.dropped(), Dropped { too_old: 1, ..Dropped::default() });
        assert_eq!(queue.deliver_all(), [2, 3]);
    }

    #[test]
    fn old_traces_and_logs_make_room_before_metrics() {
        let mut queue = queue();
        queue.put_large(Signal::Metrics, 3);
        queue.put_large(Signal::Traces, 1);
        queue.put_large(Signal::Logs, 2);
        queue.put_large(Signal::Metrics, 4);
        assert_eq!((queue.spool.state().bytes, queue.dropped().total()), (RULES.bytes, 0));
        queue.put_large(Signal::Metrics, 5);
        queue.put_large(Signal::Metrics, 6);
        assert_eq!(queue.dropped(), Dropped { queue_full: 2, ..Dropped::default() });
        queue.put_large(Signal::Metrics, 7);
        assert_eq!(queue.deliver_all(), [4, 5, 6, 7]);
    }
}
