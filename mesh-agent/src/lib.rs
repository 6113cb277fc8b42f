//! The node agent: carries the TCP and HTTP traffic of its node's enrolled pods.
//!
//! Modules are layered (L0 model … L4 app); one uses only modules of a lower layer
//! or its own, which `cargo xtask tidy` checks. See `docs/architecture.md`. Nothing
//! is for others but the program's `main` and the bodies of the fuzz targets, so
//! that the compiler finds what nobody uses.
#![deny(unsafe_code)]

// L0
mod model;
// L1, pure
mod balance;
mod detect;
mod limit;
mod plan;
mod policy;
mod route;
mod traffic;
// L2
mod capture;
mod cluster;
mod discovery;
mod http;
mod identity;
mod io;
mod kube;
mod observe;
mod status;
mod sys;
mod tls;
mod tunnel;
// L3
mod admin;
mod ca;
mod cni;
mod enrol;
mod explain;
mod peer;
mod proxy;
// L4
mod app;
pub mod cli;
mod config;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
