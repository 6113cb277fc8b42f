//! The mesh in a real cluster (tests/kube/), installed from deploy/.

mod absence;
mod conformance;
mod deploy;
mod enrol;
mod install;
mod operate;
mod outages;
mod policy;
mod probes;
mod rollouts;
mod scrape;
mod services;
mod shelf;
mod status;
mod told;
mod traffic;
mod workloads;
