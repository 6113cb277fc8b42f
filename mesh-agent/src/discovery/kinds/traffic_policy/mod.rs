//! TrafficPolicy: how what goes to a Service is spread, limited and ended.
//!
//! It says what there is: where its present version is not understood in full, its
//! last good one holds. Without one its rate limits that can be read hold all the
//! same, for what restricts must not be lost by a slip elsewhere; all else has its
//! default. Unknown fields and fields with nothing behind them are such faults.

#[cfg(test)]
mod definition;
mod fault_spec;
mod injected;
mod reading;
mod spec;
mod values;

use std::sync::Arc;

use super::about::{About, Contradiction, Fact};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::model::traffic_policy::TrafficPolicy;

#[cfg(test)]
pub(crate) use definition::{definition, fields_page};

pub(in crate::discovery) const GROUP: &str = "mesh-agent.io";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic(pub(in crate::discovery) Arc<TrafficPolicy>);

impl Fact for Traffic {
    const ABOUT: About = About {
        name: "TrafficPolicy",
        group: GROUP,
        versions: &["v1alpha1"],
        plural: "trafficpolicies",
        namespaced: true,
        meaning: "how connections and requests to a Service are spread, limited and ended: `docs/traffic-policy.md`",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        Self(Arc::new(reading::read(value, found)))
    }

    /// What its last version said that was understood, beside what is wrong now.
    fn fill(&mut self, before: &Self, part: Part) -> bool {
        if part != Part::Route || !before.0.is_known {
            return false;
        }
        let mut filled = (*before.0).clone();
        filled.fault.clone_from(&self.0.fault);
        self.0 = Arc::new(filled);
        true
    }

    fn share(&mut self, names: &mut Interner) {
        let policy = Arc::make_mut(&mut self.0);
        names.share(&mut policy.namespace);
        for target in &mut policy.targets {
            names.share(&mut target.service);
        }
    }

    /// Of two that differ the first one holds: which is told.
    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        match one.1 == other.1 {
            true => Contradiction::None,
            false => Contradiction::Whole,
        }
    }
}
