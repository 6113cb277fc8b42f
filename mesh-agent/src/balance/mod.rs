//! Picks one endpoint out of the ready ones.
//!
//! Each worker has its own [`Balancer`]. What it knows of an endpoint is kept by
//! the pod and its port, so that it outlives a change of the configuration, and
//! goes with the pod. Which endpoint a client keeps going to is known to all
//! workers ([`Affinity`]). Pure and synchronous. Never looks at policy or routes, and
//! picks nothing that the configuration in the caller's hand does not have.

mod affinity;
mod balancer;
mod endpoints;
#[cfg(test)]
mod testing;

pub(crate) use affinity::Affinity;
pub(crate) use balancer::Balancer;
pub(crate) use endpoints::{Attempt, Candidates, Client, Reach};
