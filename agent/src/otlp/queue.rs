//! Payloads that wait for their delivery: pure, wall time is handed in.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use super::export::{Payload, Signal};

/// Bytes of payloads that wait. Traces and logs make room first, then metrics, the oldest first.
const MAX_BYTES: usize = 50_000_000;
/// Whoever got a payload and did not say so knows it again for about an hour. So a payload is given up this long after
/// it was first tried.
const MAX_AGE: Duration = Duration::from_secs(59 * 60);

/// Payloads that were given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The endpoint will not have them.
    pub rejected: u64,
    /// 402 on traces: the plan's quota is used up.
    pub over_quota: u64,
    /// First tried 59 minutes ago.
    pub too_old: u64,
    /// The queue was full.
    pub queue_full: u64,
}

impl Dropped {
    /// Each reason and its payloads.
    pub fn reasons(self) -> [(&'static str, u64); 4] {
        let Self { too_old, queue_full, rejected, over_quota } = self;
        [("too_old", too_old), ("queue_full", queue_full), ("rejected", rejected), ("over_quota", over_quota)]
    }

    pub fn total(self) -> u64 {
        self.reasons().iter().map(|(_, count)| count).sum()
    }
}

/// A payload in the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting {
    pub payload: Payload,
    /// None: not tried yet.
    first_try: Option<SystemTime>,
}

/// Payloads in the order in which they go out: traces, logs, metrics, and each oldest first.
#[derive(Debug, Default)]
pub struct Queue {
    traces: VecDeque<Waiting>,
    logs: VecDeque<Waiting>,
    metrics: VecDeque<Waiting>,
    pub dropped: Dropped,
}

impl Queue {
    pub fn push(&mut self, payload: Payload) {
        self.of(payload.signal).push_back(Waiting { payload, first_try: None });
        self.make_room();
    }

    /// Gives up what is too old.
    pub fn start_round(&mut self, now: SystemTime) {
        for waiting in [&mut self.traces, &mut self.logs, &mut self.metrics] {
            let before = waiting.len();
            waiting.retain(|waiting| {
                // A clock that was set back makes nothing old.
                let age = waiting.first_try.and_then(|first| now.duration_since(first).ok());
                age.unwrap_or_default() < MAX_AGE
            });
            self.dropped.too_old += (before - waiting.len()) as u64;
        }
    }

    /// The next one to try, which is now.
    pub fn take_next(&mut self, now: SystemTime) -> Option<Waiting> {
        let next = [&mut self.traces, &mut self.logs, &mut self.metrics];
        let mut next = next.into_iter().find_map(VecDeque::pop_front)?;
        next.first_try.get_or_insert(now);
        Some(next)
    }

    /// One that was tried in vain: it is the next again.
    pub fn put_back(&mut self, waiting: Waiting) {
        self.of(waiting.payload.signal).push_front(waiting);
        self.make_room();
    }

    pub fn len(&self) -> usize {
        self.all().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> usize {
        self.all().map(|waiting| waiting.payload.body.len()).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Waiting> {
        [&self.traces, &self.logs, &self.metrics].into_iter().flatten()
    }

    fn of(&mut self, signal: Signal) -> &mut VecDeque<Waiting> {
        match signal {
            Signal::Traces => &mut self.traces,
            Signal::Logs => &mut self.logs,
            Signal::Metrics => &mut self.metrics,
        }
    }

    fn make_room(&mut self) {
        while self.len() > 1 && self.bytes() > MAX_BYTES {
            let oldest = [&mut self.traces, &mut self.logs, &mut self.metrics]
                .into_iter()
                .find_map(VecDeque::pop_front);
            self.dropped.queue_full += u64::from(oldest.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(signal: Signal, name: u8) -> Payload {
        Payload { signal, body: vec![name] }
    }

    fn large(signal: Signal, name: u8) -> Payload {
        Payload { signal, body: vec![name; MAX_BYTES / 4] }
    }

    fn at(minute: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute)
    }

    fn take_all(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.take_next(at(0))).map(|waiting| waiting.payload.body[0]).collect()
    }

    #[test]
    fn traces_come_before_logs_before_metrics_and_each_in_order() {
        let mut queue = Queue::default();
        for (signal, name) in [
            (Signal::Metrics, 5),
            (Signal::Traces, 1),
            (Signal::Logs, 3),
            (Signal::Traces, 2),
            (Signal::Logs, 4),
        ] {
            queue.push(payload(signal, name));
        }
        assert_eq!(take_all(&mut queue), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_failed_is_next_again() {
        let mut queue = Queue::default();
        queue.push(payload(Signal::Logs, 1));
        queue.push(payload(Signal::Logs, 2));
        let failed = queue.take_next(at(0)).unwrap();
        queue.put_back(failed);
        assert_eq!(take_all(&mut queue), [1, 2]);
    }

    #[test]
    fn what_was_first_tried_an_hour_ago_is_given_up() {
        let mut queue = Queue::default();
        queue.push(payload(Signal::Metrics, 1));
        queue.push(payload(Signal::Metrics, 2));
        for minute in [10, 68] {
            queue.start_round(at(minute));
            let failed = queue.take_next(at(minute)).unwrap();
            assert_eq!(failed.payload.body, [1]);
            queue.put_back(failed);
        }
        queue.start_round(at(5)); // the clock was set back
        assert_eq!(queue.len(), 2);
        queue.start_round(at(69));
        assert_eq!(queue.dropped, Dropped { too_old: 1, ..Dropped::default() });
        assert_eq!(take_all(&mut queue), [2]);
    }

    #[test]
    fn old_traces_and_logs_make_room_before_metrics() {
        let mut queue = Queue::default();
        queue.push(large(Signal::Metrics, 3));
        queue.push(large(Signal::Traces, 1));
        queue.push(large(Signal::Logs, 2));
        queue.push(large(Signal::Metrics, 4));
        assert_eq!((queue.bytes(), queue.dropped.total()), (MAX_BYTES, 0));
        queue.push(large(Signal::Metrics, 5));
        queue.push(large(Signal::Metrics, 6));
        assert_eq!(queue.dropped, Dropped { queue_full: 2, ..Dropped::default() });
        queue.push(large(Signal::Metrics, 7));
        assert_eq!(take_all(&mut queue), [4, 5, 6, 7]);
    }

    #[test]
    fn what_is_put_back_into_a_full_queue_is_the_oldest_and_goes() {
        let mut queue = Queue::default();
        queue.push(large(Signal::Traces, 1));
        let failed = queue.take_next(at(0)).unwrap();
        (2..=5).for_each(|name| queue.push(large(Signal::Metrics, name)));
        queue.put_back(failed);
        assert_eq!((take_all(&mut queue), queue.dropped.queue_full), (vec![2, 3, 4, 5], 1));
    }
}
