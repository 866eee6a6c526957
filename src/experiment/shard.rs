//! Parts of an experiment's simulations, for several machines.

use crate::settings::Invalid;
use std::fmt;

/// The most parts (assumed: more than any cluster has machines).
const MOST: u32 = 1_000_000;

/// One of several parts of an experiment's simulations.
///
/// Which simulations it has depends on the experiment, its number and the number of
/// parts alone. Parts go through the simulations in turn, so each has some of every
/// stretch of a sweep, and their numbers of simulations differ by one at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    number: u32,
    of: u32,
}

impl Shard {
    /// Part `number`, from 1, of `of` parts.
    ///
    /// # Errors
    /// If there is no such part.
    pub fn new(number: u32, of: u32) -> Result<Self, Invalid> {
        Invalid::unless((1..=MOST).contains(&of), "shards", of, &format!("from 1 to {MOST}"))?;
        let allowed = format!("from 1 to the number of shards, {of}");
        Invalid::unless((1..=of).contains(&number), "shard", number, &allowed)?;
        Ok(Self { number, of })
    }

    /// Its number, from 1.
    pub fn number(self) -> u32 {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// The part of `of` that has the simulation at this place among all of an experiment.
    pub(super) fn at(place: usize, of: u32) -> Self {
        let number = place as u64 % u64::from(of) + 1;
        Self { number: u32::try_from(number).expect("not more than there are"), of }
    }

    /// Whether it has the simulation at this place among all of an experiment.
    pub(super) fn has(self, place: usize) -> bool {
        Self::at(place, self.of) == self
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_simulation_is_in_one_part(of in 1..20u32, simulations in 0..200usize) {
            let shards: Vec<Shard> = (1..=of).map(|n| Shard::new(n, of).unwrap()).collect();
            for place in 0..simulations {
                prop_assert_eq!(shards.iter().filter(|shard| shard.has(place)).count(), 1);
            }
            let count = |shard: &Shard| (0..simulations).filter(|&place| shard.has(place)).count();
            let counts: Vec<usize> = shards.iter().map(count).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_part_that_there_is_not_is_refused() {
        assert_eq!(Shard::new(0, 4).unwrap_err().key, "shard");
        assert_eq!(Shard::new(5, 4).unwrap_err().key, "shard");
        assert_eq!(Shard::new(1, 0).unwrap_err().key, "shards");
        assert_eq!(Shard::new(2, 4).unwrap().to_string(), "2 of 4");
    }
}
