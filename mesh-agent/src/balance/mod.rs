//! Picks one endpoint out of the ready ones.
//!
//! Pure: the caller passes the counter's value. Round robin for now.

use std::net::IpAddr;

use crate::model::Endpoint;

/// The `turn`-th endpoint of the family of `client`, wrapping around.
#[must_use]
pub fn round_robin(endpoints: &[Endpoint], client: IpAddr, turn: usize) -> Option<&Endpoint> {
    let fits = |e: &&Endpoint| e.addr.ip().is_ipv4() == client.is_ipv4();
    let count = endpoints.iter().filter(fits).count();
    if count == 0 {
        return None;
    }
    endpoints.iter().filter(fits).nth(turn % count)
}
