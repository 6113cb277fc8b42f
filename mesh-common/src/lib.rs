//! What the kernel programs and the agent share.
//!
//! Map layouts and names ([`abi`]), and what the kernel decides as pure
//! functions ([`decide`]), so that host tests and the verifier see the same
//! code. No allocation, no I/O, no panics.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod counter;
pub mod decide;
pub mod link_guard;
