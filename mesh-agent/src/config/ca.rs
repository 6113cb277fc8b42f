//! `mesh-agent ca …`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::log::Log;
use crate::ca::{Allowed, Config, NotAllowed, Step};
use crate::model::{SpiffeError, TrustDomain};

#[derive(Clone, Debug, Args)]
pub struct State {
    /// State of the authority; closed to others.
    #[arg(long, default_value = "/var/lib/mesh-agent/ca")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Serve certificates; makes its own root at the first start.
    Run(RunCa),
    /// Join tokens of nodes.
    #[command(subcommand)]
    Token(Token),
    /// Show roots and certificates, without secrets.
    Show {
        #[command(flatten)]
        state: State,
    },
    /// Replace the root in three steps.
    Rotate {
        #[command(subcommand)]
        step: Rotate,
    },
    /// Revoke a certificate; prints where the revocation list is.
    Revoke {
        /// Serial number in hexadecimal.
        serial: String,
        #[command(flatten)]
        state: State,
        /// Also copy the list there.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Even when no live certificate has it.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct RunCa {
    #[command(flatten)]
    pub state: State,
    #[command(flatten)]
    pub log: Log,
    #[arg(long, default_value = "0.0.0.0:15012")]
    pub listen: SocketAddr,
    /// DNS name or IP address that agents call it by; may be repeated.
    #[arg(long)]
    pub name: Vec<String>,
    #[arg(long, default_value = "cluster.local", value_parser = |t: &str| -> Result<TrustDomain, SpiffeError> { TrustDomain::new(t) })]
    pub trust_domain: TrustDomain,
    #[command(flatten)]
    pub given: Given,
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub default_lifetime: Duration,
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    pub max_lifetime: Duration,
    /// Requests per second of one token.
    #[arg(long, default_value_t = 20)]
    pub rate: u32,
    /// Requests of one token at once.
    #[arg(long, default_value_t = 200)]
    pub burst: u32,
    #[arg(long, default_value_t = 512)]
    pub max_connections: usize,
}

/// An authority made elsewhere.
#[derive(Debug, Args)]
pub struct Given {
    /// Signing certificate, then those above it up to the root (PEM) [default: a new root].
    #[arg(long, requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,
}

impl Given {
    fn pair(self) -> Option<(PathBuf, PathBuf)> {
        self.ca_cert.zip(self.ca_key)
    }
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make one; prints it, it cannot be shown again.
    Create {
        #[command(flatten)]
        state: State,
        #[arg(long)]
        node: String,
        /// NAMESPACE/SERVICE_ACCOUNT or NAMESPACE/*; may be repeated.
        #[arg(long, required = true, value_parser = |t: &str| -> Result<Allowed, NotAllowed> { t.parse() })]
        allow: Vec<Allowed>,
        #[arg(long, default_value = "30d", value_parser = humantime::parse_duration)]
        expires: Duration,
    },
    List {
        #[command(flatten)]
        state: State,
    },
    /// Takes effect at once.
    Revoke {
        #[command(flatten)]
        state: State,
        /// As listed.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Rotate {
    /// Make a new root known to workloads.
    Prepare {
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        given: Given,
    },
    /// Sign with the new root.
    Activate(Forced),
    /// Forget the old root.
    Retire(Forced),
}

#[derive(Debug, Args)]
pub struct Forced {
    #[command(flatten)]
    state: State,
    /// Even while certificates live that break by it.
    #[arg(long)]
    force: bool,
}

impl Rotate {
    /// State directory, step, forced or not.
    #[must_use]
    pub fn step(self) -> (PathBuf, Step, bool) {
        match self {
            Self::Prepare { state, given } => (state.state_dir, Step::Prepare(given.pair()), false),
            Self::Activate(f) => (f.state.state_dir, Step::Activate, f.force),
            Self::Retire(f) => (f.state.state_dir, Step::Retire, f.force),
        }
    }
}

impl RunCa {
    #[must_use]
    pub fn config(self) -> Config {
        Config {
            state_dir: self.state.state_dir,
            listen: self.listen,
            names: self.name,
            trust_domain: self.trust_domain,
            given: self.given.pair(),
            default_lifetime: self.default_lifetime.min(self.max_lifetime),
            max_lifetime: self.max_lifetime,
            rate: self.rate,
            burst: self.burst,
            max_connections: self.max_connections,
        }
    }
}
