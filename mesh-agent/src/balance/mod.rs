//! Picks one endpoint out of the ready ones.
//!
//! What is known of an endpoint (its breaker, how long it takes, what is under way
//! there) is kept by the pod and its port, for all workers ([`Health`]), so that it
//! outlives a change of the configuration, and goes with the pod. Each worker has its
//! own [`Balancer`] with views of it, made anew when a breaker changes: a pick takes no
//! lock. Which endpoint a client keeps going to is known to all workers ([`Affinity`]).
//! Pure and synchronous; time and chance are arguments. Never looks at policy or
//! routes, and picks nothing that the configuration in the caller's hand does not have.

mod affinity;
mod aside;
mod attempt;
mod balancer;
mod breaker;
mod choose;
mod endpoints;
mod ends;
mod ewma;
mod health;
mod history;
mod in_flight;
mod leave;
mod locality;
mod mean;
mod outcome;
mod patience;
mod place;
mod portion;
mod reasons;
mod standing;
#[cfg(test)]
mod testing;
mod ticket;
mod view;

pub(crate) use affinity::Affinity;
pub(crate) use attempt::{Attempt, Delayed};
pub(crate) use balancer::{Balancer, Draw, Unpicked};
pub(crate) use breaker::{Change, Phase};
pub(crate) use endpoints::{Candidates, Client, Reach};
pub(crate) use health::Health;
pub(crate) use history::Transition;
pub(crate) use in_flight::InFlight;
pub(crate) use leave::Leave;
pub(crate) use outcome::{Cause, Failure, Kind, Outcome, Said, is_over_limit};
pub(crate) use portion::Portion;
pub(crate) use standing::{Kept, Standing};
