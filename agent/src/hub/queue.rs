//! Whose turn it is: the order in which messages are delivered, and what becomes of those that are not.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::message::{Startup, Sync};
use crate::{
    request_log::file::LogFile,
    spool::{self, Entry, Id, Item, KindRules, Label, Moment, Receipt, Rules, Spool},
};

/// The hub takes no sync that is older. Log files are held to the same.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Log files that are sent before the next interval.
const UPLOADS: u32 = 10;

/// An hour of syncs of a target is 360, at one every 10 s; a usual one has some kilobytes. 16,384 files of any length
/// take at most 64 MiB more on disk than is in them.
pub const RULES: Rules = Rules { bytes: 64 * 1024 * 1024, messages: MESSAGES, kinds: &KINDS };
const MESSAGES: usize = 16_384;
static KINDS: [KindRules; 3] = [
    KindRules {
        kind: Kind::Log.code(),
        messages: 512,
        per_source: 50,
        newest_only: false,
        max_age: Some(MAX_AGE),
    },
    KindRules {
        kind: Kind::Sync.code(),
        messages: MESSAGES,
        per_source: 360,
        newest_only: false,
        max_age: Some(MAX_AGE),
    },
    // A start-up has no age, and lists everything that the earlier one of its target did.
    KindRules { kind: Kind::Startup.code(), messages: 256, per_source: 1, newest_only: true, max_age: None },
];

/// A message as it goes over the wire.
#[derive(Debug)]
pub struct Message {
    pub kind: Kind,
    /// Its identity: that in the body, or of a log file that in the URL.
    pub uuid: Uuid,
    /// Whose it is.
    pub instance: Uuid,
    /// When it was made, since 1970, as it says itself.
    pub timestamp: Option<Duration>,
    pub body: Vec<u8>,
    /// To be settled when it is in a safe place.
    pub receipt: Option<Receipt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Sync,
    Log,
}

impl Kind {
    /// As the hub's URLs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Sync => "sync",
            Self::Log => "log",
        }
    }

    const fn code(self) -> spool::Kind {
        match self {
            Self::Startup => spool::Kind(1),
            Self::Sync => spool::Kind(2),
            Self::Log => spool::Kind(3),
        }
    }

    fn of(item: &Item) -> Option<Self> {
        [Self::Startup, Self::Sync, Self::Log].into_iter().find(|kind| kind.code() == item.label.kind)
    }
}

impl From<&Startup> for Message {
    fn from(startup: &Startup) -> Self {
        let body = serde_json::to_vec(startup).expect("strings and lists of them are JSON");
        let (uuid, instance) = (startup.message_uuid, startup.instance_uuid);
        Self { kind: Kind::Startup, uuid, instance, timestamp: None, body, receipt: None }
    }
}

impl From<&Sync> for Message {
    fn from(sync: &Sync) -> Self {
        let body = serde_json::to_vec(sync).expect("strings, numbers and lists of them are JSON");
        let (uuid, instance) = (sync.message_uuid, sync.instance_uuid);
        let timestamp = Duration::try_from_secs_f64(sync.timestamp).ok();
        Self { kind: Kind::Sync, uuid, instance, timestamp, body, receipt: None }
    }
}

impl Message {
    pub fn log(instance: Uuid, file: LogFile) -> Self {
        let LogFile { uuid, gzip, .. } = file;
        Self { kind: Kind::Log, uuid, instance, timestamp: None, body: gzip, receipt: None }
    }
}

/// Messages given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// An hour old.
    pub too_old: u64,
    /// More than fit.
    pub queue_full: u64,
    /// The hub understood and refused it (422).
    pub rejected: u64,
    /// The hub does not know our client id (404), so that nothing is sent any more.
    pub stopped: u64,
    /// Its file was torn or changed.
    pub damaged: u64,
    /// A log file, while the hub takes none (402).
    pub logs_paused: u64,
}

impl Dropped {
    /// Each reason and its messages.
    pub fn reasons(self) -> [(&'static str, u64); 6] {
        let Self { too_old, queue_full, rejected, stopped, damaged, logs_paused } = self;
        [
            ("too_old", too_old),
            ("queue_full", queue_full),
            ("rejected", rejected),
            ("stopped", stopped),
            ("damaged", damaged),
            ("logs_paused", logs_paused),
        ]
    }

    pub fn total(self) -> u64 {
        self.reasons().iter().map(|(_, count)| count).sum()
    }
}

/// What waits to be delivered: of each target the newest start-up, syncs in the order they came, log files after them.
///
/// Bounded by [`RULES`]. What does not fit is counted as `queue_full`: log files first, then syncs, oldest first.
#[derive(Debug)]
pub struct Queue {
    pub spool: Spool,
    /// Start-ups that failed in this round; their turn comes again in the next.
    tried: Vec<Id>,
    /// Syncs that the hub objected to: they come after all others.
    objected: Vec<Id>,
    uploads: Uploads,
    /// What the spool does not count.
    dropped: Dropped,
}

#[derive(Debug, Default)]
struct Uploads {
    /// When the current interval began, and the files sent since.
    since: Option<Instant>,
    sent: u32,
    paused_until: Option<Instant>,
}

impl Queue {
    pub fn new(spool: Spool) -> Self {
        let (tried, objected, uploads, dropped) = Default::default();
        Self { spool, tried, objected, uploads, dropped }
    }

    pub fn push(&mut self, message: Message, now: &Moment) {
        if message.kind == Kind::Log && self.logs_paused_until().is_some() {
            self.dropped.logs_paused += 1;
            return;
        }
        let Message { kind, uuid, instance, timestamp, body, receipt } = message;
        let made = Moment { wall: timestamp.unwrap_or(now.wall), ..*now };
        let label = Label { kind: kind.code(), message: uuid, source: instance, made };
        self.spool.push(Entry { label, body }, receipt, now);
    }

    /// Starts a round: what became too old is dropped, start-ups that failed in the last one are due, and so are log
    /// files when an `interval` has passed.
    pub fn start_round(&mut self, now: &Moment, interval: Duration) {
        self.spool.expire(now);
        self.tried.clear();
        let spool = &self.spool;
        self.objected.retain(|id| spool.contains(*id));
        if self.uploads.since.is_none_or(|since| since.elapsed() >= interval) {
            self.uploads.since = Some(Instant::now());
            self.uploads.sent = 0;
        }
    }

    /// The message whose turn it is. It stays until it is taken out.
    pub fn next(&self) -> Option<(Kind, Item)> {
        let ready = |kind| self.spool.items().filter(move |item| Kind::of(item) == Some(kind));
        let startup = || ready(Kind::Startup).find(|item| !self.tried.contains(&item.id));
        let sync = || ready(Kind::Sync).find(|item| !self.objected.contains(&item.id));
        let objected = || self.objected.iter().find_map(|id| self.spool.items().find(|item| item.id == *id));
        let log = || ready(Kind::Log).next().filter(|_| self.uploads.sent < UPLOADS);
        let item = startup().or_else(sync).or_else(objected).or_else(log)?;
        Some((Kind::of(item)?, *item))
    }

    /// The hub took it.
    pub fn delivered(&mut self, kind: Kind, id: Id) {
        self.uploads.sent += u32::from(kind == Kind::Log);
        self.spool.remove(id);
    }

    /// The hub will never take it.
    pub fn rejected(&mut self, id: Id) {
        self.dropped.rejected += 1;
        self.spool.remove(id);
    }

    /// It could not be delivered: a sync keeps its place, a start-up waits for the next round, a log file, and all
    /// others, for the next interval.
    pub fn put_back(&mut self, kind: Kind, id: Id) {
        match kind {
            Kind::Startup => self.tried.push(id),
            Kind::Sync => {}
            Kind::Log => self.uploads.sent = UPLOADS,
        }
    }

    /// Like [`Self::put_back`], but a sync goes to the end, where it holds up no other.
    pub fn put_last(&mut self, kind: Kind, id: Id) {
        self.objected.retain(|other| *other != id);
        match kind {
            Kind::Sync => self.objected.push(id),
            Kind::Startup | Kind::Log => self.put_back(kind, id),
        }
    }

    /// Gives up all log files, and those that come before `until`.
    pub fn pause_logs(&mut self, until: Instant) {
        self.uploads.paused_until = Some(until);
        self.dropped.logs_paused += self.give_up(|item| Kind::of(item) == Some(Kind::Log));
    }

    pub fn logs_paused_until(&self) -> Option<Instant> {
        self.uploads.paused_until.filter(|until| Instant::now() < *until)
    }

    /// The hub wants nothing from us: gives up everything but the message that it said so about.
    pub fn stop(&mut self, answered: Id) {
        self.spool.remove(answered);
        self.dropped.stopped += self.give_up(|_| true);
    }

    /// A message comes too late.
    pub fn refuse(&mut self, message: Message) {
        self.dropped.stopped += 1;
        message.receipt.into_iter().for_each(|receipt| self.spool.settle_receipt(receipt));
    }

    pub fn dropped(&self) -> Dropped {
        let given_up = self.spool.given_up();
        Dropped {
            too_old: given_up.too_old,
            queue_full: given_up.full,
            damaged: given_up.damaged,
            ..self.dropped
        }
    }

    fn give_up(&mut self, which: impl Fn(&Item) -> bool) -> u64 {
        let ids: Vec<Id> = self.spool.all().filter(|item| which(item)).map(|item| item.id).collect();
        ids.iter().for_each(|id| self.spool.remove(*id));
        ids.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(0xa);
    const B: Uuid = Uuid::from_u128(0xb);
    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(second: u64) -> Moment {
        let since_boot = Duration::from_secs(second);
        Moment { wall: since_boot, since_boot, ..Moment::default() }
    }

    fn queue() -> Queue {
        Queue::new(Spool::open(None, "", RULES, &at(0)))
    }

    impl Queue {
        /// Puts in messages that are named by a letter for the kind, one for the instance, and anything else.
        fn put(&mut self, second: u64, names: &[&str]) {
            for name in names {
                let kind = match &name[..1] {
                    "u" => Kind::Startup,
                    "s" => Kind::Sync,
                    _ => Kind::Log,
                };
                let instance = if &name[1..2] == "a" { A } else { B };
                let body = name.as_bytes().to_vec();
                let (uuid, timestamp, receipt) = (Uuid::new_v4(), None, None);
                self.push(Message { kind, uuid, instance, timestamp, body, receipt }, &at(second));
            }
        }

        /// Delivers what can be delivered, and names it.
        fn deliver_all(&mut self) -> Vec<String> {
            let mut names = Vec::new();
            while let Some((kind, id, name)) = self.peek() {
                names.push(name);
                self.delivered(kind, id);
            }
            names
        }

        fn peek(&self) -> Option<(Kind, Id, String)> {
            let (kind, item) = self.next()?;
            let mut loading = std::pin::pin!(self.spool.load(item.id));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let std::task::Poll::Ready(Some(entry)) = loading.as_mut().poll(&mut context) else {
                panic!("what is in memory is there at once")
            };
            Some((kind, item.id, String::from_utf8(entry.body.clone()).unwrap()))
        }
    }

    #[test]
    fn startups_come_before_syncs_and_syncs_before_logs_each_in_order() {
        let mut queue = queue();
        queue.put(0, &["la1", "sa1", "sb2", "ub", "la2", "sa3"]);
        assert_eq!(queue.deliver_all(), ["ub", "sa1", "sb2", "sa3", "la1", "la2"]);
    }

    #[test]
    fn what_failed_keeps_its_place() {
        let mut queue = queue();
        queue.put(0, &["sa1"]);
        let (kind, id, _) = queue.peek().unwrap();
        queue.put(0, &["sa2"]);
        queue.put_back(kind, id);
        assert_eq!(queue.deliver_all(), ["sa1", "sa2"]);
    }

    #[test]
    fn what_the_hub_objects_to_holds_up_no_other() {
        let mut queue = queue();
        queue.put(0, &["sa1", "sa2", "sa3"]);
        for expected in ["sa1", "sa2"] {
            let (kind, id, name) = queue.peek().unwrap();
            assert_eq!(name, expected);
            queue.put_last(kind, id);
        }
        queue.start_round(&at(1), INTERVAL);
        assert_eq!(queue.deliver_all(), ["sa3", "sa1", "sa2"]);
    }

    #[test]
    fn syncs_live_for_an_hour() {
        let mut queue = queue();
        queue.put(100, &["sa1", "ua", "la1"]);
        queue.put(101, &["sa2"]);
        queue.start_round(&at(3701), INTERVAL);
        assert_eq!(queue.dropped(), Dropped { too_old: 2, ..Dropped::default() });
        assert_eq!(queue.deliver_all(), ["ua", "sa2"]);
    }

    #[test]
    fn a_failed_startup_waits_for_the_next_round() {
        let mut queue = queue();
        queue.put(0, &["ua", "sa1"]);
        let (kind, id, _) = queue.peek().unwrap();
        queue.put_back(kind, id);
        assert_eq!(queue.deliver_all(), ["sa1"]);
        queue.start_round(&at(2), INTERVAL);
        assert_eq!(queue.deliver_all(), ["ua"]);
    }

    #[test]
    fn only_the_newest_startup_of_a_target_is_kept() {
        let mut queue = queue();
        queue.put(0, &["ua one route", "ub", "ua two routes"]);
        let (kind, id, name) = queue.peek().unwrap();
        assert_eq!(name, "ub");
        queue.put(0, &["ub newer"]);
        queue.put_back(kind, id);
        assert_eq!(queue.deliver_all(), ["ua two routes", "ub newer"]);
        assert_eq!(queue.dropped().total(), 0);
    }

    #[test]
    fn an_hour_of_syncs_is_kept_and_no_more() {
        let mut queue = queue();
        for second in 0..365 {
            queue.put(second, &["sa"]);
        }
        assert_eq!((queue.spool.len(), queue.dropped().queue_full), (360, 5));
    }

    #[test]
    fn ten_log_files_an_interval() {
        let mut queue = queue();
        queue.put(0, &["la"; 13]);
        queue.start_round(&at(0), INTERVAL);
        assert_eq!(queue.deliver_all().len(), 10);
        queue.start_round(&at(1), INTERVAL);
        assert_eq!(queue.deliver_all().len(), 0);
        queue.start_round(&at(2), Duration::ZERO);
        let (kind, id, _) = queue.peek().unwrap();
        queue.put_back(kind, id);
        assert_eq!(queue.deliver_all().len(), 0, "a failed one ends the interval");
        queue.start_round(&at(3), Duration::ZERO);
        assert_eq!(queue.deliver_all().len(), 3);
    }

    #[test]
    fn fifty_log_files_are_kept() {
        let mut queue = queue();
        queue.put(0, &["la"; 53]);
        assert_eq!((queue.spool.len(), queue.dropped().queue_full), (50, 3));
    }

    #[test]
    fn a_pause_of_the_logs_is_for_the_logs_alone() {
        let mut queue = queue();
        queue.put(0, &["la1", "sa1", "la2"]);
        queue.pause_logs(Instant::now() + Duration::from_secs(3600));
        queue.put(0, &["la3", "sa2"]);
        assert_eq!(queue.dropped(), Dropped { logs_paused: 3, ..Dropped::default() });
        assert_eq!(queue.deliver_all(), ["sa1", "sa2"]);
        queue.pause_logs(Instant::now());
        queue.put(0, &["la4"]);
        assert_eq!(queue.deliver_all(), ["la4"]);
    }

    #[test]
    fn stopping_counts_what_it_gives_up() {
        let mut queue = queue();
        queue.put(0, &["ua", "sa", "sb"]);
        let (_, answered, _) = queue.peek().unwrap();
        queue.stop(answered);
        assert!(queue.spool.is_empty());
        assert_eq!(queue.dropped().stopped, 2);
    }
}
