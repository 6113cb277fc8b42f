//! `mesh-agent ca …`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::api::access;
use super::log::Log;
use super::names;
use super::probe::Probe;
use crate::ca::{Account, Allowed, Cluster, Config, NotAllowed, NotAnAccount, STALE, Step};
use crate::model::policy::{MeshSettings, ROOT_NAMESPACE};
use crate::model::{SpiffeError, TrustDomain};

/// What the authority of the mesh keeps.
pub(crate) const AUTHORITY_DIR: &str = "/var/lib/mesh-agent/ca";

/// Where its pages are.
const PAGES: &str = "127.0.0.1:15021";

#[derive(Clone, Debug, Args)]
pub(crate) struct State {
    /// State of the authority; closed to others.
    #[arg(long, default_value = AUTHORITY_DIR)]
    pub(crate) state_dir: PathBuf,
    /// The state is in a Secret of the cluster, not in --state-dir.
    #[arg(long, env = "MESH_KUBERNETES")]
    pub(crate) kubernetes: bool,
    /// How the API server is reached [default: by the service account of the pod].
    #[arg(long, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the mesh's own objects.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "mesh-system", value_parser = names::namespace)]
    pub(crate) namespace: String,
    /// The Secret.
    #[arg(long, env = "MESH_CA_SECRET", default_value = "mesh-agent-ca", value_parser = names::object)]
    pub(crate) ca_secret: String,
}

impl State {
    /// None: a directory.
    #[must_use]
    pub(crate) fn cluster(&self) -> Option<Cluster> {
        self.kubernetes.then(|| Cluster {
            access: access(self.kubeconfig.clone()),
            namespace: self.namespace.clone(),
            secret: self.ca_secret.clone(),
            configmap: String::new(),
            audience: String::new(),
            accounts: Vec::new(),
            stale: STALE,
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Serve certificates; makes its own root at the first start.
    Run(Box<RunCa>),
    /// Join tokens of nodes.
    #[command(subcommand)]
    Token(Token),
    /// Show roots and when they end, certificates and tokens, without secrets,
    /// and what comes next of a rotation.
    Show {
        #[command(flatten)]
        state: State,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// For the probes of a container: exit code 0 when the running authority can sign, or
    /// answers; else what is wrong, and 1 or 3.
    Probe {
        #[arg(value_enum)]
        what: Probe,
        /// Loopback address of its pages.
        #[arg(long, default_value = PAGES)]
        metrics_addr: SocketAddr,
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
pub(crate) struct RunCa {
    #[command(flatten)]
    pub(crate) state: State,
    #[command(flatten)]
    pub(crate) log: Log,
    /// Where agents ask for certificates.
    #[arg(long, default_value = "0.0.0.0:15012")]
    pub(crate) listen: SocketAddr,
    /// Loopback address of /metrics, /readyz and /livez.
    #[arg(long, default_value = PAGES)]
    pub(crate) metrics_addr: SocketAddr,
    /// Address, as ADDRESS:PORT, where a Prometheus elsewhere scrapes /metrics, and which
    /// has no other page [default: none]. Whoever reaches it may read it.
    #[arg(long, value_parser = super::names::address_and_port)]
    pub(crate) scrape_addr: Option<SocketAddr>,
    /// DNS name or IP address that agents call it by; may be repeated.
    #[arg(long, value_parser = names::certified)]
    pub(crate) name: Vec<String>,
    /// Whose identities it signs.
    #[arg(long, default_value = TrustDomain::DEFAULT, value_parser = |t: &str| -> Result<TrustDomain, SpiffeError> { TrustDomain::new(t) })]
    pub(crate) trust_domain: TrustDomain,
    /// Another name of it, as agents have it: for what is told of policies; may be repeated.
    #[arg(long, value_parser = |t: &str| -> Result<TrustDomain, SpiffeError> { TrustDomain::new(t) })]
    pub(crate) trust_domain_alias: Vec<TrustDomain>,
    /// Namespace whose policies reach the whole mesh, as agents have it: for what is
    /// told of Services that the API server calls.
    #[arg(long, default_value = ROOT_NAMESPACE, value_parser = names::namespace)]
    pub(crate) root_namespace: String,
    #[command(flatten)]
    pub(crate) given: Given,
    #[command(flatten)]
    pub(crate) agents: Agents,
    /// Of certificates for which no lifetime is asked.
    #[arg(long, default_value = "1h", value_parser = names::lifetime)]
    pub(crate) default_lifetime: Duration,
    /// The longest that a certificate lives, whatever is asked.
    #[arg(long, default_value = "24h", value_parser = names::lifetime)]
    pub(crate) max_lifetime: Duration,
    /// Requests per second of one token.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Requests of one token at once.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
    /// Most connections; half of them at most for clients without a good token yet.
    #[arg(long, default_value_t = 512, value_parser = names::count)]
    pub(crate) max_connections: usize,
}

/// Agents in a cluster.
#[derive(Debug, Args)]
pub(crate) struct Agents {
    /// ConfigMap for the roots, which agents watch.
    #[arg(long, default_value = "mesh-agent-ca-root", value_parser = names::object)]
    pub(crate) root_configmap: String,
    /// What an agent's service account token must be for.
    #[arg(long, default_value = "mesh-agent-ca", value_parser = names::word)]
    pub(crate) token_audience: String,
    /// NAMESPACE/SERVICE_ACCOUNT of agents; may be repeated.
    #[arg(long, value_delimiter = ',', default_value = "mesh-system/mesh-agent", value_parser = |t: &str| -> Result<Account, NotAnAccount> { t.parse() })]
    pub(crate) agent_account: Vec<Account>,
}

/// An authority made elsewhere.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// Signing certificate, then those above it up to the root (PEM) [default: a new root].
    #[arg(long, requires = "ca_key")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "ca_cert")]
    pub(crate) ca_key: Option<PathBuf>,
}

impl Given {
    fn pair(self) -> Option<(PathBuf, PathBuf)> {
        self.ca_cert.zip(self.ca_key)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make one; prints it, it cannot be shown again.
    Create {
        #[command(flatten)]
        state: State,
        /// The node that it is for, by its --node-name: no other may use it.
        #[arg(long, value_parser = names::node)]
        node: String,
        /// NAMESPACE/SERVICE_ACCOUNT or NAMESPACE/*; may be repeated.
        #[arg(long, required = true, value_parser = |t: &str| -> Result<Allowed, NotAllowed> { t.parse() })]
        allow: Vec<Allowed>,
        /// How long it is good.
        #[arg(long, default_value = "30d", value_parser = names::lifetime)]
        expires: Duration,
    },
    /// List them all: state, node, identities, end.
    List {
        #[command(flatten)]
        state: State,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Refuse one from now on.
    Revoke {
        #[command(flatten)]
        state: State,
        /// As listed.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rotate {
    /// First step: make a new root known to workloads.
    Prepare {
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        given: Given,
    },
    /// Second step: sign with the new root.
    Activate(Forced),
    /// Third step: forget the old root.
    Retire(Forced),
}

#[derive(Debug, Args)]
pub(crate) struct Forced {
    #[command(flatten)]
    state: State,
    /// Even while certificates live that break by it.
    #[arg(long)]
    force: bool,
}

impl Rotate {
    /// State, step, forced or not.
    #[must_use]
    pub(crate) fn step(self) -> (State, Step, bool) {
        match self {
            Self::Prepare { state, given } => (state, Step::Prepare(given.pair()), false),
            Self::Activate(f) => (f.state, Step::Activate, f.force),
            Self::Retire(f) => (f.state, Step::Retire, f.force),
        }
    }
}

impl RunCa {
    #[must_use]
    pub(crate) fn mesh_settings(&self) -> MeshSettings {
        MeshSettings {
            root_namespace: self.root_namespace.clone(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_alias.clone(),
        }
    }

    #[must_use]
    pub(crate) fn config(self) -> Config {
        let cluster = self.state.cluster().map(|cluster| Cluster {
            configmap: self.agents.root_configmap,
            audience: self.agents.token_audience,
            accounts: self.agents.agent_account,
            ..cluster
        });
        Config {
            state_dir: self.state.state_dir,
            cluster,
            listen: self.listen,
            names: self.name,
            trust_domain: self.trust_domain,
            given: self.given.pair(),
            default_lifetime: self.default_lifetime.min(self.max_lifetime),
            max_lifetime: self.max_lifetime,
            rate: self.rate,
            burst: self.burst,
            max_connections: self.max_connections,
            reports: None,
        }
    }
}
