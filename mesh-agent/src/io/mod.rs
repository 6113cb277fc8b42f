//! Bytes between sockets: the relay, what it holds, reading, dialling, and how
//! many descriptors there may be.
//!
//! One future for both directions, one scratch buffer per worker thread; a
//! connection owns memory only for bytes that its peer did not take yet, at
//! most one read, all together within a budget. Bulk goes through a pipe in the
//! kernel instead (splice), as long as it is bulk and the worker's few pipes
//! last. FIN is passed on as FIN after everything before it, an error is
//! reported so that the caller passes it on as RST.

pub(crate) mod dial;
mod held;
mod limits;
mod pipe;
mod pump;
mod read;
mod relay;
mod rest;
#[cfg(test)]
mod tests;

pub(crate) use held::{Account, Held, Reserved, Share, held, is_scarce, limit_held, room, spare};
pub(crate) use limits::{Limits, RECOMMENDED_OPEN_FILES, SpareFile, is_anothers_spare};
pub(crate) use pipe::keep_files_from;
pub(crate) use pump::{BYTES_PER_POLL, with_scratch};
pub(crate) use read::{poll_read, read};
pub(crate) use relay::{Relay, RelayEnd};

pub(crate) use crate::sys::socket::{abort, bound_unsent, reset_on_close, silence};
