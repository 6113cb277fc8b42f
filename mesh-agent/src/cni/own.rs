//! A configuration of our own, which the runtime takes before the network's: the network's
//! chain with our entry behind it. A program that writes the network's file anew, as most do
//! when a node starts, does not take us out, and pods that start before the agent wait for it.

use mesh_cni::Entry;

use super::list::{Network, Unfit};

/// Names are taken in their order.
pub(super) const FILE: &str = "00-mesh-agent.conflist";

/// Is it taken before that file?
pub(super) fn comes_before(name: &str) -> bool {
    FILE < name
}

/// What it is to say.
pub(super) fn text((name, network): (&str, &Network<'_>), entry: &Entry) -> Result<String, Unfit> {
    let plain = network.without();
    Ok(Network::read(name, &plain)?.with(entry))
}

/// Is that the same, but for what another version has as our entry?
pub(super) fn is_alike(found: &str, wanted: &str) -> bool {
    match [found, wanted].map(|text| Network::read(FILE, text)) {
        [Ok(found), Ok(wanted)] => found.has_ours() && found.without() == wanted.without(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
