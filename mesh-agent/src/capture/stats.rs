//! What the kernel programs counted, for the pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, PerCpuArray};
use mesh_common::abi::{MAX_TUPLES, Tuple};
use mesh_common::counter::Counter;
use parking_lot::Mutex;

use super::Error;

/// Live tuples are counted at most this often: a system call for each of them.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// Reads counters when it is asked, from any thread; cheap to clone.
#[derive(Clone)]
pub(crate) struct Stats(Arc<Maps>);

struct Maps {
    counters: PerCpuArray<MapData, u64>,
    tuples: HashMap<MapData, Tuple, u64>,
    live: Mutex<LiveStats>,
}

/// How many tuples there were, and when that was last looked for.
#[derive(Default)]
struct LiveStats {
    tuples: u64,
    asked: Option<Instant>,
    counting: bool,
}

impl LiveStats {
    /// Is a count due? Then it is the caller's to make.
    fn begin(&mut self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < COUNT_EVERY;
        if self.counting || self.asked.is_some_and(recent) {
            return false;
        }
        self.asked = Some(now);
        self.counting = true;
        true
    }
}

impl Stats {
    pub(super) fn new(
        counters: PerCpuArray<MapData, u64>,
        tuples: HashMap<MapData, Tuple, u64>,
    ) -> Self {
        Self(Arc::new(Maps {
            counters,
            tuples,
            live: Mutex::default(),
        }))
    }

    /// Counters summed over CPUs, in [`Counter::ALL`] order, and the number of
    /// live tuples as it was counted some seconds ago.
    pub(crate) fn read(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let counter = |counter: &Counter| {
            let values = self.0.counters.get(&(*counter as u32), 0);
            let values = values.map_err(|source| Error::Map {
                name: "COUNTERS",
                source,
            })?;
            Ok((counter.label(), values.iter().sum()))
        };
        let mut all: Vec<_> = Counter::ALL.iter().map(counter).collect::<Result<_, _>>()?;
        self.count_aside();
        all.push(("live_tuples", self.0.live.lock().tuples));
        Ok(all)
    }

    /// Who asks for the page never waits for the count.
    fn count_aside(&self) {
        if !self.0.live.lock().begin(Instant::now()) {
            return;
        }
        let maps = self.0.clone();
        let thread = std::thread::Builder::new().name("count-tuples".to_owned());
        let started = thread.spawn(move || {
            // A key that goes while it is looked at begins the walk anew.
            let all = maps.tuples.keys().take(MAX_TUPLES as usize);
            let count = all.filter(Result::is_ok).count();
            let mut live = maps.live.lock();
            live.tuples = count as u64;
            live.counting = false;
        });
        if let Err(error) = started {
            tracing::warn!(%error, "cannot count the live tuples");
            self.0.live.lock().counting = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_tuples_are_counted_by_one_at_a_time_and_once_in_a_while() {
        let (mut live, start) = (LiveStats::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(live.begin(at(0)));
        assert!(!live.begin(at(60)), "the first one still counts");
        live.counting = false;
        assert!(live.begin(at(60)));
        live.counting = false;
        assert!(!live.begin(at(74)));
        assert!(live.begin(at(75)));
    }
}
