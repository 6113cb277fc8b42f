//! Entries by what they say of the path.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Numbers of entries; the lower one goes first.
type By = HashMap<Box<[u8]>, Vec<u32>, RandomState>;

/// Where to look for the entries that may match a path.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: By,
    /// Without a `/` at the end: the root is empty.
    prefix: By,
    /// Of the longest one.
    longest: usize,
    /// Those that are asked about every path.
    every: Vec<u32>,
}

/// Under what an entry is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Every,
}

impl Index {
    /// In the order of their numbers.
    pub(super) fn insert(&mut self, place: &Place, entry: u32) {
        match place {
            Place::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            Place::Prefix(path) => {
                self.longest = self.longest.max(path.len());
                self.prefix.entry(path.clone()).or_default().push(entry);
            }
            Place::Every => self.every.push(entry),
        }
    }

    /// The first entry, by number, for which `matches`: of those kept under the
    /// path, under what is before one of its elements, and of those asked always.
    /// Without a path: of those of the root.
    pub(super) fn find(
        &self,
        path: Option<&[u8]>,
        mut matches: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut best: Option<u32> = None;
        let mut look = |entries: &[u32]| {
            let better = entries.iter().copied();
            let mut better = better.take_while(|entry| best.is_none_or(|best| *entry < best));
            if let Some(entry) = better.find(|entry| matches(*entry)) {
                best = Some(entry);
            }
        };
        let Some(path) = path else {
            look(self.prefix.get(&[][..]).map_or(&[], Vec::as_slice));
            return best;
        };
        if let Some(entries) = self.exact.get(path) {
            look(entries);
        }
        let mut end = path.len();
        loop {
            if end <= self.longest
                && let Some(entries) = self.prefix.get(&path[..end])
            {
                look(entries);
            }
            match path[..end].iter().rposition(|byte| *byte == b'/') {
                Some(before) => end = before,
                None => break,
            }
        }
        look(&self.every);
        best
    }
}
