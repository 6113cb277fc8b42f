//! Idle connections of one worker, for the next stream of the same pair.
//!
//! Bounded for each pair, each pod and in all; what does not fit is closed.
//! Says how many more are worth making ahead, and counts those under way; who
//! takes a connection makes them. Time is an argument.

pub(super) mod demand;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use self::demand::Demand;
use super::Connection;
use crate::model::{PeerProtocol, SpiffeId};
use crate::tls::PeerId;

/// Connections that are made ahead at once.
const MAX_PRECONNECTS: usize = 64;
/// Pairs whose demand is remembered; more are not made ready for.
const MAX_DEMANDS: usize = 1024;

/// Bounds of a worker's pool.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Idle connections of one pair of source pod and destination address.
    pub(crate) per_pair: usize,
    pub(crate) per_pod: usize,
    pub(crate) in_all: usize,
    /// An idle connection is closed after this.
    pub(crate) idle: Duration,
    /// No stream begins on an older connection, so that a NetworkPolicy that
    /// now forbids the pair takes effect.
    pub(crate) max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            per_pair: 64,
            per_pod: 256,
            in_all: 512,
            idle: Duration::from_secs(20),
            max_age: Duration::from_secs(300),
        }
    }
}

/// What connections are interchangeable by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Cookie of the source pod's network namespace.
    pub(crate) netns: u64,
    pub(crate) destination: SocketAddr,
    pub(crate) protocol: PeerProtocol,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The pool.
pub(crate) struct Pool {
    config: Config,
    idle: HashMap<Key, Vec<Idle>, foldhash::fast::RandomState>,
    per_pod: HashMap<u64, usize, foldhash::fast::RandomState>,
    in_all: usize,
    demands: HashMap<Key, Demand, foldhash::fast::RandomState>,
    /// Connections that are being made ahead.
    preconnecting: usize,
}

impl Pool {
    #[must_use]
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            idle: HashMap::default(),
            per_pod: HashMap::default(),
            in_all: 0,
            demands: HashMap::default(),
            preconnecting: 0,
        }
    }

    /// The connection used last that is still good, to the expected peer.
    pub(crate) fn take(
        &mut self,
        key: Key,
        expected: &SpiffeId,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Connection> {
        let list = self.idle.get_mut(&key)?;
        let mut found = None;
        let before = list.len();
        while let Some(mut idle) = list.pop() {
            let fresh = may_serve(&self.config, &idle, now, wall)
                && idle.connection.peer().spiffe_id() == expected
                && idle.connection.is_idle_and_whole();
            if fresh {
                found = Some(idle.connection);
                break;
            }
        }
        let gone = before - list.len();
        self.forget(key, gone);
        found
    }

    /// A stream begins to wait for a new connection; [`Pool::served`] ends it.
    pub(crate) fn missed(&mut self, key: Key, now: Instant) {
        if self.demands.len() < MAX_DEMANDS || self.demands.contains_key(&key) {
            let demand = self.demands.entry(key);
            demand.or_insert_with(|| Demand::new(now)).missed(now);
        }
    }

    pub(crate) fn served(&mut self, key: Key) {
        if let Some(demand) = self.demands.get_mut(&key) {
            demand.served();
        }
    }

    /// How many connections to make ahead now: each is to be asked for with
    /// [`Pool::is_preconnect_wanted`], and its end told with [`Pool::preconnect_ended`].
    pub(crate) fn preconnects_due(&mut self, key: Key, now: Instant) -> usize {
        if !self.demands.contains_key(&key) {
            return 0;
        }
        let (idle, room) = (self.idle_of(key), self.room(key));
        let Some(demand) = self.demands.get_mut(&key) else {
            return 0;
        };
        let count = demand.missing(idle, now).min(room);
        demand.begin(count);
        self.preconnecting += count;
        count
    }

    /// Streams that ended meanwhile may have left enough.
    pub(crate) fn is_preconnect_wanted(&mut self, key: Key, now: Instant) -> bool {
        let idle = self.idle_of(key);
        let demand = self.demands.get_mut(&key);
        demand.is_some_and(|demand| demand.still_missing(idle, now))
    }

    /// It is in the pool, or nowhere.
    pub(crate) fn preconnect_ended(&mut self, key: Key) {
        self.preconnecting = self.preconnecting.saturating_sub(1);
        if let Some(demand) = self.demands.get_mut(&key) {
            demand.end();
        }
    }

    fn idle_of(&self, key: Key) -> usize {
        self.idle.get(&key).map_or(0, Vec::len)
    }

    /// For connections made ahead, beside those that are there or under way.
    fn room(&self, key: Key) -> usize {
        let pod = self.per_pod.get(&key.netns).copied().unwrap_or(0);
        let in_all = self.config.in_all.saturating_sub(self.in_all);
        let pod = self.config.per_pod.saturating_sub(pod);
        let room = in_all.min(pod).min(MAX_PRECONNECTS);
        room.saturating_sub(self.preconnecting)
    }

    /// Keeps a connection between streams; closes it where there is no room.
    pub(crate) fn put(&mut self, key: Key, connection: Connection, now: Instant) {
        let pod = self.per_pod.get(&key.netns).copied().unwrap_or(0);
        let full = self.in_all >= self.config.in_all || pod >= self.config.per_pod;
        if full || connection.age(now) >= self.config.max_age {
            return;
        }
        let list = self.idle.entry(key).or_default();
        if list.len() >= self.config.per_pair {
            return;
        }
        list.push(Idle {
            connection,
            since: now,
        });
        self.in_all += 1;
        *self.per_pod.entry(key.netns).or_default() += 1;
    }

    /// Closes what is too old, expired, or was closed by the peer.
    pub(crate) fn sweep(&mut self, now: Instant, wall: SystemTime) {
        let config = self.config.clone();
        self.retain(|_, idle| {
            may_serve(&config, idle, now, wall) && idle.connection.is_idle_and_whole()
        });
        self.demands.retain(|_, demand| !demand.is_over(now));
    }

    /// Closes all connections of a pod.
    pub(crate) fn remove_pod(&mut self, netns: u64) {
        self.retain(|key, _| key.netns != netns);
    }

    /// Closes the connections to peers that are not `wanted` any more.
    pub(crate) fn retain_peers(&mut self, wanted: impl Fn(&PeerId) -> bool) {
        self.retain(|_, idle| wanted(idle.connection.peer()));
    }

    pub(crate) fn clear(&mut self) {
        self.retain(|_, _| false);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Idle) -> bool) {
        let mut gone: Vec<(Key, usize)> = Vec::new();
        for (key, list) in &mut self.idle {
            let before = list.len();
            list.retain_mut(|idle| keep(key, idle));
            gone.push((*key, before - list.len()));
        }
        for (key, count) in gone {
            self.forget(key, count);
        }
    }

    fn forget(&mut self, key: Key, count: usize) {
        self.in_all -= count;
        if let Some(pod) = self.per_pod.get_mut(&key.netns) {
            *pod -= count;
            if *pod == 0 {
                self.per_pod.remove(&key.netns);
            }
        }
        if self.idle.get(&key).is_some_and(Vec::is_empty) {
            self.idle.remove(&key);
        }
    }
}

fn may_serve(config: &Config, idle: &Idle, now: Instant, wall: SystemTime) -> bool {
    now.saturating_duration_since(idle.since) < config.idle
        && idle.connection.age(now) < config.max_age
        && wall < idle.connection.expires()
}
