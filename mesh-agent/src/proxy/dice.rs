//! Numbers for shares: fast, and nobody's secret.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};

/// One worker's (SplitMix64).
#[derive(Debug)]
pub(super) struct Dice(Cell<u64>);

impl Dice {
    pub(super) fn new() -> Self {
        Self(Cell::new(RandomState::new().hash_one(0_u8)))
    }

    /// The numbers that come from here on come again from [`Self::at`].
    pub(super) fn stands(&self) -> u64 {
        self.0.get()
    }

    pub(super) fn at(stood: u64) -> Self {
        Self(Cell::new(stood))
    }

    /// Below `limit`, each as often as any other.
    pub(super) fn below(&self, limit: u64) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The upper half of the product is below the limit.
        ((u128::from(mixed) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_as_often_as_any_other() {
        let dice = Dice::new();
        let mut seen = [0_u32; 10];
        for _ in 0..100_000 {
            seen[dice.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (9_000..11_000).contains(n)), "{seen:?}");
        assert_eq!(dice.below(1), 0);
        let again = Dice::at(dice.stands());
        assert!((0..9).all(|_| dice.below(1_000) == again.below(1_000)));
    }
}
