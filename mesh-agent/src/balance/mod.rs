//! Picks one endpoint out of the ready ones.
//!
//! Each worker has its own [`Balancer`]. What it knows of an endpoint is kept by
//! the pod and its port, so that it outlives a change of the configuration, and
//! goes with the pod. Pure and synchronous. Never looks at policy or routes, and
//! picks nothing that the configuration in the caller's hand does not have.

mod balancer;
mod endpoints;

pub(crate) use balancer::{Attempt, Balancer};
pub(crate) use endpoints::Candidates;
