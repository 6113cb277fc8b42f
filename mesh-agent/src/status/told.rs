//! What was told of each object within a while. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One event of an object and a reason.
pub(super) const EACH: Duration = Duration::from_secs(600);
/// Objects of which it is known.
pub(super) const MAX_TOLD: usize = 4_096;
/// Of one object, for a while: reasons are words of those who speak, and who finds new
/// ones is not heard more often.
pub(super) const MAX_REASONS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Told {
    by_uid: HashMap<String, Of>,
}

#[derive(Debug)]
struct Of {
    since: Instant,
    /// Each with the name that it was told by last.
    reasons: Vec<(String, String)>,
}

impl Told {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// True where it is to be told, by that name; then it counts as told.
    pub(super) fn is_new(&mut self, uid: &str, reason: &str, name: &str, now: Instant) -> bool {
        self.make_room(uid, now);
        let of = self.by_uid.entry(uid.to_owned()).or_insert(Of {
            since: now,
            reasons: Vec::new(),
        });
        if now.saturating_duration_since(of.since) >= EACH {
            (of.since, of.reasons) = (now, Vec::new());
        }
        let known = of.reasons.iter().position(|(known, _)| known == reason);
        let Some(at) = known else {
            let has_room = of.reasons.len() < MAX_REASONS;
            if has_room {
                of.reasons.push((reason.to_owned(), name.to_owned()));
            }
            return has_room;
        };
        let by = &mut of.reasons[at].1;
        let is_other = by != name;
        if is_other {
            name.clone_into(by);
        }
        is_other
    }

    /// It was not told after all.
    pub(super) fn forget(&mut self, uid: &str, reason: &str) {
        if let Some(of) = self.by_uid.get_mut(uid) {
            of.reasons.retain(|(known, _)| known != reason);
            if of.reasons.is_empty() {
                self.by_uid.remove(uid);
            }
        }
    }

    /// The oldest go: told again they are the same event, by its name.
    fn make_room(&mut self, uid: &str, now: Instant) {
        if self.by_uid.len() < MAX_TOLD || self.by_uid.contains_key(uid) {
            return;
        }
        let is_fresh = |of: &Of| now.saturating_duration_since(of.since) < EACH;
        self.by_uid.retain(|_, of| is_fresh(of));
        if self.by_uid.len() >= MAX_TOLD {
            let oldest = self.by_uid.iter().min_by_key(|(_, of)| of.since);
            let oldest = oldest.map(|(uid, _)| uid.clone());
            oldest.map(|uid| self.by_uid.remove(&uid));
        }
    }
}
