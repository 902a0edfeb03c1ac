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

    /// Takes out the oldest items until so many bytes are taken; at least one, if there is any.
    pub(crate) fn take(&mut self, most_bytes: usize) -> Vec<T> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < most_bytes
            && let Some((size, item)) = self.items.pop_front()
        {
            self.bytes -= size;
            bytes += size;
            taken.push(item);
        }
        taken
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
        assert_eq!(queue.take(1), [6]);
        assert_eq!((queue.len(), queue.push(7, 10)), (0, 0));
    }

    #[test]
    fn what_is_taken_is_bounded_and_the_rest_stays() {
        let mut queue = Bounded::new(Bounds { count: 9, bytes: 99 });
        (0..5).for_each(|item| assert_eq!(queue.push(item, 10), 0));
        assert_eq!(queue.take(15), [0, 1]);
        assert_eq!(queue.take(1), [2]);
        assert_eq!((queue.take(99), queue.take(99)), (vec![3, 4], vec![]));
    }
}
