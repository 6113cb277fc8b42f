//! TrafficPolicy: how what goes to a Service is spread, limited and ended.
//!
//! It says what there is: where its present version is not understood in full, its
//! last good one holds. Without one its rate limits that can be read hold all the
//! same, for what restricts must not be lost by a slip elsewhere, and one whose `match`
//! cannot counts all requests; all else has its default. Unknown fields and fields with
//! nothing behind them are such faults.

mod backend;
#[cfg(test)]
mod definition;
mod fault_spec;
mod injected;
mod matching;
mod reading;
mod spec;
mod values;

use std::sync::Arc;

use super::about::{About, Contradiction, Fact, Followed};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::model::traffic_policy::TrafficPolicy;

pub(crate) use backend::Backend;
#[cfg(test)]
pub(crate) use definition::{definition, fields_page};

pub(in crate::discovery) const GROUP: &str = "mesh-agent.io";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traffic(pub(in crate::discovery) Arc<TrafficPolicy>);

impl Fact for Traffic {
    const ABOUT: About = About {
        name: "TrafficPolicy",
        group: GROUP,
        versions: &["v1alpha1"],
        plural: "trafficpolicies",
        namespaced: true,
        followed: Followed::Whole,
        meaning: "how connections and requests to a Service are spread, limited and ended: `docs/traffic-policy.md`",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        Self(Arc::new(reading::read(value, found)))
    }

    /// What its last version said that was understood, beside what is wrong now.
    fn fill(&mut self, before: &Self, part: Part) -> bool {
        filled(&mut self.0, &before.0, part)
    }

    fn share(&mut self, names: &mut Interner) {
        shared(&mut self.0, names);
    }

    /// Of two that differ the first one holds: which is told.
    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        Contradiction::unless(one.1 == other.1)
    }
}

fn filled(now: &mut Arc<TrafficPolicy>, before: &TrafficPolicy, part: Part) -> bool {
    if part != Part::Route || !before.is_known {
        return false;
    }
    let mut filled = before.clone();
    filled.fault.clone_from(&now.fault);
    *now = Arc::new(filled);
    true
}

fn shared(policy: &mut Arc<TrafficPolicy>, names: &mut Interner) {
    let policy = Arc::make_mut(policy);
    names.share(&mut policy.namespace);
    for target in &mut policy.targets {
        names.share(&mut target.service);
    }
}
