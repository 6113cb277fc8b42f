//! What the configuration is now.

use std::sync::Arc;

use crate::model::{OrigDst, Snapshot};
use crate::policy::Authorizer;
use crate::route::{self, RouteDecision, Routes, ServiceRoutes};
use crate::traffic::Rates;

/// What is in force: a snapshot, and the policies, routes and rate limits made of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) policy: Arc<Authorizer>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) rates: Arc<Rates>,
}

impl InForce {
    /// Those of the port of the Service that is called.
    #[must_use]
    pub(crate) fn routes_at(&self, dst: OrigDst) -> Option<&ServiceRoutes> {
        match route::resolve(&self.snapshot, dst) {
            RouteDecision::Service { service, port, .. } => {
                let routes = self.routes.of(&service.key, port.port)?;
                Some(routes)
            }
            RouteDecision::Workload(_) | RouteDecision::External | RouteDecision::Refused(_) => {
                None
            }
        }
    }
}
