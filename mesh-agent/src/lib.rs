//! The node agent: carries the TCP traffic of its node's enrolled pods.
//!
//! Modules are layered (L0 model … L4 app); one uses only modules of a lower layer
//! or its own, which `cargo xtask tidy` checks. See `docs/architecture.md`. Nothing
//! is for others but the program's `main` and the bodies of the fuzz targets, so
//! that the compiler finds what nobody uses.
#![deny(unsafe_code)]

// L0
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod model;
// L1, pure
mod balance;
mod detect;
#[allow(dead_code, reason = "comes in parts")]
mod limit;
mod plan;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod policy;
mod route;
mod traffic;
// L2
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod capture;
mod cluster;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod discovery;
#[allow(dead_code, reason = "the HTTP data path comes in parts")]
mod http;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod identity;
mod io;
mod kube;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod observe;
mod status;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod sys;
mod tls;
mod tunnel;
// L3
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod admin;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod ca;
mod cni;
mod enrol;
mod explain;
mod peer;
mod proxy;
// L4
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod app;
pub mod cli;
#[expect(unreachable_pub, reason = "pub is still the default there")]
mod config;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
