//! `TrafficPolicy` as written: what it says for which Services.

use std::sync::Arc;
use std::time::SystemTime;

use super::injection::Injection;
use super::traffic::{
    Hedging, Limits, LoadBalancer, OutlierDetection, RateLimit, RetryBudget, Timeouts, Traffic,
};
use super::{AppProtocol, Name, ServiceKey};

#[cfg(test)]
thread_local! {
    /// How often a policy was compared with another one: more policies take so much longer.
    pub(crate) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Of whose API it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PolicyKind {
    #[default]
    TrafficPolicy,
    /// The Gateway API's: a retry budget, where no TrafficPolicy says one.
    XBackendTrafficPolicy,
}

impl PolicyKind {
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TrafficPolicy => "TrafficPolicy",
            Self::XBackendTrafficPolicy => "XBackendTrafficPolicy",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrafficPolicy {
    pub(crate) kind: PolicyKind,
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    /// `None` where no API server has seen it: files. Those are the youngest.
    pub(crate) created: Option<SystemTime>,
    /// All of its own namespace.
    pub(crate) targets: Box<[PolicyTarget]>,
    pub(crate) says: Says,
    /// What of its present version is not understood. What it says is then what its
    /// last good version did; without one no more than the rate limits that can be read.
    pub(crate) fault: Option<Box<str>>,
    /// Fields that are read and have no effect yet.
    pub(crate) without_effect: Box<[Box<str>]>,
    /// It has something to go by: its own, or that of its last good version.
    pub(crate) is_known: bool,
}

/// A Service that it names, or one port of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PolicyTarget {
    pub(crate) service: Name,
    /// The name of a port.
    pub(crate) section: Option<Name>,
}

/// Its parts; what is left out is as without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Says {
    /// Of ports that are named alone.
    pub(crate) protocol: Option<AppProtocol>,
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) limits: Option<Limits>,
    pub(crate) retry_budget: Option<RetryBudget>,
    pub(crate) hedging: Option<Hedging>,
    pub(crate) timeouts: Option<Timeouts>,
    pub(crate) rate_limits: Option<Arc<[RateLimit]>>,
    pub(crate) faults: Option<Arc<[Injection]>>,
}

impl TrafficPolicy {
    #[must_use]
    pub(crate) fn target(&self, target: &PolicyTarget) -> ServiceKey {
        ServiceKey {
            namespace: self.namespace.clone(),
            name: target.service.clone(),
        }
    }

    /// That very object, whatever it says.
    #[must_use]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.namespace == other.namespace && self.name == other.name
    }

    /// As people name it.
    #[must_use]
    pub(crate) fn title(&self) -> String {
        format!("{} {}/{}", self.kind.name(), self.namespace, self.name)
    }

    /// Is it for all of the Service (`None`), or for its port of this name?
    #[must_use]
    pub(crate) fn is_for(&self, service: &ServiceKey, section: Option<&str>) -> bool {
        let is_it = |target: &PolicyTarget| {
            target.service == service.name && target.section.as_deref() == section
        };
        self.namespace == service.namespace && self.targets.iter().any(is_it)
    }

    /// Of two for the same the lesser holds: the older, then the first by name.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        #[cfg(test)]
        COMPARED.with(|count| count.set(count.get() + 1));
        (self.created.is_none(), self.created, &self.name)
    }
}

impl Says {
    /// With what holds where it says nothing. A part is whole: what it leaves out of
    /// one has the default.
    #[must_use]
    pub(crate) fn over(&self, under: &Traffic) -> Traffic {
        let Traffic {
            load_balancer,
            outlier_detection,
            limits,
            retry_budget,
            hedging,
            timeouts,
            rate_limits,
            faults,
        } = under;
        let said = self.clone();
        Traffic {
            load_balancer: said.load_balancer.unwrap_or_else(|| load_balancer.clone()),
            outlier_detection: said.outlier_detection.unwrap_or(*outlier_detection),
            limits: said.limits.unwrap_or(*limits),
            retry_budget: said.retry_budget.unwrap_or(*retry_budget),
            hedging: said.hedging.or_else(|| hedging.clone()),
            timeouts: said.timeouts.unwrap_or(*timeouts),
            rate_limits: said.rate_limits.unwrap_or_else(|| rate_limits.clone()),
            faults: said.faults.unwrap_or_else(|| faults.clone()),
        }
    }
}
