//! How near endpoints are to the client, and when others than the nearest are used: the one
//! engine for a Service's `trafficDistribution` (by its hints) and for a TrafficPolicy.

use std::sync::atomic::Ordering;

use super::choose::{Choice, Chosen, Field};
use super::endpoints::Distance;
use super::health::State;
use super::outcome::Kind;
use crate::model::traffic::{Limits, Traffic};

/// An endpoint that so many of this node wait for counts as twice as slow.
const MANY: f32 = 32.0;
/// While so much of a part works it gets all of its requests: it is planned for more than
/// it needs (Envoy's overprovisioning factor).
const ENOUGH_PERCENT: u64 = 140;
/// Of shares.
pub(super) const ALL: u64 = 1_000;
/// So many of [`ALL`] go to a farther one of which too little is known, to see.
const LOOKS: u64 = 125;
/// What is quicker than this is as good, in seconds: less is not worth the way. How long a
/// connect takes says little of an endpoint, unless it is much.
const ALIKE: [f32; 2] = [0.01, 0.1];

/// One that may be picked, or is left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) at: u32,
    pub(super) distance: Distance,
    /// Its breaker is closed.
    pub(super) works: bool,
    /// It is not left out. It may be that it does not work: no more may be left out.
    pub(super) is_used: bool,
}

/// Endpoints that are as near as each other, of those that may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) distance: Distance,
    /// Where it ends among them: the nearest come first.
    pub(super) end: usize,
    /// So many of [`ALL`] requests are its own.
    pub(super) share: u64,
    /// Of it.
    pub(super) working: usize,
    /// Of it, also those that are left out.
    pub(super) count: usize,
}

/// The nearest part gets all while enough of it works, else as much as what works is planned
/// for, and the rest goes to the next. Where too little works in all together, they share by
/// what works; and where nothing does, by how many they are. `members`: the nearest first.
pub(super) fn parts(members: &[Member]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut end = 0;
    for same in members.chunk_by(|a, b| a.distance == b.distance) {
        let used = same.iter().filter(|member| member.is_used);
        let used_count = used.clone().count();
        end += used_count;
        if used_count > 0 {
            parts.push(Part {
                distance: same[0].distance,
                end,
                share: 0,
                working: used.filter(|member| member.works).count(),
                count: same.len(),
            });
        }
    }
    share(&mut parts);
    parts
}

fn share(parts: &mut [Part]) {
    let mut left = ALL;
    for part in parts.iter_mut() {
        let planned = part.working as u64 * ALL * ENOUGH_PERCENT / 100 / part.count as u64;
        part.share = planned.min(left);
        left -= part.share;
    }
    let given = ALL - left;
    let all: u64 = parts.iter().map(|part| part.count as u64).sum();
    for part in parts.iter_mut() {
        part.share = match given {
            0 => part.count as u64 * ALL / all,
            _ => part.share * ALL / given,
        };
    }
    // What rounding left over.
    let rest = ALL.saturating_sub(parts.iter().map(|part| part.share).sum());
    if let Some(most) = parts.iter_mut().max_by_key(|part| part.share) {
        most.share += rest;
    }
}

/// The part that `luck`, of [`ALL`], is for.
fn part_of(parts: &[Part], luck: u64) -> usize {
    let mut before = 0;
    let found = parts.iter().position(|part| {
        before += part.share;
        luck < before
    });
    found.unwrap_or_default()
}

/// Those of the nearest part that has a share, for what is not to move by chance.
pub(super) fn settled<'u>(parts: &[Part], usable: &'u [u32], luck: Option<u64>) -> &'u [u32] {
    let first = || parts.iter().position(|part| part.share > 0);
    let at = match luck {
        Some(luck) => part_of(parts, luck % ALL),
        None => first().unwrap_or_default(),
    };
    range(parts, at)
        .and_then(|range| usable.get(range))
        .unwrap_or(usable)
}

fn range(parts: &[Part], at: usize) -> Option<std::ops::Range<usize>> {
    let begin = at.checked_sub(1).map_or(0, |before| parts[before].end);
    Some(begin..parts.get(at)?.end)
}

/// What is known of one that may be picked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burden {
    /// In seconds; `None`: nothing can be concluded.
    pub(super) latency: Option<f32>,
    /// There is no news of it.
    is_stale: bool,
    pub(super) pending: u32,
    /// Of these: has neither taken nor answered them.
    waiting: u32,
    /// With so many in flight it has its share of the limit.
    most: u32,
}

impl Burden {
    pub(super) fn of(state: &State, (kind, now): (Kind, u64), most: u32) -> Self {
        let known = state.mean.known(now);
        Self {
            latency: known.map(|known| known.max(ALIKE[kind as usize])),
            is_stale: state.latency.is_stale(now),
            pending: state.pending.load(Ordering::Relaxed),
            waiting: state.waiting.load(Ordering::Relaxed),
            most,
        }
    }

    /// What is held and was answered may be idle for days: it waits for nothing.
    fn queue(&self) -> f32 {
        1.0 + self.waiting as f32 / MANY
    }

    pub(super) fn is_over(&self) -> bool {
        self.pending >= self.most
    }

    fn has_nothing_to_do(&self) -> bool {
        self.waiting == 0
    }

    /// None that is farther can have so much less that it would spill over.
    pub(super) fn is_little(&self, kind: Kind, percent: u32) -> bool {
        let least = ALIKE[kind as usize];
        let load = self.latency.unwrap_or(least) * self.queue();
        !self.is_over() && load * 100.0 <= least * percent as f32
    }

    /// How many times the load of that one it has.
    pub(super) fn times(&self, other: &Self) -> f32 {
        let slower = match (self.latency, other.latency) {
            (Some(own), Some(others)) => own / others,
            (None, _) | (_, None) => 1.0,
        };
        slower * self.queue() / other.queue()
    }
}

/// Of [`ALL`] requests that come for the near one it keeps so many. What is beyond `percent`
/// of the load of the far one goes there by chance, and the more the more that is: so it is
/// not left at once, and does not get all again when it is quick for that.
pub(super) fn keeps(near: &Burden, far: &Burden, percent: u32) -> u64 {
    if near.is_over() && !far.is_over() {
        return 0;
    }
    // It is looked at, by one request at a time.
    if near.is_stale && near.has_nothing_to_do() {
        return ALL;
    }
    let within = (percent as f32 / 100.0 / near.times(far)).min(1.0);
    let kept = (within * within * ALL as f32) as u64;
    match far.latency.is_none() && far.has_nothing_to_do() {
        true => kept.min(ALL - LOOKS),
        false => kept,
    }
}

/// With so many in flight an endpoint has `percent` of its share of the limit, which is for
/// all of them together: a few near ones do not use up what is meant for many.
pub(super) fn most(limits: &Limits, kind: Kind, (count, percent): (usize, u32)) -> u32 {
    let limit = match kind {
        Kind::Request => limits.max_requests,
        Kind::Connection => limits.max_connections.unwrap_or(u32::MAX),
    };
    let most = u64::from(limit) * u64::from(percent) / 100 / (count.max(1) as u64);
    u32::try_from(most).unwrap_or(u32::MAX).max(1)
}

/// One of the part that it is for, unless that has too much to do against one that is
/// farther: then that one.
pub(super) fn nearest(
    choice: &Choice<'_>,
    field: Field<'_>,
    (parts, traffic): (&[Part], &Traffic),
) -> Option<Chosen> {
    let percent = traffic.load_balancer.locality.spill_over_percent;
    let most = most(&traffic.limits, choice.kind, (field.usable.len(), percent));
    let by = (choice.kind, choice.now);
    let state = |at: u32| &*field.states[at as usize];
    let is_whole = parts.first().is_none_or(|part| part.share == ALL);
    let first = match is_whole {
        true => 0,
        false => part_of(parts, (choice.random)(ALL)),
    };
    let turn = field.turn.get();
    let mut best: Option<Chosen> = None;
    for at in first..parts.len() {
        let usable = field.usable.get(range(parts, at)?)?;
        let Some((near, _)) = best else {
            best = choice.of(Field { usable, ..field });
            continue;
        };
        let near = Burden::of(state(near), by, most);
        if near.is_little(choice.kind, percent) {
            break;
        }
        // Nobody goes from where it works to where it does not.
        if parts[at].working == 0 {
            continue;
        }
        let Some(chosen) = choice.of(Field { usable, ..field }) else {
            continue;
        };
        let far = Burden::of(state(chosen.0), by, most);
        let kept = keeps(&near, &far, percent);
        if kept >= ALL || (choice.random)(ALL) < kept {
            break;
        }
        best = Some(chosen);
    }
    // One turn, whoever was looked at.
    field.turn.set(turn.wrapping_add(1));
    best
}

#[cfg(test)]
mod tests;
