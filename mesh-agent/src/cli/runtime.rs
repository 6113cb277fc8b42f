//! The runtime of whatever runs until it is told to stop.

use anyhow::Context as _;

pub(super) fn control() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control runtime")
}
