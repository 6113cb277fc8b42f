//! What the configuration says of a connection: where it goes, how its bytes
//! get there, whether it may be.
//!
//! Pure, so that the data path and `explain` ask the same functions. Never
//! looks at a socket and keeps nothing between two questions. Invariants:
//! plaintext is chosen here, by what the configuration says of the destination,
//! and never later; only a decision here makes what a connection to elsewhere
//! may be opened by ([`MayDial`]).

mod authz;
mod changes;
mod for_requests;
mod in_force;
mod target;
mod transport;

pub(crate) use authz::{AuthzInput, Verdict};
pub(crate) use changes::Changes;
pub(crate) use in_force::InForce;
pub(crate) use target::{SourcePod, Target};
pub(crate) use transport::{DecisionContext, MayDial, MeshPeer, Outside, Transport};
