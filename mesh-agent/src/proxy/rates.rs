//! Rate limits, asked where a pod is delivered to: of requests and of connections,
//! once policy has let them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{Limited, RefuseReason, Refused, RuleRef, Workload, WorkloadKey};
use crate::plan::InForce;
use crate::traffic::{Asks, Over, Rate, take};

/// Ports of pods that are remembered: anybody may ask for any.
const MAX_PLACES: usize = 4_096;

type Places = HashMap<(WorkloadKey, u16), Arc<[Arc<Rate>]>, foldhash::fast::RandomState>;

/// What holds for each port of each pod, as one configuration has it.
#[derive(Default)]
pub(super) struct KnownRates {
    generation: u64,
    places: Places,
}

impl KnownRates {
    /// Of a port of a pod; `None`: nothing limits rates, there or elsewhere.
    pub(super) fn of(&mut self, now: &InForce, to: (&Workload, u16)) -> Option<RatesHere> {
        if now.rates.is_empty() {
            return None;
        }
        let generation = now.snapshot.generation;
        if self.generation != generation || self.places.len() >= MAX_PLACES {
            self.places.clear();
            self.generation = generation;
        }
        let (workload, port) = to;
        let place = self.places.entry((workload.key.clone(), port));
        let look = || {
            let is_unreadable = now.snapshot.unreadable_pods.contains(&workload.key);
            now.rates.of(workload, port, is_unreadable)
        };
        let rates = place.or_insert_with(look).clone();
        Some(RatesHere { rates, generation })
    }
}

/// What one request or connection is held to.
pub(super) struct RatesHere {
    rates: Arc<[Arc<Rate>]>,
    generation: u64,
}

impl RatesHere {
    /// Something that a request is held to depends on its path.
    pub(super) fn is_by_path(&self) -> bool {
        self.rates.iter().any(|rate| rate.is_by_path())
    }

    /// One more; nothing is taken of what is refused.
    pub(super) fn admit(&self, asks: &Asks<'_>) -> Result<(), Refused> {
        let taken = take(&self.rates, asks, Instant::now());
        taken.map_err(|over| refused(over, self.generation))
    }
}

fn refused(over: Over, generation: u64) -> Refused {
    Refused {
        rule: Some(RuleRef {
            policy: over.limit.clone(),
            rule: None,
            generation,
        }),
        limited: Some(Arc::new(Limited {
            by: over.limit,
            quota: over.quota,
            retry_after: over.wait,
        })),
        ..RefuseReason::RateLimited.into()
    }
}
