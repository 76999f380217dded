//! Equal errors of exchanges that share consumer, method and route: counted, not listed.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use crate::pipeline::{consumer::ConsumerId, http::head::Method, route::RouteId};

/// Different errors between two takes, of one target and kind.
pub const MAX_GROUPS: usize = 1000;

/// Bytes of their texts together, likewise.
pub const MAX_TEXT: usize = 4 * 1024 * 1024;

/// The row that an error belongs to, whatever its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub consumer: Option<ConsumerId>,
    pub method: Method,
    pub route: RouteId,
}

/// Errors and how often each occurred, since the last take. One that finds no room, by number or by text, is turned
/// away; those that are known already always have room.
#[derive(Debug)]
pub struct Tally<E> {
    groups: HashMap<(Place, E), u64>,
    text: usize,
}

impl<E> Default for Tally<E> {
    fn default() -> Self {
        Self { groups: HashMap::new(), text: 0 }
    }
}

impl<E: Eq + Hash> Tally<E> {
    /// Counts an error whose text is so many bytes long; false when there was no room for it.
    pub fn count(&mut self, place: Place, error: E, text: usize) -> bool {
        let is_full = self.groups.len() >= MAX_GROUPS || self.text.saturating_add(text) > MAX_TEXT;
        match self.groups.entry((place, error)) {
            Entry::Occupied(entry) => *entry.into_mut() += 1,
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(entry) => {
                entry.insert(1);
                self.text += text;
            }
        }
        true
    }

    /// Everything counted since the last call, in no order.
    pub fn take(&mut self) -> impl Iterator<Item = (Place, E, u64)> {
        self.text = 0;
        std::mem::take(&mut self.groups).into_iter().map(|((place, error), count)| (place, error, count))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipeline::route::{Found, Routes, Settle};

    #[test]
    fn room_is_bounded_by_number_and_by_text() {
        let mut routes = Routes::new(Arc::default(), 1);
        let Found::Candidate(candidate) = routes.find(None, "/a") else { panic!("the table is empty") };
        let route = routes.settle(candidate, Settle::Confirm).unwrap();
        let place = Place { consumer: None, method: Method::GET, route };

        let mut tally = Tally::default();
        for error in 0..MAX_GROUPS {
            assert!(tally.count(place, error, 1));
        }
        assert!(!tally.count(place, MAX_GROUPS, 1));
        assert!(tally.count(place, 7, 1));
        let taken: Vec<_> = tally.take().collect();
        assert_eq!(taken.len(), MAX_GROUPS);
        assert!(taken.contains(&(place, 7, 2)));

        assert!(tally.count(place, 0, MAX_TEXT));
        assert!(!tally.count(place, 1, 1));
        assert!(tally.count(place, 0, MAX_TEXT));
        assert_eq!(tally.take().count(), 1);
        assert!(tally.count(place, 1, 1));
    }
}
