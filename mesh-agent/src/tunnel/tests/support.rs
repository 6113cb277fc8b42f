//! What ends of streams have in common.

use crate::tunnel::{Connection, Relay, ResetReason, StreamEnd};

/// Says the stream's end to the other agent; may the connection carry another one?
pub(crate) async fn settle(
    end: &StreamEnd,
    relay: &mut Relay,
    connection: &mut Connection,
) -> bool {
    let reset = match end {
        StreamEnd::Finished => return relay.is_over(connection),
        StreamEnd::ResetByApplication => ResetReason::Aborted,
        StreamEnd::ResetByPeer(_) => ResetReason::Answer,
        _ => return false,
    };
    relay.finish_reset(connection, reset).await
}
