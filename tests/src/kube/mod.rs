//! A real cluster: what `tests/kube/` started, through kubectl, and what the mesh
//! is in it.
//!
//! The cluster is one for all tests of a run, so that they run one after the
//! other; each has a namespace of its own in it.

mod absence;
mod cluster;
mod late;
mod mesh;
mod namespace;

pub use absence::Absence;
pub use cluster::{Cluster, SYSTEM};
pub use late::LateAgents;
pub use mesh::{Mesh, cluster, mesh};
pub use namespace::{AppPod, Namespace};
