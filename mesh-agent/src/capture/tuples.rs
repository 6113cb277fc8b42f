//! Proof of which pod a dial of the agent's own came to.

use std::net::SocketAddr;
use std::sync::Arc;

use aya::maps::{HashMap, MapData};
use mesh_common::abi::{TUPLE_AMBIGUOUS, TUPLE_DIALLED, TUPLE_THROUGH, Tuple};

/// Reads the map of live tuples, from any thread; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tuples(Arc<HashMap<MapData, Tuple, u64>>);

impl Tuples {
    pub(super) fn new(map: HashMap<MapData, Tuple, u64>) -> Self {
        Self(Arc::new(map))
    }

    /// Cookie of the enrolled namespace that the SYN from `source` to
    /// `destination`, dialled by this agent, came to. To be asked when the
    /// connect is done. None also where the kernel cannot be asked, and for a pod
    /// that took over the address and is not enrolled yet.
    #[must_use]
    pub(crate) fn entered_pod(&self, source: SocketAddr, destination: SocketAddr) -> Option<u64> {
        let value = self.0.get(&Tuple::between(source, destination), 0).ok()?;
        (![TUPLE_DIALLED, TUPLE_AMBIGUOUS, TUPLE_THROUGH].contains(&value)).then_some(value)
    }
}

impl std::fmt::Debug for Tuples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tuples")
    }
}
