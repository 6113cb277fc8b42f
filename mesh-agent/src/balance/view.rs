//! Which endpoints of a list a worker's clients may get now.

use super::breaker::{Glance, Phase};
use super::endpoints::Candidates;
use super::health::State;
use super::locality::{Member, Part, parts};
use crate::model::Tier;
use crate::model::traffic::OutlierDetection;
use std::sync::Arc;

/// Made anew when a breaker has changed, and not for a pick.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Changes of breakers that it has seen; 0: none.
    pub(super) seen: u64,
    /// Those that fit best and are not left out, the nearest first.
    pub(super) usable: Vec<u32>,
    /// Those of them that are as near as each other.
    pub(super) parts: Vec<Part>,
    /// Those that are left out.
    pub(super) ejected: Vec<u32>,
    /// Those that a request is sent to, to see: these, and those that no request may come by
    /// though they are not left out, for others work.
    pub(super) tried: Vec<u32>,
    /// When the first of these is to be tried, in ms.
    pub(super) probe_at: u64,
}

impl View {
    /// No more are left out than the policy allows, whoever failed first; where a
    /// breaker is open beyond that its endpoint is used, and errors pass as they are.
    pub(super) fn of(
        candidates: &Candidates<'_>,
        states: &[Arc<State>],
        (seen, of): (u64, &OutlierDetection),
    ) -> Self {
        let breakers = states.iter().map(|state| of.sees(state.breaker.glance()));
        let by = (seen, of.max_ejection_percent);
        Self::by(candidates, &breakers.collect::<Vec<_>>(), by)
    }

    /// By what breakers are at one moment.
    pub(super) fn by(
        candidates: &Candidates<'_>,
        breakers: &[Glance],
        (seen, max_percent): (u64, u32),
    ) -> Self {
        let breaker = |at: u32| &breakers[at as usize];
        let endpoints = candidates.port.endpoints.iter().zip(0..);
        let fitting = endpoints.filter_map(|(e, at)| Some((candidates.fit(e)?, at)));
        let mut group: Vec<(Tier, u32)> = fitting.collect();
        // Never one of a worse kind because all of a better one fail.
        let best = group.iter().map(|(tier, _)| *tier).min();
        group.retain(|(tier, _)| Some(*tier) == best);
        let mut open: Vec<(u64, u32)> = group
            .iter()
            .filter(|(_, at)| !breaker(*at).is_closed())
            .map(|(_, at)| (breaker(*at).since, *at))
            .collect();
        open.sort_unstable();
        open.truncate(may_be_ejected(group.len(), max_percent));
        let ejected: Vec<u32> = open.into_iter().map(|(_, at)| at).collect();
        let member = |at: u32| Member {
            at,
            distance: candidates.distance(&candidates.port.endpoints[at as usize]),
            works: breaker(at).is_closed(),
            is_used: !ejected.contains(&at),
        };
        let mut members: Vec<Member> = group.iter().map(|(_, at)| member(*at)).collect();
        // Those of one distance stay in the configuration's order.
        members.sort_by_key(|member| member.distance);
        let due = |at: &u32| {
            let word = breaker(*at).word;
            match word.phase {
                // It is closed since.
                Phase::Closed => 0,
                Phase::Open | Phase::HalfOpen => word.at,
            }
        };
        let parts = parts(&members);
        let some_work = members.iter().any(|member| member.works);
        let is_passed_by = |member: &&Member| member.is_used && !member.works && some_work;
        let passed_by = members.iter().filter(is_passed_by).map(|member| member.at);
        let tried: Vec<u32> = ejected.iter().copied().chain(passed_by).collect();
        Self {
            seen,
            usable: members
                .iter()
                .filter(|member| member.is_used)
                .map(|member| member.at)
                .collect(),
            parts,
            probe_at: tried.iter().map(due).min().unwrap_or(u64::MAX),
            tried,
            ejected,
        }
    }
}

impl OutlierDetection {
    /// An endpoint's breaker, for a Service with this policy: another one's may have opened it,
    /// or this one's from before it was switched off.
    pub(super) fn sees(&self, breaker: Glance) -> Glance {
        match self.is_on {
            true => breaker,
            false => Glance::CLOSED,
        }
    }
}

/// At least one is kept.
pub(super) fn may_be_ejected(count: usize, max_percent: u32) -> usize {
    let share = count as u64 * u64::from(max_percent.min(100)) / 100;
    usize::try_from(share)
        .unwrap_or(count)
        .min(count.saturating_sub(1))
}
