//! What waits to be told, in turn by who says it. Pure.

use std::collections::{BTreeMap, VecDeque};

/// Those that wait.
pub(super) const MAX_WAITING: usize = 256;
/// Of one speaker: one that has much to say keeps no other from being heard.
pub(super) const MAX_OF_ONE: usize = 64;

#[derive(Debug)]
pub(super) struct Waiting<T> {
    by_speaker: BTreeMap<String, VecDeque<T>>,
    /// Speakers of whom something waits, each once; the first one's turn is next.
    speakers: VecDeque<String>,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            by_speaker: BTreeMap::new(),
            speakers: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> Waiting<T> {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn room(&self) -> usize {
        MAX_WAITING - self.len
    }

    /// Gives what finds no room: this one, or the newest of who has more of it.
    pub(super) fn push(&mut self, speaker: String, one: T) -> Option<T> {
        let (dropped, has_room) = self.make_room(&speaker);
        if !has_room {
            return Some(one);
        }
        self.of(speaker).push_back(one);
        dropped
    }

    /// As the first one of its speaker.
    pub(super) fn put_back(&mut self, speaker: String, one: T) -> Option<T> {
        let (dropped, has_room) = self.make_room(&speaker);
        if !has_room {
            return Some(one);
        }
        self.of(speaker).push_front(one);
        dropped
    }

    pub(super) fn next(&mut self) -> Option<T> {
        let speaker = self.speakers.pop_front()?;
        let of = self.by_speaker.get_mut(&speaker)?;
        let one = of.pop_front()?;
        self.len -= 1;
        match of.is_empty() {
            true => {
                self.by_speaker.remove(&speaker);
            }
            false => self.speakers.push_back(speaker),
        }
        Some(one)
    }

    fn of(&mut self, speaker: String) -> &mut VecDeque<T> {
        self.len += 1;
        if !self.by_speaker.contains_key(&speaker) {
            self.speakers.push_back(speaker.clone());
        }
        self.by_speaker.entry(speaker).or_default()
    }

    fn make_room(&mut self, speaker: &str) -> (Option<T>, bool) {
        let own = self.by_speaker.get(speaker).map_or(0, VecDeque::len);
        if own >= MAX_OF_ONE {
            return (None, false);
        }
        if self.len < MAX_WAITING {
            return (None, true);
        }
        let most = self.by_speaker.values_mut().max_by_key(|of| of.len());
        // Whoever has more than two has some left: its turn stays.
        match most.filter(|most| most.len() > own + 1) {
            Some(most) => {
                let dropped = most.pop_back();
                self.len -= usize::from(dropped.is_some());
                (dropped, true)
            }
            None => (None, false),
        }
    }
}
