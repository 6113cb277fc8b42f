//! What a container's probe asks.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probe {
    /// It does its work: what `/readyz` says.
    Ready,
    /// It answers: what `/livez` says.
    Live,
}
