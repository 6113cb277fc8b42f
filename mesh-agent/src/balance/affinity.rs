//! Which endpoint a client's connections keep going to (`sessionAffinity: ClientIP`).
//!
//! One table for all workers, for a pod's connections are spread over them. A
//! client is a pod, not its address: who has the address next begins anew. Its
//! first endpoint is told by a hash of both, so that a restarted agent, or a
//! client that the table has forgotten, finds the same one while the endpoints
//! are the same.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::endpoints::{Candidates, Id, weight};
use crate::model::{Endpoint, Name, ServiceKey};

/// Pairs of a client and a Service's port that are remembered; of its part the one
/// that was used longest ago makes room.
const MAX_SESSIONS: usize = 16_384;
/// Each has a lock of its own, for as long as one session is looked up.
const PARTS: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    client: Name,
    service: ServiceKey,
    port: u16,
    is_ipv4: bool,
}

#[derive(Debug)]
struct Session {
    endpoint: Id,
    used: Instant,
    /// Number of its last use.
    turn: u64,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<Key, Session, foldhash::fast::RandomState>,
    /// By number of the last use.
    turns: BTreeMap<u64, Key>,
    turn: u64,
}

/// Of the whole agent.
#[derive(Debug, Default)]
pub(crate) struct Affinity([Mutex<Table>; PARTS]);

impl Affinity {
    /// The endpoint that the client's last connection went to, if that is not
    /// longer ago than `lasts` and it is one of `usable`, the best; else another one,
    /// for the connections to come.
    pub(super) fn pick(
        &self,
        candidates: &Candidates<'_>,
        usable: &[u32],
        (now, lasts): (Instant, Duration),
    ) -> Option<u32> {
        let key = Key {
            client: candidates.client.pod.clone(),
            service: candidates.service.key.clone(),
            port: candidates.port.port,
            is_ipv4: candidates.is_ipv4,
        };
        let hash = hash_of(&key);
        // Smaller than the number of parts.
        let part = &self.0[(hash % PARTS as u64) as usize];
        let session = part.lock().lasting(&key, now, lasts);
        // Without the lock: however many endpoints there are, nobody waits for that.
        // Of two connections of one client at once both come to the same one.
        let of = |at: u32| &candidates.port.endpoints[at as usize];
        let is_kept = |at: &u32| session.as_ref().is_some_and(|s| s.is(of(*at)));
        let kept = usable.iter().copied().find(is_kept);
        let order = |at: &u32| weight(hash, of(*at));
        let at = kept.or_else(|| usable.iter().copied().max_by_key(order))?;
        part.lock().keep(key, of(at), now);
        Some(at)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.iter().map(|part| part.lock().sessions.len()).sum()
    }
}

impl Table {
    fn lasting(&self, key: &Key, now: Instant, lasts: Duration) -> Option<Id> {
        let session = self.sessions.get(key);
        let session = session.filter(|s| now.saturating_duration_since(s.used) < lasts);
        session.map(|session| session.endpoint.clone())
    }

    fn keep(&mut self, key: Key, endpoint: &Endpoint, now: Instant) {
        self.turn += 1;
        let turn = self.turn;
        if let Some(session) = self.sessions.get_mut(&key) {
            self.turns.remove(&session.turn);
            (session.used, session.turn) = (now, turn);
            if !session.endpoint.is(endpoint) {
                session.endpoint = Id::of(endpoint);
            }
        } else {
            if self.sessions.len() >= MAX_SESSIONS / PARTS
                && let Some((_, oldest)) = self.turns.pop_first()
            {
                self.sessions.remove(&oldest);
            }
            let session = Session {
                endpoint: Id::of(endpoint),
                used: now,
                turn,
            };
            self.sessions.insert(key.clone(), session);
        }
        self.turns.insert(turn, key);
    }
}

/// The same in each process.
fn hash_of(key: &Key) -> u64 {
    foldhash::quality::FixedState::default().hash_one(key)
}

#[cfg(test)]
mod tests;
