//! XBackendTrafficPolicy of the Gateway API (experimental): a retry budget for Services.
//!
//! What of it a TrafficPolicy for the same Service says too is that one's. It names whole
//! Services; what else it may name is somebody else's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::reading::{MAX_TARGETS, Reading};
use super::spec::Hour;
use super::values::{Label, Time, Within};
use super::{filled, shared};
use crate::discovery::intern::Interner;
use crate::discovery::kinds::NOT_YET;
use crate::discovery::kinds::about::{About, Contradiction, Fact, Followed};
use crate::discovery::kinds::found::Found;
use crate::discovery::kinds::meta::Meta;
use crate::discovery::kinds::part::Part;
use crate::discovery::tree::Node;
use crate::model::traffic::{Rate, RetryBudget};
use crate::model::traffic_policy::{PolicyKind, PolicyTarget, Says, TrafficPolicy};

const FIELDS: &[&str] = &["retryConstraint", "sessionPersistence", "targetRefs"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend(pub(in crate::discovery) Arc<TrafficPolicy>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Constraint {
    budget: Option<Budget>,
    min_retry_rate: Option<MinRate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    percent: Option<Within<0, 100>>,
    interval: Option<Time<1_000, 3_600_000>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MinRate {
    count: Option<Within<1, 1_000_000>>,
    interval: Option<Hour>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    group: String,
    kind: String,
    /// Looked at by itself: of another kind it may be longer, and of another form.
    #[serde(rename = "name")]
    _name: String,
}

impl Fact for Backend {
    const ABOUT: About = About {
        name: "XBackendTrafficPolicy",
        group: "gateway.networking.x-k8s.io",
        versions: &["v1alpha1"],
        plural: "xbackendtrafficpolicies",
        namespaced: true,
        followed: Followed::Dispensable,
        meaning: "the retry budget of Services that no TrafficPolicy gives one: `docs/traffic-policy.md`",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        Self(Arc::new(read(value, found)))
    }

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

fn read(value: &Node<'_>, found: &mut Found) -> TrafficPolicy {
    let mut reading = Reading::begin(value, FIELDS);
    let targets = targets(&mut reading);
    let retry_budget = reading.part("retryConstraint").map(budget);
    if !value["spec"]["sessionPersistence"].is_null() {
        found.advise("spec.sessionPersistence", NOT_YET);
    }
    let says = Says {
        retry_budget: retry_budget.filter(|_| reading.is_good()),
        ..Says::default()
    };
    reading.end(
        value,
        found,
        (PolicyKind::XBackendTrafficPolicy, targets, says),
    )
}

fn targets(reading: &mut Reading<'_, '_>) -> Box<[PolicyTarget]> {
    let mut targets = BTreeSet::new();
    let list = reading.list("targetRefs", MAX_TARGETS).unwrap_or_default();
    if list.is_empty() && reading.is_good() {
        reading.wrong("spec.targetRefs", "names nothing");
    }
    for (i, value) in list.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        let Some(target) = reading.typed::<Target>(value, &at) else {
            continue;
        };
        if target.kind != "Service" || !matches!(&*target.group, "" | "core") {
            continue;
        }
        let name = reading.typed::<Label>(&value["name"], &format!("{at}.name"));
        targets.extend(name.map(|Label(name)| PolicyTarget {
            service: name.into(),
            section: None,
        }));
    }
    targets.into_iter().collect()
}

fn budget(said: Constraint) -> RetryBudget {
    let unset = RetryBudget::default();
    let (percent, interval) = said
        .budget
        .map(|budget| (budget.percent, budget.interval))
        .unwrap_or_default();
    let rate = said
        .min_retry_rate
        .map(|rate| (rate.count, rate.interval))
        .unwrap_or_default();
    RetryBudget {
        percent: percent.map_or(unset.percent, |percent| percent.0),
        interval: interval.map_or(unset.interval, |time| time.0),
        min_retries: Rate {
            count: rate.0.map_or(unset.min_retries.count, |count| count.0),
            per: rate.1.map_or(Duration::from_secs(1), |time| time.0),
        },
    }
}
