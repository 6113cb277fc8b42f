//! How endpoints stand, for people.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::breaker::{Glance, Phase};
use super::endpoints::Candidates;
use super::health::{Health, State};
use super::outcome::{Cause, Failure};
use super::view::View;
use crate::model::traffic::OutlierDetection;

/// Of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) phase: Phase,
    /// Why its breaker is open.
    pub(crate) cause: Option<(Cause, Failure)>,
    /// It is, and the endpoint is used all the same.
    pub(crate) kept: Option<Kept>,
    /// For how long it has been so.
    pub(crate) since: Duration,
    /// Until a request is sent there to see.
    pub(crate) next_probe: Option<Duration>,
    /// For how long it is left alone between two of these, and half as long more by chance.
    pub(crate) probe_interval: Option<Duration>,
    pub(crate) latency: Duration,
    pub(crate) in_flight: u32,
    /// Of late: requests, and connections that carry none.
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

/// Why one whose breaker is open is not ejected: no more may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// So many are.
    pub(crate) ejected: usize,
    /// Of so many.
    pub(crate) of: usize,
}

impl Health {
    /// Of those that somebody has asked, by their number. `families`: of one port, whose
    /// endpoints are ejected with others of their family. An endpoint has one breaker, whatever
    /// Service leads to it; whether it is ejected is the Service's.
    pub(crate) fn standings(
        &self,
        families: &[Candidates<'_>],
        now: Instant,
    ) -> Vec<(usize, Standing)> {
        let Some(first) = families.first() else {
            return Vec::new();
        };
        let (now, of) = (self.at(now), &first.traffic().outlier_detection);
        let states = self.each(&first.port.endpoints);
        // Read once: of one that changes meanwhile all that is told is of the same moment.
        let breakers = states.iter().map(|state| {
            let state = state.as_deref();
            state.map_or(Glance::CLOSED, |state| of.sees(state.breaker.glance()))
        });
        let breakers: Vec<Glance> = breakers.collect();
        let by = (0, of.max_ejection_percent);
        let views = families.iter().map(|one| View::by(one, &breakers, by));
        let views: Vec<View> = views.collect();
        let states = states.iter().zip(&breakers).enumerate();
        states
            .filter_map(|(number, (state, breaker))| {
                let kept = (!breaker.is_closed())
                    .then(|| kept(&views, number))
                    .flatten();
                let standing = standing(state.as_deref()?, (breaker, kept), (of, now));
                Some((number, standing))
            })
            .collect()
    }
}

fn kept(views: &[View], number: usize) -> Option<Kept> {
    let is_it = |at: &u32| *at as usize == number;
    let view = views.iter().find(|view| view.usable.iter().any(is_it))?;
    Some(Kept {
        ejected: view.ejected.len(),
        of: view.ejected.len() + view.usable.len(),
    })
}

fn standing(
    state: &State,
    (breaker, kept): (&Glance, Option<Kept>),
    (of, now): (&OutlierDetection, u64),
) -> Standing {
    let span = Duration::from_millis;
    let is_out = !breaker.is_closed();
    let [succeeded, failed] = state.breaker.lately(of, now);
    Standing {
        phase: breaker.word.phase,
        cause: is_out.then(|| state.breaker.cause()),
        kept,
        since: span(now.saturating_sub(breaker.since)),
        next_probe: is_out.then(|| span(breaker.word.at.saturating_sub(now))),
        probe_interval: is_out.then(|| state.breaker.lasts(of)),
        latency: Duration::from_secs_f32(state.latency.seconds(now)),
        in_flight: state.pending.load(Ordering::Relaxed),
        succeeded,
        failed,
    }
}

#[cfg(test)]
mod tests;
