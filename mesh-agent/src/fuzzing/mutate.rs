//! Seeded changes of bytes: the same ones on every run.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// No input grows beyond this.
const MAX_INPUT: usize = 64 * 1024;
const EDGES: [u8; 10] = [0, 1, 0x10, 0x20, 0x2a, 0x7f, 0x80, 0xc0, 0xfe, 0xff];

pub(crate) struct Mutator(StdRng);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    /// A changed copy of one of `corpus`.
    pub(crate) fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let other = self.below(corpus.len());
            self.change(&mut bytes, &corpus[other]);
        }
        bytes.truncate(MAX_INPUT);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(32)).min(bytes.len());
        let byte = match self.below(3) {
            0 => self.0.random(),
            _ => EDGES[self.below(EDGES.len())],
        };
        match self.below(9) {
            _ if bytes.is_empty() => bytes.push(byte),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = byte,
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes[at] = bytes[at].wrapping_sub(1),
            4 => bytes.insert(at, byte),
            5 => drop(bytes.drain(at..end)),
            6 => bytes.extend_from_within(at..end),
            7 => bytes.truncate(at),
            _ => {
                let from = self.below(other.len());
                let to = (from + 1 + self.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
}
