//! Settings of the data path.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::io::{Limits, RECOMMENDED_OPEN_FILES};
use crate::model::traffic;
use crate::peer;
use crate::tunnel::PoolConfig;

/// Handshakes of a pod with one peer at once, of all workers: few enough that two busy
/// agents get them done within the time that each has, and enough for a network that
/// is slow.
const HANDSHAKES: usize = 256;
const LEAST_HANDSHAKES: usize = 16;

/// Settings of the data path.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) workers: usize,
    /// The node's zone; `None` where its endpoints tell it.
    pub(crate) node_zone: Option<String>,
    /// Longest wait for an upstream's answer.
    pub(crate) connect_timeout: Duration,
    /// Ends a connection without bytes for this long; `None`: never.
    pub(crate) idle_timeout: Option<Duration>,
    /// Of the whole agent; each takes two file descriptors.
    pub(crate) max_connections: usize,
    /// Of one pod. Beside that each pod, and each source, may have as many as
    /// are free, so that busy ones do not starve their neighbours.
    pub(crate) max_connections_per_pod: usize,
    /// In flight, of the whole agent.
    pub(crate) max_requests: usize,
    /// Of one pod. Shared as connections are.
    pub(crate) max_requests_per_pod: usize,
    /// Bytes that all connections hold of what one side sent and the other did
    /// not take; towards that they read less at a time.
    pub(crate) max_buffer_bytes: usize,
    /// What the machine gives.
    pub(crate) limits: Limits,
    /// Longest TLS handshake, and longest wait for a client's first bytes
    /// where they decide what the connection is.
    pub(crate) handshake_timeout: Duration,
    /// Mutual TLS also between pods of this node.
    pub(crate) same_node_tls: bool,
    /// Bounds of each worker's idle connections to other agents.
    pub(crate) pool: PoolConfig,
    /// Source ports of deliveries. Outside of the clients' own ephemeral range,
    /// for a delivery shares the client's address.
    pub(crate) delivery_ports: RangeInclusive<u16>,
}

impl Default for Config {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = Limits::of(RECOMMENDED_OPEN_FILES, workers);
        let of = [limits.connections, limits.connections_per_pod];
        let [max_requests, max_requests_per_pod] = request_limits([None, None], of);
        Self {
            workers,
            node_zone: None,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: None,
            max_connections: limits.connections,
            max_connections_per_pod: limits.connections_per_pod,
            max_requests,
            max_requests_per_pod,
            limits,
            max_buffer_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(5),
            same_node_tls: false,
            pool: PoolConfig::default(),
            delivery_ports: 10_000..=32_000,
        }
    }
}

/// Requests in flight, of all pods and of one: as flags say, or as many as may be to one
/// Service, and no fewer than connections, each of which may have one.
pub(crate) fn request_limits(said: [Option<usize>; 2], connections: [usize; 2]) -> [usize; 2] {
    let usual = traffic::Limits::default().max_requests as usize;
    let in_all = said[0].unwrap_or(usual.max(connections[0]));
    let half = in_all.div_ceil(2).max(connections[1]).min(in_all);
    [in_all, said[1].unwrap_or(half)]
}

impl Config {
    /// What of it is about other agents.
    pub(super) fn peers(&self) -> peer::Config {
        peer::Config {
            connect_timeout: self.connect_timeout,
            handshake_timeout: self.handshake_timeout,
            handshakes_at_once: (HANDSHAKES / self.workers.max(1)).max(LEAST_HANDSHAKES),
            same_node_tls: self.same_node_tls,
            limits: self.limits,
            pool: self.pool.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_half_of_the_requests_and_never_fewer_than_its_connections() {
        let none = [None, None];
        assert_eq!(request_limits(none, [9_000, 4_500]), [100_000, 50_000]);
        assert_eq!(request_limits(none, [300_000, 200_000]), [300_000, 200_000]);
        assert_eq!(request_limits([Some(8), None], [9_000, 4_500]), [8, 8]);
        assert_eq!(request_limits([Some(8), Some(3)], [4, 2]), [8, 3]);
        assert_eq!(request_limits([Some(8), None], [4, 2]), [8, 4]);
    }
}
