//! Memory for details, shared by everything that keeps some.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// So many bytes, for all targets and connections together. What finds no room is not kept, and counted by whoever
/// asked ([`crate::pipeline::ledger::Ledger::details_dropped`]).
#[derive(Clone, Debug)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
}

impl Budget {
    pub fn new(max: usize) -> Self {
        Self { used: Arc::default(), max }
    }

    /// Bytes that are held right now; at most the bound.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A part of it; None when it has no room.
    pub fn hold(&self, bytes: usize) -> Option<Held> {
        let mut held = Held { budget: self.clone(), bytes: 0 };
        held.grow(bytes).then_some(held)
    }
}

/// A part of a budget, which goes back when this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    /// False, and unchanged, when the budget has no room.
    pub fn grow(&mut self, more: usize) -> bool {
        let max = self.budget.max;
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= max);
        let done = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if done {
            self.bytes += more;
        }
        done
    }

    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.budget.used.fetch_sub(less, Ordering::Relaxed);
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back() {
        let budget = Budget::new(10);
        let mut first = budget.hold(6).unwrap();
        assert!(budget.hold(5).is_none());
        assert!(!first.grow(5));
        let second = budget.hold(4).unwrap();
        assert_eq!((first.bytes(), second.bytes(), budget.used()), (6, 4, 10));
        drop(second);
        first.shrink(2);
        assert_eq!(budget.used(), 4);
        assert!(first.grow(6));
        assert!(!first.grow(usize::MAX));
        first.shrink(usize::MAX);
        assert_eq!((first.bytes(), budget.used()), (0, 0));
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
