//! What agents tell of their nodes, for who writes status.

use std::fmt;

use crate::identity::report::{Answer, Report};

/// Who takes reports.
pub(crate) trait Reports: fmt::Debug + Send + Sync + 'static {
    /// Of a node that proved to be this one. Never waits.
    fn take(&self, node: &str, report: Report) -> Answer;
}
