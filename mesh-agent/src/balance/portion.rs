//! What of the requests of this node the place of an endpoint earns it, for people.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::endpoints::{Candidates, Distance};
use super::health::{Health, State};
use super::locality::{ALL, Burden, Part, keeps, most};
use super::outcome::Kind;
use super::view::View;
use crate::model::traffic::Traffic;
use crate::model::{Endpoint, Tier};

/// Of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Portion {
    /// `node`, `zone` or `farther`.
    pub(crate) place: &'static str,
    /// Of the requests of this node's pods; what balances within a place is not in it.
    pub(crate) percent: f64,
    pub(crate) why: String,
}

/// One that is used.
struct Used {
    part: usize,
    at: u32,
    /// Of all requests.
    share: f64,
    why: String,
}

/// What is known now.
struct Known<'k> {
    states: &'k [Arc<State>],
    traffic: &'k Traffic,
    kind: Kind,
    now: u64,
    most: u32,
    /// Also those that are left out.
    nearest: Distance,
}

impl Health {
    /// By the number of the endpoint. None where all are as near, or nobody has used them.
    pub(crate) fn portions(
        &self,
        candidates: &Candidates<'_>,
        now: Instant,
    ) -> Vec<(usize, Portion)> {
        let Some(states) = self.known(&candidates.port.endpoints) else {
            return Vec::new();
        };
        let (traffic, now) = (candidates.traffic(), self.at(now));
        let of = &traffic.outlier_detection;
        let view = View::of(candidates, &states, (0, of));
        let fitting = candidates.fitting();
        let places: BTreeSet<(Tier, Distance)> = fitting.map(|(_, rank)| rank).collect();
        let Some((tier, nearest)) = places.first().copied() else {
            return Vec::new();
        };
        let is_alike = places.iter().filter(|rank| rank.0 == tier).count() < 2;
        if is_alike {
            return Vec::new();
        }
        let percent = traffic.load_balancer.locality.spill_over_percent;
        let asked = |state: &Arc<State>| state.breaker.is_asked(of, now);
        let kind = match states.iter().any(asked) {
            true => Kind::Request,
            false => Kind::Connection,
        };
        let known = Known {
            states: &states,
            traffic,
            kind,
            now,
            most: most(&traffic.limits, kind, (view.usable.len(), percent)),
            nearest,
        };
        let endpoint = |at: u32| &candidates.port.endpoints[at as usize];
        let one = |used: Used| {
            let portion = Portion {
                place: place(candidates, endpoint(used.at)),
                percent: used.share * 100.0,
                why: used.why,
            };
            (used.at as usize, portion)
        };
        known.used(&view).into_iter().map(one).collect()
    }
}

fn place(candidates: &Candidates<'_>, endpoint: &Endpoint) -> &'static str {
    match candidates.distance(endpoint) {
        Distance::Node => "node",
        Distance::Zone => "zone",
        Distance::Far => "farther",
    }
}

impl Known<'_> {
    fn used(&self, view: &View) -> Vec<Used> {
        let mut used = Vec::new();
        let mut begin = 0;
        for (number, part) in view.parts.iter().enumerate() {
            let of_part = &view.usable[begin..part.end];
            begin = part.end;
            let share = part.share as f64 / ALL as f64 / of_part.len() as f64;
            used.extend(of_part.iter().map(|at| Used {
                part: number,
                at: *at,
                share,
                why: why(&view.parts, number, self.nearest),
            }));
        }
        for number in 0..view.parts.len() {
            self.spill(number, &view.parts, &mut used);
        }
        used
    }

    /// What those of a part give away to the next that works.
    fn spill(&self, number: usize, parts: &[Part], used: &mut [Used]) {
        let mut farther = (number + 1)..parts.len();
        let Some(next) = farther.find(|next| parts[*next].working > 0) else {
            return;
        };
        let by = (self.kind, self.now);
        let burden = |at: u32| Burden::of(&self.states[at as usize], by, self.most);
        let fars = used.iter().filter(|one| one.part == next);
        let fars: Vec<Burden> = fars.map(|one| burden(one.at)).collect();
        let percent = self.traffic.load_balancer.locality.spill_over_percent;
        let mut given = 0.0;
        for one in used.iter_mut().filter(|one| one.part == number) {
            let near = burden(one.at);
            let least = fars
                .iter()
                .max_by(|a, b| near.times(a).total_cmp(&near.times(b)));
            let Some(far) = least.filter(|_| !near.is_little(self.kind, percent)) else {
                continue;
            };
            let given_away = one.share * (ALL - keeps(&near, far, percent)) as f64 / ALL as f64;
            one.share -= given_away;
            given += given_away;
            if given_away * 20.0 < one.share {
                continue;
            }
            one.why = match near.is_over() {
                true => format!(
                    "{} in flight are its share of the limit: farther ones are used, too",
                    near.pending
                ),
                false => format!(
                    "it has {:.1} times the load of a farther one: these are used, too",
                    near.times(far)
                ),
            };
        }
        let count = fars.len() as f64;
        let is_told = given > 0.05;
        for one in used.iter_mut().filter(|one| one.part == next) {
            one.share += given / count;
            if is_told {
                one.why = "nearer ones have too much to do".to_owned();
            }
        }
    }
}

/// By how many work.
fn why(parts: &[Part], number: usize, nearest_of_all: Distance) -> String {
    let part = parts[number];
    let nearest = parts[0];
    match (number, part.share) {
        _ if parts.iter().all(|part| part.working == 0) => "nobody works: all are alike".to_owned(),
        (0, _) if nearest.distance != nearest_of_all => "no nearer one works".to_owned(),
        (0, ALL) => "preferred".to_owned(),
        (0, _) => format!("preferred, and {} of {} work", part.working, part.count),
        (_, 0) => "nearer ones are enough".to_owned(),
        (_, _) => format!("{} of {} nearer ones work", nearest.working, nearest.count),
    }
}
