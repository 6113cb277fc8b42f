//! The runtime of whatever runs until it is told to stop.

use std::future::Future;

use anyhow::Context as _;

pub(super) fn control() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control runtime")
}

/// Runs the agent to its end. What a disk that does not answer holds is not waited for:
/// it ends with the process.
pub(super) fn run<T>(agent: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = control()?;
    let ended = runtime.block_on(agent);
    runtime.shutdown_background();
    ended
}
