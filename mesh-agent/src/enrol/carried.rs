//! What the data path carries for the node's pods, as `status` shows it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Of all pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) connections: usize,
    /// In flight.
    pub(crate) requests: usize,
}

/// Of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct OfPod {
    pub(crate) connections: usize,
    /// In flight, of it and to it from elsewhere.
    pub(crate) requests: usize,
    /// Of the budget for bytes that wait: what its connections of HTTP/2 may have come.
    pub(crate) reserved_bytes: usize,
}

/// Now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    pub(crate) active: Active,
    /// By name.
    pub(crate) pods: BTreeMap<String, OfPod>,
}
