//! Proof that a dial of the agent's own came to an enrolled pod.

use std::net::SocketAddr;
use std::sync::Arc;

use aya::maps::{HashMap, MapData};
use mesh_common::abi::{TUPLE_ENTERED, Tuple};

/// Reads the map of live tuples, from any thread; cheap to clone.
#[derive(Clone)]
pub struct Tuples(Arc<HashMap<MapData, Tuple, u8>>);

impl Tuples {
    pub(super) fn new(map: HashMap<MapData, Tuple, u8>) -> Self {
        Self(Arc::new(map))
    }

    /// Did the SYN from `source` to `destination`, dialled by this agent, enter
    /// an enrolled namespace? To be asked when the connect is done. False also
    /// where the kernel cannot be asked, and for a pod that took over the
    /// address and is not enrolled yet.
    #[must_use]
    pub fn entered_pod(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        self.0
            .get(&Tuple::between(source, destination), 0)
            .is_ok_and(|value| value == TUPLE_ENTERED)
    }
}

impl std::fmt::Debug for Tuples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tuples")
    }
}
