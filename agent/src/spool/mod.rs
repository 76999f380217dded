//! Messages on their way out, kept on disk until somebody has taken them.
//!
//! Each way out has one [`Spool`] for each destination. What is pushed is written to a file of its own, and is there
//! again when the agent is started after it was killed. The files are written by a thread; [`Spool::outcome`] says
//! when a message is on disk, and only then is it offered for delivery, so that nothing is delivered which the
//! [`Account`] of its target believes to be at risk.
//!
//! Where there is no directory, or no room in it, messages are kept in memory; [`SpoolState::degraded`] says so.
//!
//! ```text
//! {state-dir}/spool/{hash of the destination}-{slot}/{number}.msg
//! ```

mod account;
mod clock;
mod dir;
mod entry;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    future, mem,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{self, timeout_at},
};
use tracing::{info, warn};
use uuid::Uuid;

pub use account::{Account, Receipt, Unsettled};
pub use clock::{Clock, Moment};
pub use dir::Id;
pub use entry::{Entry, Kind, Label};
use writer::{Outcome, Refused, Writer};

/// A disk that takes longer than this is not waited for: messages go out from memory.
pub const STALLED: Duration = Duration::from_secs(2);
/// Messages that are being written at a time. With more the disk does not keep up, and they stay in memory.
const MAX_WRITING: usize = 1024;

/// How much a spool keeps, whatever comes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bodies of all messages together, bytes.
    pub bytes: usize,
    /// Messages of all kinds together. A small one takes a block on disk, usually 4 KiB.
    pub messages: usize,
    /// The kinds there are. When there is no room for all, the oldest message of the first kind in this list makes
    /// room, until there is none; then those of the next.
    pub kinds: &'static [KindRules],
}

#[derive(Clone, Copy, Debug)]
pub struct KindRules {
    pub kind: Kind,
    /// Messages of this kind.
    pub messages: usize,
    /// Messages of this kind and one source.
    pub per_source: usize,
    /// A newer one of its source takes the place of an older one; otherwise the oldest is given up.
    pub newest_only: bool,
    /// Nobody takes them any older.
    pub max_age: Option<Duration>,
}

/// A message in a spool, without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    pub id: Id,
    pub label: Label,
    /// Bytes of its body.
    pub len: usize,
    /// Its age when we first saw it, and when that was, since the start of the machine.
    first_seen: (Duration, Duration),
}

impl Item {
    fn new(id: Id, label: Label, len: usize, now: &Moment) -> Self {
        Self { id, label, len, first_seen: (label.made.age(now), now.since_boot) }
    }

    /// Grows as time does, whatever becomes of the clock on the wall.
    pub fn age(&self, now: &Moment) -> Duration {
        let (age, seen) = self.first_seen;
        age + now.since_boot.saturating_sub(seen)
    }
}

/// Messages given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    pub too_old: u64,
    /// More than the rules allow.
    pub full: u64,
    /// The file was no message any more.
    pub damaged: u64,
}

/// A look at a spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolState {
    /// Messages that are kept.
    pub messages: usize,
    /// Their bodies.
    pub bytes: usize,
    /// Messages that would not survive the end of the agent.
    pub in_memory: usize,
    /// Messages of earlier runs that were found at the start.
    pub recovered: u64,
    /// Files that do not belong there.
    pub foreign: u64,
    pub given_up: GivenUp,
    /// Why messages are kept in memory. None: they are on disk.
    pub degraded: Option<String>,
}

/// A queue of messages, ordered and bounded, on disk where that is possible.
///
/// When one more message would break the [`Rules`], older ones are given up and counted, but never the newest.
#[derive(Debug)]
pub struct Spool {
    rules: Rules,
    kept: BTreeMap<Id, Slot>,
    bytes: usize,
    counts: HashMap<(Kind, Uuid), usize>,
    next: Id,
    /// None where there is no directory.
    writer: Option<Writer>,
    /// Messages that it was given and has not answered for.
    writing: usize,
    /// Messages that are kept, and not on disk.
    in_memory: usize,
    state: SpoolState,
    /// Up to where each account of an earlier life is settled.
    settled: HashMap<Uuid, u64>,
}

#[derive(Debug)]
struct Slot {
    item: Item,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Disk,
    /// On the way to the disk.
    Writing {
        entry: Arc<Entry>,
        since: Instant,
    },
    Memory {
        entry: Arc<Entry>,
        receipt: Option<Receipt>,
    },
}

impl Spool {
    /// Keeps messages below `state_dir`, or in memory where there is none or it cannot be used, which is logged.
    /// Has what earlier runs left for this destination. Waits for the disk.
    ///
    /// `destination` says where messages go and in whose name, in any words; on disk there is only its hash.
    pub fn open(state_dir: Option<&Path>, destination: &str, rules: Rules, now: &Moment) -> Self {
        let mut spool = Self {
            rules,
            kept: BTreeMap::new(),
            bytes: 0,
            counts: HashMap::new(),
            next: Id::default(),
            writer: None,
            writing: 0,
            in_memory: 0,
            state: SpoolState::default(),
            settled: HashMap::new(),
        };
        let Some(state_dir) = state_dir else {
            spool.state.degraded = Some("no state directory".to_owned());
            return spool;
        };
        match Writer::start(state_dir, destination, now) {
            Ok((writer, found)) => {
                spool.writer = Some(writer);
                spool.take_over(found, now);
            }
            Err(error) => spool.degrade(error.to_string()),
        }
        spool
    }

    fn take_over(&mut self, found: dir::Found, now: &Moment) {
        self.state.given_up.damaged += found.damaged;
        self.state.foreign = found.foreign;
        for dir::Kept { id, label, len, settled } in found.messages {
            let life = self.settled.entry(settled.life).or_default();
            *life = settled.exchanges.max(*life);
            self.next = Id(id.0 + 1);
            self.state.recovered += 1;
            self.insert(Slot { item: Item::new(id, label, len, now), place: Place::Disk });
            if !self.rules.kinds.iter().any(|rules| rules.kind == label.kind) {
                self.give_up_damaged(id);
            }
        }
        self.expire(now);
        if self.state.recovered > 0 {
            let (messages, kept) = (self.state.recovered, self.kept.len());
            info!(messages, kept, "messages of an earlier run were found, they are sent first");
        }
    }

    /// Keeps a message. The receipt is settled when it is on disk, or gone from here.
    pub fn push(&mut self, entry: Entry, receipt: Option<Receipt>, now: &Moment) -> Id {
        let id = self.next;
        self.next.0 += 1;
        let item = Item::new(id, entry.label, entry.body.len(), now);
        let place = self.place(id, Arc::new(entry), receipt);
        self.insert(Slot { item, place });
        id
    }

    /// Messages that can be delivered, oldest first.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        let ready = |slot: &&Slot| match &slot.place {
            Place::Disk | Place::Memory { .. } => true,
            Place::Writing { since, .. } => since.elapsed() >= STALLED,
        };
        // Those behind one that is being written were pushed later, and are not there either.
        self.kept.values().take_while(ready).map(|slot| &slot.item)
    }

    /// All messages, those that are being written included, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Item> {
        self.kept.values().map(|slot| &slot.item)
    }

    pub fn contains(&self, id: Id) -> bool {
        self.kept.contains_key(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Gets a message; the future stands on its own. None when it is gone or damaged: see [`Self::give_up_damaged`].
    pub fn load(&self, id: Id) -> impl Future<Output = Option<Arc<Entry>>> + use<> {
        let (mut at_hand, mut from_disk) = (None, None::<oneshot::Receiver<_>>);
        match self.kept.get(&id).map(|slot| &slot.place) {
            Some(Place::Memory { entry, .. } | Place::Writing { entry, .. }) => {
                at_hand = Some(Arc::clone(entry));
            }
            Some(Place::Disk) => from_disk = self.writer.as_ref().map(|writer| writer.load(id)),
            None => {}
        }
        async move {
            match from_disk {
                Some(loaded) => loaded.await.ok().flatten().map(Arc::new),
                None => at_hand,
            }
        }
    }

    /// Takes a message out: it was delivered, or whoever it is for does not want it.
    pub fn remove(&mut self, id: Id) {
        let Some(Slot { item, place }) = self.kept.remove(&id) else { return };
        self.bytes -= item.len;
        self.in_memory -= usize::from(!matches!(place, Place::Disk));
        let key = (item.label.kind, item.label.source);
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
        match (place, &self.writer) {
            (Place::Disk | Place::Writing { .. }, Some(writer)) => writer.remove(id),
            (Place::Memory { receipt: Some(receipt), .. }, _) => self.settle_receipt(receipt),
            _ => {}
        }
    }

    /// Settles the receipt of a message that is not to be kept. Receipts are settled by one thread alone.
    pub fn settle_receipt(&self, receipt: Receipt) {
        match &self.writer {
            Some(writer) => writer.settle(receipt),
            None => receipt.settle(),
        }
    }

    /// Takes a message out that [`Self::load`] did not find.
    pub fn give_up_damaged(&mut self, id: Id) {
        if self.kept.contains_key(&id) {
            self.remove(id);
            self.state.given_up.damaged += 1;
        }
    }

    /// Gives up what is older than its kind may be.
    pub fn expire(&mut self, now: &Moment) {
        let too_old: Vec<Id> = self
            .kept
            .values()
            .filter(|Slot { item, .. }| {
                let rules = self.rules.kinds.iter().find(|rules| rules.kind == item.label.kind);
                rules.and_then(|rules| rules.max_age).is_some_and(|max| item.age(now) > max)
            })
            .map(|slot| slot.item.id)
            .collect();
        self.state.given_up.too_old += too_old.len() as u64;
        too_old.into_iter().for_each(|id| self.remove(id));
    }

    /// Waits until a message that was pushed is on disk, or until it is clear that it will stay in memory. For ever,
    /// when none is on its way. Can be dropped at any time.
    pub async fn outcome(&mut self) {
        let Some(writer) = &mut self.writer else { return future::pending().await };
        match writer.outcomes.recv().await {
            Some(outcome) => self.settle(outcome),
            None => future::pending().await,
        }
    }

    /// Leaves what is kept to whoever opens this destination next, and waits until that is possible or it is time to go.
    /// Gives back how many messages are known to be left on disk; the others are lost.
    pub async fn close(mut self, deadline: time::Instant) -> usize {
        while self.writing > 0 {
            if timeout_at(deadline, self.outcome()).await.is_err() {
                break;
            }
        }
        let on_disk = self.kept.len() - self.in_memory;
        if let Some(writer) = self.writer {
            let _ = timeout_at(deadline, writer.close()).await;
        }
        on_disk
    }

    /// Messages that are neither on disk nor known to stay in memory.
    pub fn writing(&self) -> usize {
        self.writing
    }

    /// Up to where each account of an earlier life is settled by the messages that were found at the start.
    pub fn settled(&self) -> &HashMap<Uuid, u64> {
        &self.settled
    }

    pub fn given_up(&self) -> GivenUp {
        self.state.given_up
    }

    pub fn state(&self) -> SpoolState {
        let (messages, bytes, in_memory) = (self.kept.len(), self.bytes, self.in_memory);
        SpoolState { messages, bytes, in_memory, ..self.state.clone() }
    }

    /// Where a message goes now.
    fn place(&mut self, id: Id, entry: Arc<Entry>, receipt: Option<Receipt>) -> Place {
        match &self.writer {
            Some(writer) if self.writing < MAX_WRITING => {
                self.writing += 1;
                writer.store(id, Arc::clone(&entry), receipt);
                Place::Writing { entry, since: Instant::now() }
            }
            _ => Place::Memory { entry, receipt },
        }
    }

    fn insert(&mut self, slot: Slot) {
        let Item { id, label: Label { kind, source, .. }, len, .. } = slot.item;
        self.in_memory += usize::from(!matches!(slot.place, Place::Disk));
        self.kept.insert(id, slot);
        self.bytes += len;
        *self.counts.entry((kind, source)).or_default() += 1;

        let rules = self.rules.kinds.iter().find(|rules| rules.kind == kind).copied();
        if let Some(KindRules { messages, per_source, newest_only, .. }) = rules {
            let limit = if newest_only { 1 } else { per_source };
            if self.counts.get(&(kind, source)).is_some_and(|count| *count > limit) {
                let of_source = |item: &Item| (item.label.kind, item.label.source) == (kind, source);
                self.remove_oldest(of_source, newest_only);
            }
            let of_kind = self.counts.iter().filter(|((other, _), _)| *other == kind);
            if of_kind.map(|(_, count)| count).sum::<usize>() > messages {
                self.remove_oldest(|item| item.label.kind == kind, false);
            }
        }
        while self.kept.len() > 1 && (self.bytes > self.rules.bytes || self.kept.len() > self.rules.messages)
        {
            self.make_room(id);
        }
    }

    /// Gives up the message that is worth least, but not `newest`.
    fn make_room(&mut self, newest: Id) {
        let rank = |item: &Item| self.rules.kinds.iter().position(|rules| rules.kind == item.label.kind);
        let others = self.kept.values().map(|slot| &slot.item).filter(|item| item.id != newest);
        if let Some(id) = others.min_by_key(|item| (rank(item), item.id)).map(|item| item.id) {
            self.remove(id);
            self.state.given_up.full += 1;
        }
    }

    fn remove_oldest(&mut self, which: impl Fn(&Item) -> bool, replaced: bool) {
        let oldest = self.kept.values().map(|slot| &slot.item).find(|item| which(item)).map(|item| item.id);
        if let Some(id) = oldest {
            self.remove(id);
            self.state.given_up.full += u64::from(!replaced);
        }
    }

    fn settle(&mut self, Outcome { id, stored }: Outcome) {
        self.writing -= 1;
        match stored {
            Ok(()) => {
                if let Some(slot) = self.kept.get_mut(&id) {
                    slot.place = Place::Disk;
                    self.in_memory -= 1;
                }
                if self.state.degraded.take().is_some() {
                    info!("messages are kept on disk again");
                }
                if self.in_memory > self.writing {
                    self.write_what_is_in_memory();
                }
            }
            Err(Refused { cause, receipt }) => {
                match (self.kept.get_mut(&id), receipt) {
                    (Some(Slot { place, .. }), receipt) => {
                        if let Place::Writing { entry, .. } = place {
                            *place = Place::Memory { entry: Arc::clone(entry), receipt };
                        }
                    }
                    // It was delivered or given up in the meantime.
                    (None, Some(receipt)) => self.settle_receipt(receipt),
                    (None, None) => {}
                }
                self.degrade(cause);
            }
        }
    }

    fn write_what_is_in_memory(&mut self) {
        let in_memory = |slot: &&Slot| matches!(slot.place, Place::Memory { .. });
        let ids: Vec<Id> = self.kept.values().filter(in_memory).map(|slot| slot.item.id).collect();
        for id in ids {
            let Some(slot) = self.kept.get_mut(&id) else { continue };
            if let Place::Memory { entry, receipt } = mem::replace(&mut slot.place, Place::Disk) {
                let place = self.place(id, entry, receipt);
                if let Some(slot) = self.kept.get_mut(&id) {
                    slot.place = place;
                }
            }
        }
    }

    fn degrade(&mut self, cause: String) {
        if self.state.degraded.is_none() {
            warn!(
                cause,
                "messages cannot be kept on disk, they will be lost if the agent ends before they are delivered; \
                 see --state-dir"
            );
        }
        self.state.degraded = Some(cause);
    }
}

#[cfg(test)]
mod tests;
