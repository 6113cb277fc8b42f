//! SIGTERM, as the kubelet sends it to a container that is to end: no more is taken
//! then, and what has come in is finished. As the first process of its container a
//! program that does not ask for the signal never hears it.

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

/// Readable from the signal on, as nobody reads it; asked for before any thread starts.
pub(crate) fn sigterm() -> Result<SignalFd> {
    let signals = SigSet::from(Signal::SIGTERM);
    signals.thread_block()?;
    Ok(SignalFd::new(&signals)?)
}
