//! The agent's side of its CNI plugin: takes in what the plugin asks, keeps the plugin
//! in the node's chain, and takes it out again.
//!
//! The chain belongs to another program. Only our own entry is added and removed, as
//! text; nothing else of a file changes, no file that the runtime reads is ever
//! invalid, and the first network of a node is never ours to make.

mod binary;
mod chain;
#[cfg(test)]
mod distributions;
mod folder;
#[cfg(test)]
mod harmless;
mod keeper;
mod known;
mod links;
mod list;
mod metrics;
mod own;
mod places;
#[cfg(test)]
mod samples;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod uninstall;
#[cfg(test)]
mod unreadable;

pub(crate) use chain::Standing;
pub(crate) use keeper::{Keeper, Report};
pub(crate) use known::Known;
pub(crate) use metrics::register;
pub(crate) use server::{bind, serve};
pub(crate) use settings::Settings;
#[cfg(test)]
pub(crate) use uninstall::{Failure, Need};
pub(crate) use uninstall::{Left, uninstall};

/// How the plugin stands, without a change of anything; `None` where no folder of a
/// CNI configuration is known.
pub(crate) fn standing(settings: &Settings) -> Option<Standing> {
    let standing = chain::look(settings, chain::May::Look).standing;
    let is_any = !matches!(&standing, Standing::NoNetwork(folders) if folders.is_empty());
    is_any.then_some(standing)
}

/// Puts the plugin into the chain where it is not.
pub(crate) fn install(settings: &Settings) -> Standing {
    chain::look(settings, chain::May::Update).standing
}
