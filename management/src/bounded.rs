//! A queue that holds so many items and so many bytes, and drops its oldest for more.
//!
//! Used for what is kept for frontends that may never ask for it. Invariant: within its bounds after every call, but
//! for a single item that is too large by itself.

use std::collections::VecDeque;

/// How much a [`Bounded`] queue holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Bounded<T> {
    bounds: Bounds,
    /// Oldest first, each with the memory that it takes, roughly.
    items: VecDeque<(usize, T)>,
    bytes: usize,
}

impl<T> Bounded<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, items: VecDeque::new(), bytes: 0 }
    }

    /// Adds an item of some size; how many were dropped for it.
    pub(crate) fn push(&mut self, item: T, bytes: usize) -> usize {
        self.items.push_back((bytes, item));
        self.bytes += bytes;
        let mut dropped = 0;
        while self.items.len() > 1 && (self.items.len() > self.bounds.count || self.bytes > self.bounds.bytes)
        {
            if let Some((bytes, _)) = self.items.pop_front() {
                self.bytes -= bytes;
                dropped += 1;
            }
        }
        dropped
    }

    /// The memory that the items take, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The items but for the first few, oldest first.
    pub(crate) fn skip(&self, first: usize) -> impl Iterator<Item = &T> {
        self.items.range(first.min(self.items.len())..).map(|(_, item)| item)
    }

    /// Empties it.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.bytes = 0;
        std::mem::take(&mut self.items).into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_dropped_for_what_exceeds_the_count_or_the_bytes() {
        let mut queue = Bounded::new(Bounds { count: 3, bytes: 10 });
        assert_eq!([1, 2, 3].map(|item| queue.push(item, 1)), [0; 3]);
        assert_eq!(queue.push(4, 1), 1);
        assert_eq!(queue.push(5, 8), 1);
        assert_eq!(queue.skip(0).copied().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(queue.push(6, 99), 3);
        assert_eq!(queue.take(), [6]);
        assert_eq!((queue.len(), queue.push(7, 10)), (0, 0));
    }
}
