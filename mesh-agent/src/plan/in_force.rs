//! What the configuration is now.

use std::sync::Arc;

use crate::model::Snapshot;
use crate::policy::Authorizer;

/// What is in force: a snapshot and the policies compiled from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) policy: Arc<Authorizer>,
}
