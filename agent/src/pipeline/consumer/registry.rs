//! The consumers of one target: who was seen, and what they are called.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{ConsumerRules, Evidence, rules::Origin, source::Scratch};
use crate::pipeline::{Ktime, counters::ConsumerNames};

/// Who stands for the consumers that the table had no room for. The hub takes it for one more, so that its sums are
/// right, and an owner sees that it is there.
pub const OTHERS: &str = "(other consumers)";

/// When the table is full, those not seen for this long make room.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// Names that one message announces, at most; the rest waits for the next. Each has up to 256 characters.
const MAX_ANNOUNCED: usize = 1000;

/// Names a consumer of one target, until the take after the last exchange that it was given out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId(u32);

impl ConsumerId {
    /// Stands for those that found no room.
    pub const OTHERS: Self = Self(u32::MAX);
}

/// Whom a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identified {
    /// No rule matched.
    Nobody,
    Consumer(ConsumerId),
    /// A consumer the table has no room for; it is one of [`ConsumerId::OTHERS`].
    NoRoom,
}

/// The consumers of one target. Once the table is full, new ones are [`OTHERS`], until known ones have not been seen for
/// an hour and are forgotten.
#[derive(Debug)]
pub struct Consumers {
    rules: Arc<ConsumerRules>,
    ids: HashMap<Arc<str>, ConsumerId>,
    slots: Vec<Option<Consumer>>,
    free: Vec<ConsumerId>,
    max: usize,
    now: Ktime,
    /// Whose names are to be announced, each once.
    unannounced: VecDeque<ConsumerId>,
    /// Reused, so that a known consumer costs no allocation.
    scratch: Scratch,
    identifier: String,
    name: String,
}

#[derive(Debug)]
struct Consumer {
    identifier: Arc<str>,
    origin: Origin,
    /// Exchanges that are open.
    open: u32,
    last_seen: Ktime,
    name: Label,
    group: Label,
    is_unannounced: bool,
}

/// A name or a group.
#[derive(Debug, Default)]
struct Label {
    text: Option<Box<str>>,
    /// The user's table says so, and requests have no say.
    is_fixed: bool,
}

impl Label {
    /// Takes what the table says; whether it is news. A table that says nothing any more erases nothing.
    fn fix(&mut self, text: Option<&str>) -> bool {
        self.is_fixed = text.is_some();
        text.is_some_and(|text| self.set(text))
    }

    /// Takes what a request says; whether it is news.
    fn hear(&mut self, text: &str) -> bool {
        !self.is_fixed && self.set(text)
    }

    fn set(&mut self, text: &str) -> bool {
        let is_news = self.text.as_deref() != Some(text);
        if is_news {
            self.text = Some(text.into());
        }
        is_news
    }
}

impl Consumers {
    pub fn new(rules: Arc<ConsumerRules>, max: usize) -> Self {
        Self {
            rules,
            ids: HashMap::from([(OTHERS.into(), ConsumerId::OTHERS)]),
            slots: Vec::new(),
            free: Vec::new(),
            max,
            now: Ktime::default(),
            unannounced: VecDeque::new(),
            scratch: Scratch::default(),
            identifier: String::new(),
            name: String::new(),
        }
    }

    /// Whose request this is. Whoever gets a consumer hands it back to [`Consumers::release`], once.
    pub fn identify(&mut self, evidence: &Evidence<'_>) -> Identified {
        let Some(origin) = self.rules.identify(evidence, &mut self.scratch, &mut self.identifier) else {
            return Identified::Nobody;
        };
        let id = match self.ids.get(self.identifier.as_str()) {
            Some(&id) => id,
            None => match self.admit(origin) {
                Some(id) => id,
                None => return Identified::NoRoom,
            },
        };
        if let Some(consumer) = slot(&mut self.slots, id) {
            consumer.open = consumer.open.saturating_add(1);
            consumer.last_seen = self.now;
        }
        if self.rules.has_name_sources() {
            self.listen(evidence, id);
        }
        Identified::Consumer(id)
    }

    /// The exchange that a consumer was given out for is closed. Its identifier is there until the next
    /// [`Consumers::forget_idle`].
    pub fn release(&mut self, id: ConsumerId) {
        if let Some(consumer) = slot(&mut self.slots, id) {
            consumer.open = consumer.open.saturating_sub(1);
        }
    }

    /// Consumers that are known.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn identifier(&self, id: ConsumerId) -> Option<&str> {
        if id == ConsumerId::OTHERS {
            return Some(OTHERS);
        }
        self.slots.get(id.0 as usize)?.as_ref().map(|consumer| &*consumer.identifier)
    }

    /// Names and groups that are new or changed since the last call, up to a thousand.
    pub fn take_names(&mut self) -> Vec<ConsumerNames> {
        let count = self.unannounced.len().min(MAX_ANNOUNCED);
        let mut names = Vec::with_capacity(count);
        for id in self.unannounced.drain(..count) {
            let Some(consumer) = slot(&mut self.slots, id) else { continue };
            consumer.is_unannounced = false;
            names.push(ConsumerNames {
                identifier: consumer.identifier.to_string(),
                name: consumer.name.text.as_deref().map(str::to_owned),
                group: consumer.group.text.as_deref().map(str::to_owned),
            });
        }
        names
    }

    /// Has all names and groups announced again: messages were dropped, and nobody knows what was in them.
    pub fn resend_names(&mut self) {
        let named =
            self.slots.iter_mut().zip(0..).filter_map(|(consumer, index)| Some((consumer.as_mut()?, index)));
        for (consumer, index) in named {
            if consumer.name.text.is_some() || consumer.group.text.is_some() {
                announce(consumer, ConsumerId(index), &mut self.unannounced);
            }
        }
    }

    /// Goes on by other rules. Who is known stays known, and is looked up in the new table of names.
    pub fn replace_rules(&mut self, rules: Arc<ConsumerRules>) {
        self.rules = rules;
        let named =
            self.slots.iter_mut().zip(0..).filter_map(|(consumer, index)| Some((consumer.as_mut()?, index)));
        for (consumer, index) in named {
            if look_up(consumer, &self.rules) {
                announce(consumer, ConsumerId(index), &mut self.unannounced);
            }
        }
    }

    /// What time it is, about once a second.
    pub fn handle_tick(&mut self, now: Ktime) {
        self.now = self.now.max(now);
    }

    /// Makes room in a full table. To be called when no row refers to any consumer: right after they were taken.
    pub fn forget_idle(&mut self) {
        if self.count() < self.max {
            return;
        }
        for (place, index) in self.slots.iter_mut().zip(0..) {
            let is_idle =
                |it: &Consumer| it.open == 0 && self.now.since(it.last_seen) >= IDLE && !it.is_unannounced;
            if let Some(consumer) = place.take_if(|consumer| is_idle(consumer)) {
                self.ids.remove(&consumer.identifier);
                self.free.push(ConsumerId(index));
            }
        }
    }

    /// Makes an entry for a new consumer, if there is room.
    fn admit(&mut self, origin: Origin) -> Option<ConsumerId> {
        if self.count() >= self.max {
            return None;
        }
        let identifier: Arc<str> = self.identifier.as_str().into();
        let mut consumer = Consumer {
            identifier: Arc::clone(&identifier),
            origin,
            open: 0,
            last_seen: self.now,
            name: Label::default(),
            group: Label::default(),
            is_unannounced: false,
        };
        let is_named = look_up(&mut consumer, &self.rules);
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let id = u32::try_from(self.slots.len())
                    .ok()
                    .map(ConsumerId)
                    .filter(|id| *id != ConsumerId::OTHERS)?;
                self.slots.push(None);
                id
            }
        };
        if is_named {
            announce(&mut consumer, id, &mut self.unannounced);
        }
        *self.slots.get_mut(id.0 as usize)? = Some(consumer);
        self.ids.insert(identifier, id);
        Some(id)
    }

    /// Takes what a request calls its consumer.
    fn listen(&mut self, evidence: &Evidence<'_>, id: ConsumerId) {
        let Self { rules, scratch, name, unannounced, slots, .. } = self;
        let Some(consumer) = slot(slots, id) else { return };
        let mut is_news = rules.find_name(evidence, scratch, name) && consumer.name.hear(name);
        is_news |= rules.find_group(evidence, scratch, name) && consumer.group.hear(name);
        if is_news {
            announce(consumer, id, unannounced);
        }
    }
}

fn slot(slots: &mut [Option<Consumer>], id: ConsumerId) -> Option<&mut Consumer> {
    slots.get_mut(id.0 as usize)?.as_mut()
}

/// Takes what the table of names says; whether it is news.
fn look_up(consumer: &mut Consumer, rules: &ConsumerRules) -> bool {
    let (name, group) = rules.names().find(rules.key(), &consumer.identifier, consumer.origin);
    let is_named = consumer.name.fix(name);
    consumer.group.fix(group) || is_named
}

fn announce(consumer: &mut Consumer, id: ConsumerId, unannounced: &mut VecDeque<ConsumerId>) {
    if !std::mem::replace(&mut consumer.is_unannounced, true) {
        unannounced.push_back(id);
    }
}

#[cfg(test)]
mod tests;
