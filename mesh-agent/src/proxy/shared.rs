//! When a connection that streams have in common ends, at either of its agents.

use std::time::Duration;

use super::context::ConnectionContext;
use crate::tunnel::SharedConnection;

/// What its channels carry is cut as well, each by itself, and ends by then.
const CUT_ENDS: Duration = Duration::from_secs(2);

/// Has it closed behind its last channel where the agent drains, or the pod ends; ready when
/// nothing more is to be said on it.
pub(super) async fn is_over(context: &ConnectionContext, shared: &SharedConnection) {
    let cut = &context.entry().cut;
    let reason = tokio::select! {
        biased; // a cut does not wait
        reason = cut.wait() => reason,
        () = context.worker.draining.cancelled() => {
            shared.close_when_empty();
            cut.wait().await
        }
    };
    if reason.may_be_told() {
        shared.close_when_empty();
        tokio::time::sleep(CUT_ENDS).await;
    }
}
