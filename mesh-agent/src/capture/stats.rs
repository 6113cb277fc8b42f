//! What the kernel programs counted, for the pages.

use std::sync::Arc;

use aya::maps::{HashMap, MapData, PerCpuArray};
use mesh_common::abi::Tuple;
use mesh_common::counter::Counter;

use super::Error;

/// Reads counters and map sizes when it is asked, from any thread; cheap to clone.
#[derive(Clone)]
pub struct Stats(Arc<Maps>);

struct Maps {
    counters: PerCpuArray<MapData, u64>,
    tuples: HashMap<MapData, Tuple, u64>,
}

impl Stats {
    pub(super) fn new(
        counters: PerCpuArray<MapData, u64>,
        tuples: HashMap<MapData, Tuple, u64>,
    ) -> Self {
        Self(Arc::new(Maps { counters, tuples }))
    }

    /// Counters summed over CPUs, in [`Counter::ALL`] order, and the number of
    /// live tuples (a system call for each: not for a loop).
    pub fn read(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let counter = |counter: &Counter| {
            let values = self.0.counters.get(&(*counter as u32), 0);
            let values = values.map_err(|source| Error::Map {
                name: "COUNTERS",
                source,
            })?;
            Ok((counter.label(), values.iter().sum()))
        };
        let mut all: Vec<_> = Counter::ALL.iter().map(counter).collect::<Result<_, _>>()?;
        let tuples = self.0.tuples.keys().filter_map(Result::ok).count();
        all.push(("live_tuples", tuples as u64));
        Ok(all)
    }
}
