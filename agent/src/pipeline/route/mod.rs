//! Path -> route: what a path is reported under.
//!
//! Declared routes come first ([`declared`]): patterns of the configuration, then paths of an OpenAPI document. Without
//! any, or where the user wants both, templates are learned from the paths that are answered ([`learned`]).
//!
//! A learned template becomes a route with its first answer other than 404, so scanning for paths that do not exist
//! adds nothing. Declared ones are routes from the start. A route keeps its id as long as the target is watched, also
//! when it is declared no more: open exchanges and counts refer to it.

pub mod declared;
pub mod learned;
pub mod pattern;
pub mod segment;

use std::{collections::HashMap, sync::Arc};

use self::{
    declared::{Declared, MAX_ENDPOINTS, Otherwise, TrailingSlash},
    learned::{Known, Learned},
};
use super::http::head::Method;

/// Longest template, bytes; the hub's bound.
pub const MAX_TEMPLATE: usize = 2048;

/// Bytes of templates that wait for their first answer, all together.
const MAX_CANDIDATES: usize = 4 * 1024 * 1024;

/// Templates that have ever been routes of one target. Declared ones beyond are turned away; it takes an OpenAPI
/// document that changes again and again, and altogether, to get there.
const MAX_KNOWN: usize = 2 * MAX_ENDPOINTS;

/// Names a route of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(u32);

/// Where a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A pattern of the configuration.
    Declared,
    OpenApi,
    /// Paths that were answered.
    Learned,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::OpenApi => "openapi",
            Self::Learned => "learned",
        }
    }
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Route(RouteId),
    /// A template that is no route yet.
    Candidate(Box<str>),
    /// Routes are declared, and none takes this path.
    Unmatched,
    /// The template exceeds [`MAX_TEMPLATE`], or has too many segments.
    TooLong,
    /// Too many candidates are waiting for their answers, or there were too many declared routes.
    NoRoom,
}

/// The routes of one target. Once the table of learned ones is full, templates that are not in it are turned away.
#[derive(Debug)]
pub struct Routes {
    declared: Arc<Declared>,
    /// Of its templates; None where there was no room.
    declared_ids: Vec<Option<RouteId>>,
    learned: Learned,
    known: Vec<Entry>,
    ids: HashMap<Arc<str>, RouteId>,
    /// Bytes of candidates given out and not settled.
    waiting: usize,
    /// Reused: a path without its percent-encoding.
    decoded: String,
}

#[derive(Debug)]
struct Entry {
    template: Arc<str>,
    /// None for one that is declared no more.
    source: Option<Source>,
}

impl Routes {
    /// `max_learned`: how many templates are learned at most.
    pub fn new(declared: Arc<Declared>, max_learned: usize) -> Self {
        let mut routes = Self {
            declared: Arc::default(),
            declared_ids: Vec::new(),
            learned: Learned::new(max_learned),
            known: Vec::new(),
            ids: HashMap::new(),
            waiting: 0,
            decoded: String::new(),
        };
        routes.replace(declared);
        routes
    }

    /// Finds paths by other declared routes from here on. Routes that stay, or were learned before, keep their ids;
    /// those that go are listed no more.
    pub fn replace(&mut self, declared: Arc<Declared>) {
        for entry in &mut self.known {
            if entry.source != Some(Source::Learned) {
                entry.source = None;
            }
        }
        self.declared_ids = declared
            .templates()
            .map(|(template, source)| {
                if let Some(&id) = self.ids.get(template) {
                    if let Some(entry) = self.known.get_mut(id.0 as usize) {
                        entry.source = Some(source);
                    }
                    return Some(id);
                }
                enter(&mut self.known, &mut self.ids, template, source)
            })
            .collect();
        self.declared = declared;
    }

    /// Looks a path up. Whoever gets a candidate hands it back to [`Routes::settle`].
    pub fn find(&mut self, method: Option<Method>, path: &str) -> Found {
        let path = match self.declared.matching.trailing_slash {
            TrailingSlash::Ignore if path.len() > 1 => path.strip_suffix('/').unwrap_or(path),
            _ => path,
        };
        if !self.declared.is_empty() {
            let text = if path.contains('%') {
                segment::decode(path, &mut self.decoded);
                self.decoded.as_str()
            } else {
                path
            };
            match self.declared.find(method, text).and_then(|number| self.declared_ids.get(number)) {
                Some(Some(id)) => return Found::Route(*id),
                Some(None) => return Found::NoRoom,
                None if self.declared.matching.otherwise == Otherwise::Unmatched => return Found::Unmatched,
                None => {}
            }
        }
        let template = match self.learned.find(path) {
            Known::Route(id) => return Found::Route(id),
            Known::TooLong => return Found::TooLong,
            Known::Not(template) => template,
        };
        let waiting = self.waiting.saturating_add(template.len());
        if waiting > MAX_CANDIDATES {
            return Found::NoRoom;
        }
        self.waiting = waiting;
        Found::Candidate(template)
    }

    /// Takes a candidate back. With [`Settle::Confirm`] it becomes a route, if the table has room; either
    /// way the answer is the route it is by now.
    pub fn settle(&mut self, candidate: Box<str>, settle: Settle) -> Option<RouteId> {
        self.waiting = self.waiting.saturating_sub(candidate.len());
        let template = match self.learned.settled(candidate) {
            Ok(id) => return Some(id),
            Err(template) => template,
        };
        if settle == Settle::Drop || !self.learned.has_room() {
            return None;
        }
        let id = match self.ids.get(&*template) {
            Some(&id) => id,
            None => enter(&mut self.known, &mut self.ids, &template, Source::Learned)?,
        };
        if !self.learned.add(&template, id) {
            return None;
        }
        if let Some(entry) = self.known.get_mut(id.0 as usize) {
            entry.source.get_or_insert(Source::Learned);
        }
        Some(id)
    }

    /// What is declared now.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// All templates, in the order in which they became routes, without those that are declared no more.
    pub fn templates(&self) -> impl Iterator<Item = (&str, Source)> {
        self.known.iter().filter_map(|entry| Some((&*entry.template, entry.source?)))
    }

    pub fn template(&self, id: RouteId) -> &str {
        self.known.get(id.0 as usize).map_or("", |entry| &entry.template)
    }
}

/// Gives a template an id, if there is room.
fn enter(
    known: &mut Vec<Entry>,
    ids: &mut HashMap<Arc<str>, RouteId>,
    template: &str,
    source: Source,
) -> Option<RouteId> {
    let id = RouteId(u32::try_from(known.len()).ok().filter(|_| known.len() < MAX_KNOWN)?);
    let template: Arc<str> = template.into();
    known.push(Entry { template: Arc::clone(&template), source: Some(source) });
    ids.insert(template, id);
    Some(id)
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    Confirm,
    Drop,
}

#[cfg(test)]
mod tests;
