//! Which rule a request gets, and what becomes of it.
//!
//! `group` holds the rules that one kind of caller gets of one port, compiled:
//! by precedence, with an index by path, so that a request costs what its path
//! has of elements and not what there are of rules. A decision borrows from
//! these and allocates nothing, unless something of the head is computed.
//! Randomness is an argument: the same request and the same numbers decide the
//! same. Never looks at endpoints: that a backend has none, its picker says.

mod compile;
mod cors;
mod decision;
mod filters;
mod group;
mod index;
mod pattern;
mod query;
mod redirect;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use decision::{Decision, Forward, Mirrored, Respond, RouteReason};
pub(super) use group::HttpGroup;
pub(crate) use pattern::check as check_pattern;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use session::fuzz as fuzz_session;
