//! Builds the agent, in the order in which its parts need each other, and ends it.

mod api_callers;
mod authority;
mod base;
mod connections;
#[cfg(test)]
mod deployed;
mod doctor;
mod endpoints;
mod handover;
mod ledger;
mod left_alone;
mod neighbours;
mod place;
mod plugin;
mod problems;
mod question;
#[cfg(test)]
mod reference;
mod reporting;
mod route_status;
mod routes;
mod running;
mod source_problems;
mod status;
mod traffic;
mod uninstall;
mod view;

use crate::config::Run;
pub(crate) use authority::authority;
pub(crate) use doctor::doctor;
pub(crate) use ledger::TARGET as PROBLEMS;
pub(crate) use question::words;
use running::{End, Running};
pub(crate) use uninstall::cleanup;
pub(crate) use uninstall::{plugin_away, uninstall};

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) async fn run(flags: Run) -> anyhow::Result<()> {
    let mut agent = Running::start(flags).await?;
    match agent.follow().await? {
        End::Told => agent.stop().await,
        End::Succeeded(asker) => agent.hand_over(asker).await,
    }
}
