//! A request's place among those that are in flight: of the node, of its pod, and of the
//! source that asks from elsewhere.

use std::rc::Rc;

use super::context::ConnectionContext;
use crate::model::{RefuseReason, Refused};

/// Held until the request is over; to take one locks nothing.
pub(super) struct RequestPlace(Rc<ConnectionContext>);

impl RequestPlace {
    /// The error is what the request is answered with at once.
    pub(super) fn take(context: &Rc<ConnectionContext>) -> Result<Self, Refused> {
        let agent = &context.worker.agent;
        let taken = agent
            .request_places
            .take(&context.pod.requests, context.requests_of());
        match taken {
            Ok(()) => Ok(Self(context.clone())),
            Err(full) => {
                agent.metrics.requests_over_share(full);
                Err(Refused {
                    detail: Some(full.label()),
                    ..RefuseReason::MaxRequestsPerPod.into()
                })
            }
        }
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        let Self(context) = self;
        let places = &context.worker.agent.request_places;
        places.give_back(&context.pod.requests, context.requests_of());
    }
}
