//! What people see of their policies and routes where they wrote them: conditions
//! on each object, of a route on each of its parents, of a policy for Services on each
//! of its targets, written by one of the authority's replicas.
//!
//! Others write conditions on the same objects: theirs are never touched. What was
//! judged is an object of one generation, and only to that one it is written. An
//! object whose status says it already is not written.

mod conditions;
mod events;
mod lease;
mod nodes;
mod object;
mod parents;
mod programmed;
mod rotation;
#[cfg(test)]
mod tests;
mod told;
mod waiting;
mod writer;

pub(crate) use conditions::{Condition, Holds};
pub(crate) use events::{About, Events, Warning};
pub(crate) use nodes::{Nodes, Said};
pub(crate) use object::Verdict;
pub(crate) use parents::Parent;
pub(crate) use writer::{Config, Judge, run};
