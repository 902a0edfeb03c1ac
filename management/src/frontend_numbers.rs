//! The numbers of frontends, which are the high bits of their query ids.
//!
//! Owned by the registry of [`crate::frontends`]. There are as many numbers as the ids have room for, so each is given
//! again in time: the one that has been out of use the longest, and never one that is held. Invariant: no two frontends
//! hold the same number, and each holds one at most.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

/// How many numbers there are: 13 bits, which with 40 bits of a counter make ids that are exact in JavaScript.
pub(crate) const NUMBERS: u64 = 1 << 13;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct FrontendNumbers {
    holders: BTreeMap<u64, Uuid>,
    /// The numbers that were given back since management started, each with its place in that order.
    given_back: HashMap<u64, u64>,
    returns: u64,
}

impl FrontendNumbers {
    /// The number that a frontend holds.
    pub(crate) fn of(&self, frontend: Uuid) -> Option<u64> {
        self.holders.iter().find_map(|(number, holder)| (*holder == frontend).then_some(*number))
    }

    /// Has a frontend hold the number that it claims to have been given before; `None` if there is no such number, or
    /// another frontend holds it. A frontend that holds a number keeps that one.
    pub(crate) fn claim(&mut self, frontend: Uuid, claimed: Option<u64>) -> Option<u64> {
        if let Some(held) = self.of(frontend) {
            return Some(held);
        }
        let number = claimed.filter(|number| *number < NUMBERS && !self.holders.contains_key(number))?;
        self.holders.insert(number, frontend);
        Some(number)
    }

    /// Has a frontend hold the free number that has been out of use the longest: the first one from `first` on that was
    /// not given back since management started, or else the one that was given back first.
    ///
    /// The numbers before `first` were given last, before management started. `None` if all are held.
    pub(crate) fn allot(&mut self, frontend: Uuid, first: u64) -> Option<u64> {
        let numbers = (0..NUMBERS).map(|ahead| (first % NUMBERS + ahead) % NUMBERS);
        let free = numbers.filter(|number| !self.holders.contains_key(number));
        // `None`, not given back, is less than any place; of several equals the first is taken.
        let number = free.min_by_key(|number| self.given_back.get(number))?;
        self.holders.insert(number, frontend);
        Some(number)
    }

    /// Frees the number of a frontend that is gone.
    pub(crate) fn give_back(&mut self, frontend: Uuid) {
        if let Some(number) = self.of(frontend) {
            self.holders.remove(&number);
            self.given_back.insert(number, self.returns);
            self.returns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(id: u64) -> Uuid {
        Uuid::from_u128(id.into())
    }

    #[test]
    fn a_frontend_may_start_more_often_than_there_are_numbers_beside_one_that_stays() {
        let mut numbers = FrontendNumbers::default();
        let steady = numbers.allot(frontend(u64::MAX), 0).unwrap();
        let mut given = Vec::new();
        for start in 0..3 * NUMBERS {
            let first = given.last().map_or(1, |last| last + 1);
            given.push(numbers.allot(frontend(start), first).unwrap());
            numbers.give_back(frontend(start));
        }
        assert!(!given.contains(&steady));
        // Each number rests until all others were used.
        let rest = NUMBERS as usize - 1;
        assert!(given.windows(rest).all(|window| {
            let distinct: std::collections::HashSet<_> = window.iter().collect();
            distinct.len() == rest
        }));
    }

    #[test]
    fn the_number_of_one_that_has_just_gone_is_the_last_to_be_given_again() {
        let mut numbers = FrontendNumbers::default();
        assert_eq!(numbers.claim(frontend(1), Some(7)), Some(7));
        numbers.give_back(frontend(1));
        assert_eq!(numbers.allot(frontend(2), 7), Some(8));
    }

    #[test]
    fn what_a_frontend_claims_is_its_number_only_if_there_is_such_a_number_and_nobody_holds_it() {
        let mut numbers = FrontendNumbers::default();
        for no_number in [None, Some(NUMBERS), Some(u64::MAX)] {
            assert_eq!(numbers.claim(frontend(1), no_number), None);
        }
        assert_eq!(numbers.claim(frontend(1), Some(NUMBERS - 1)), Some(NUMBERS - 1));
        assert_eq!(numbers.claim(frontend(1), Some(3)), Some(NUMBERS - 1), "it holds one");
        assert_eq!(numbers.claim(frontend(2), Some(NUMBERS - 1)), None);
        assert_eq!(numbers.allot(frontend(2), NUMBERS - 1), Some(0));
    }

    #[test]
    fn a_stored_number_that_an_older_version_let_run_away_is_of_no_harm() {
        assert_eq!(FrontendNumbers::default().allot(frontend(1), u64::MAX), Some(NUMBERS - 1));
    }
}
