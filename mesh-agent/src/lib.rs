//! The node agent: carries the TCP traffic of its node's enrolled pods.
//!
//! Rooms are layered (L0 model … L4 app); a room uses only rooms of a lower
//! layer or its own, which `cargo xtask tidy` checks. See `docs/architecture.md`.
#![deny(unsafe_code)]

// L0
pub mod model;
// L1, pure
pub mod balance;
pub mod detect;
pub mod plan;
pub mod policy;
pub mod route;
// L2
pub mod capture;
pub mod discovery;
pub mod identity;
pub mod io;
pub mod observe;
pub mod sys;
pub mod tls;
pub mod tunnel;
// L3
pub mod admin;
pub mod ca;
pub(crate) mod enrol;
pub mod explain;
pub(crate) mod peer;
pub mod proxy;
// L4
pub mod app;
pub mod cli;
pub mod config;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
