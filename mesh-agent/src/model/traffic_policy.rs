//! `TrafficPolicy` as written: what it says for which Services.

use std::sync::Arc;
use std::time::SystemTime;

use super::injection::Injection;
use super::traffic::{
    Limits, LoadBalancer, OutlierDetection, RateLimit, RetryBudget, Timeouts, Traffic,
};
use super::{AppProtocol, Name, ServiceKey};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub namespace: Name,
    pub name: Name,
    /// `None` where no API server has seen it: files. Those are the youngest.
    pub created: Option<SystemTime>,
    /// All of its own namespace.
    pub targets: Box<[PolicyTarget]>,
    pub says: Says,
    /// What of its present version is not understood. What it says is then what its
    /// last good version did; without one no more than the rate limits that can be read.
    pub fault: Option<Box<str>>,
    /// It has something to go by: its own, or that of its last good version.
    pub is_known: bool,
}

/// A Service that it names, or one port of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyTarget {
    pub service: Name,
    /// The name of a port.
    pub section: Option<Name>,
}

/// Its parts; what is left out is as without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// Of ports that are named alone.
    pub protocol: Option<AppProtocol>,
    pub load_balancer: Option<LoadBalancer>,
    pub outlier_detection: Option<OutlierDetection>,
    pub limits: Option<Limits>,
    pub retry_budget: Option<RetryBudget>,
    pub timeouts: Option<Timeouts>,
    pub rate_limits: Option<Arc<[RateLimit]>>,
    pub faults: Option<Arc<[Injection]>>,
}

impl TrafficPolicy {
    #[must_use]
    pub fn target(&self, target: &PolicyTarget) -> ServiceKey {
        ServiceKey {
            namespace: self.namespace.clone(),
            name: target.service.clone(),
        }
    }

    /// Is it for all of the Service (`None`), or for its port of this name?
    #[must_use]
    pub fn is_for(&self, service: &ServiceKey, section: Option<&str>) -> bool {
        let is_it = |target: &PolicyTarget| {
            target.service == service.name && target.section.as_deref() == section
        };
        self.namespace == service.namespace && self.targets.iter().any(is_it)
    }

    /// Of two for the same the lesser holds: the older, then the first by name.
    pub fn order(&self) -> impl Ord + '_ {
        (self.created.is_none(), self.created, &self.name)
    }
}

impl Says {
    /// With what holds where it says nothing. A part is whole: what it leaves out of
    /// one has the default.
    #[must_use]
    pub fn over(&self, under: &Traffic) -> Traffic {
        let Traffic {
            load_balancer,
            outlier_detection,
            limits,
            retry_budget,
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
            timeouts: said.timeouts.unwrap_or(*timeouts),
            rate_limits: said.rate_limits.unwrap_or_else(|| rate_limits.clone()),
            faults: said.faults.unwrap_or_else(|| faults.clone()),
        }
    }
}
