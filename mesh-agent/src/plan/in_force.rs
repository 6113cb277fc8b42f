//! What the configuration is now.

use std::sync::Arc;

use crate::model::Snapshot;
use crate::policy::Authorizer;
use crate::route::Routes;

/// What is in force: a snapshot, and the policies and routes compiled from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) policy: Arc<Authorizer>,
    pub(crate) routes: Arc<Routes>,
}
