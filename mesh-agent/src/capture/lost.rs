//! What agents dialled that are gone: their sockets outlive them, and the programs that
//! would forget the tuples do not.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use aya::maps::{HashMap, MapData, MapError};
use mesh_common::abi::{TUPLE_PROBED, Tuple};

use super::{Capture, Error, absent_is_fine};
use crate::sys::netns::Netns;
use crate::sys::sock_diag;

const MAP: &str = "TUPLES";

impl Capture {
    /// Forgets what agents dialled that are gone, once no socket has it: a SYN like it
    /// would pass for theirs. `pods`: whose namespaces agents dial from, beside the
    /// node's own, in which this one is. Gives how many were forgotten.
    pub(crate) fn forget_lost_tuples<'n>(
        &mut self,
        pods: impl Iterator<Item = &'n Netns>,
    ) -> Result<usize, Error> {
        if !self.lost.is_due() {
            return Ok(0);
        }
        let failed = |source| Error::Map { name: MAP, source };
        let mut map: HashMap<MapData, Tuple, u64> = self.map(MAP)?;
        // First those that are known, then those that are there: a dial that begins
        // meanwhile is not among the first.
        let mut over = HashSet::new();
        for entry in map.iter() {
            match entry {
                // A prober's own program forgets it.
                Ok((tuple, value)) if value != TUPLE_PROBED => drop(over.insert(tuple)),
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let mut keep = |sockets: io::Result<Vec<(SocketAddr, SocketAddr)>>| -> Result<(), Error> {
            for (own, other) in sockets.map_err(Error::Sockets)? {
                over.remove(&Tuple::between(own, other));
                over.remove(&Tuple::between(canonical(own), canonical(other)));
            }
            Ok(())
        };
        keep(sock_diag::connected())?;
        for pod in pods {
            keep(pod.run(sock_diag::connected).flatten())?;
        }
        for tuple in &over {
            absent_is_fine(MAP, map.remove(tuple))?;
        }
        if !over.is_empty() {
            tracing::info!(
                tuples = over.len(),
                "forgot what agents dialled that are gone"
            );
        }
        Ok(over.len())
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
