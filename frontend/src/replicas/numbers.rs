//! Numbers of the replicas of one version of a model.
//!
//! Owned by the version's actor. Invariant: no two replicas have the same number or the same
//! instance name, and taking a number does not search through all that are taken.

use std::collections::{HashMap, HashSet};

/// The numbers that are taken.
#[derive(Debug, Default)]
pub struct ReplicaNumbers {
    taken: HashSet<u32>,
    /// Numbers by instance name.
    instances: HashMap<String, u32>,
    /// Every number below this one is taken.
    lowest_free: u32,
}

impl ReplicaNumbers {
    /// Takes the number of the instance's predecessor, or else the number that is wished for, or
    /// else the lowest free one.
    pub fn take(&mut self, wished: u32, instance: Option<&str>) -> u32 {
        if let Some(&number) = instance.and_then(|instance| self.instances.get(instance)) {
            return number;
        }
        let number = if self.taken.contains(&wished) { self.next_free() } else { wished };
        self.taken.insert(number);
        if let Some(instance) = instance {
            self.instances.insert(instance.to_owned(), number);
        }
        number
    }

    /// Frees the number of a replica that has left.
    pub fn free(&mut self, number: u32, instance: Option<&str>) {
        self.taken.remove(&number);
        self.lowest_free = self.lowest_free.min(number);
        if let Some(instance) = instance {
            self.instances.remove(instance);
        }
    }

    fn next_free(&mut self) -> u32 {
        while self.taken.contains(&self.lowest_free) {
            self.lowest_free += 1;
        }
        self.lowest_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_taken_is_replaced_by_the_lowest_free_one() {
        let mut numbers = ReplicaNumbers::default();
        let taken = [0, 0, 5, 0, 5].map(|wished| numbers.take(wished, None));
        assert_eq!(taken, [0, 1, 5, 2, 3]);
        numbers.free(1, None);
        assert_eq!(numbers.take(0, None), 1);
        assert_eq!(numbers.take(0, None), 4);
        assert_eq!(numbers.take(0, None), 6);
    }

    #[test]
    fn an_instance_keeps_its_number_until_it_has_left() {
        let mut numbers = ReplicaNumbers::default();
        assert_eq!(numbers.take(3, Some("a")), 3);
        assert_eq!(numbers.take(7, Some("a")), 3);
        numbers.free(3, Some("a"));
        assert_eq!(numbers.take(7, Some("a")), 7);
    }
}
