//! The API server, as a source of objects: how it is reached, what it lists,
//! what changes.
//!
//! Knows no kind: an object is its place, its version and its JSON. Invariants:
//! every call has a deadline, also the one that waits for changes; a list counts
//! only when it has come to its end; an error is never "there is none", and a kind
//! that was there is gone only after several looks (`presence`); nothing is asked for
//! again without a pause; no body is held as a whole.

mod access;
mod backoff;
mod client;
mod cut;
mod fault;
mod follow;
mod gate;
mod item;
mod lines;
mod list;
mod presence;
mod progress;
mod resource;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

pub(crate) use access::{Access, AccessError};
pub(crate) use client::{Client, Cluster, Patience};
pub(crate) use cut::Cut;
pub(crate) use fault::{Fault, Reason};
pub(crate) use follow::{Event, Follower};
pub(crate) use gate::Gate;
pub(crate) use item::{Head, Item};
pub(crate) use list::{ListReader, Malformed, Page};
pub(crate) use progress::{Phase, Progress, Seen};
pub(crate) use resource::Resource;
