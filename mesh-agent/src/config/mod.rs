//! The command line.

mod api;
mod ca;
mod cni;
mod environment;
mod exit;
mod host;
mod identity;
mod log;
mod names;
mod observing;
mod place;
mod ports;
mod probe;
mod uninstall;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::model::TrustDomain;
use crate::model::policy::{MeshSettings, ROOT_NAMESPACE};

pub(crate) use api::ApiFlags;
pub(crate) use api::access;
pub(crate) use ca::{AUTHORITY_DIR, Ca, RunCa, State, Token};
pub(crate) use cni::{Chain, Cni};
pub(crate) use exit::{Exit, help as exit_codes};
pub(crate) use host::{Host, OnDisk, STATE_DIR};
pub(crate) use identity::Identity;
pub(crate) use log::{Log, LogFormat};
pub(crate) use observing::{Lines, Listed};
pub(crate) use place::{Place, RUN_DIR};
pub(crate) use probe::Probe;
pub(crate) use uninstall::Uninstall;

#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, about = "Node agent of the mesh", after_help = exit_codes())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line.
#[must_use]
pub(crate) fn command() -> clap::Command {
    environment::of_flags(Cli::command())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Carry the traffic of this node's pods.
    Run(Box<Run>),
    /// Remove every pin, rule and route that agents left, also after a crash.
    Cleanup {
        #[command(flatten)]
        place: Place,
    },
    /// Take all that agents left off this node: what `cleanup` removes, the CNI plugin, and
    /// their files. On a node with CRI-O the plugin's program stays while sandboxes that
    /// were made with it are there, and does nothing any more.
    Uninstall(Box<Uninstall>),
    /// Show state and health of the running agent; exit code 0 when it is ready,
    /// 4 when it is ready and not whole, 1 when it is not ready, 3 when no agent answers.
    Status {
        /// Instead of it: one kind of object, each with how it fares.
        #[arg(value_enum)]
        of: Option<StatusOf>,
        #[command(flatten)]
        place: Place,
        /// Also what the kernel programs counted, and what each counter means; of `endpoints`
        /// the last ejections, failed probes and returns, with their causes.
        #[arg(long)]
        wide: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// For the probes of a container: exit code 0 when the running agent is ready (also
    /// when it is not whole), or answers; else what is wrong, and 1 or 3.
    Probe {
        #[arg(value_enum)]
        what: Probe,
        #[command(flatten)]
        place: Place,
    },
    /// List what the running agent carries now, and what it refused lately, the oldest first.
    Connections {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        listed: Listed,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Say whether a connection or a request would be allowed, and why; exit code 0 when it
    /// would, 1 when it would be refused or depends on the request, 3 when there is no answer.
    Explain {
        /// Who connects: NAMESPACE/POD, spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or an
        /// address. Alone: the ID of a connection, as `connections` and the access log have it.
        #[arg(value_name = "FROM|ID")]
        from: String,
        /// Whom to: NAMESPACE/NAME of a pod or Service (pod/… or service/…
        /// where there are both), or an address.
        #[arg(requires = "port")]
        to: Option<String>,
        /// The port that the caller connects to: the Service's own, or the pod's.
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Of a request on the connection.
        #[arg(requires = "url")]
        method: Option<String>,
        /// `http://HOST/PATH`, or from the path on.
        url: Option<String>,
        /// A header line of the request, NAME: VALUE; may be repeated.
        #[arg(long = "header", short = 'H', requires = "url")]
        headers: Vec<String>,
        /// Of a connection that is TLS of the application's own: the name that its hello asks
        /// for; empty: none.
        #[arg(
            long,
            value_name = "NAME",
            requires = "port",
            conflicts_with = "method"
        )]
        sni: Option<String>,
        #[command(flatten)]
        place: Place,
        /// Answer by a directory of Kubernetes YAML, without an agent.
        #[arg(long, requires = "port")]
        config_dir: Option<PathBuf>,
        #[command(flatten)]
        mesh: Mesh,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Report every mistake in a configuration directory, and how its policies
    /// fare; exit code 1 when there is a mistake, 3 when it cannot be read.
    CheckConfig {
        /// Directory of Kubernetes YAML.
        dir: PathBuf,
        #[command(flatten)]
        mesh: Mesh,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Print what other meshes' configuration is called here, and on standard error what of
    /// it was not translated, and why; exit code 4 when there is such a thing, 1 when it is
    /// an error (nothing of its object is translated then), 3 when FILE cannot be read.
    #[command(subcommand)]
    Convert(Convert),
    /// The certificate authority.
    #[command(subcommand)]
    Ca(Box<Ca>),
    /// The CNI plugin. Without a further word it is the plugin, which the container runtime
    /// runs for each pod.
    Cni {
        #[command(subcommand)]
        command: Option<Box<Cni>>,
    },
    /// Show what this machine offers and what follows from what it lacks; exit
    /// code 1 when the agent will not start here, 4 when it will not do everything.
    Doctor {
        #[command(flatten)]
        chain: Chain,
        /// Directory of the agent's socket for the plugin, here and on the host.
        #[arg(long, default_value = RUN_DIR)]
        run_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Convert {
    /// Istio's DestinationRules to TrafficPolicies.
    DestinationRule {
        /// YAML documents: DestinationRules, and the Services whose ports they name. `-`:
        /// standard input.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusOf {
    /// The routes of the Gateway API, with each Service that they are for.
    Routes,
    /// The TrafficPolicies, with each Service that they are for.
    Traffic,
    /// The endpoints of Services that pods of this node use, and which of them are left out.
    Endpoints,
}

/// What a directory is held to, as an agent with the same flags would.
#[derive(Clone, Debug, Args)]
pub(crate) struct Mesh {
    /// Namespace whose policies reach the whole mesh.
    #[arg(long, default_value = ROOT_NAMESPACE, value_parser = names::namespace)]
    root_namespace: String,
    /// Who vouches for the mesh's identities.
    #[arg(long, default_value = TrustDomain::DEFAULT, value_parser = identity::trust_domain)]
    trust_domain: TrustDomain,
    /// Another name of the trust domain; may be repeated.
    #[arg(long, value_parser = identity::trust_domain)]
    trust_domain_alias: Vec<TrustDomain>,
}

impl Mesh {
    #[must_use]
    pub(crate) fn settings(self) -> MeshSettings {
        MeshSettings {
            root_namespace: self.root_namespace,
            trust_domain: self.trust_domain,
            trust_domain_aliases: self.trust_domain_alias,
        }
    }
}

impl Run {
    #[must_use]
    pub(crate) fn mesh_settings(&self) -> MeshSettings {
        MeshSettings {
            root_namespace: self.root_namespace.clone(),
            trust_domain: self.identity.trust_domain.clone(),
            trust_domain_aliases: self.identity.trust_domain_alias.clone(),
        }
    }
}

/// A word that is meant as a switch makes no file of that name.
fn access_log(text: &str) -> Result<String, String> {
    match matches!(text, "off" | "-") || text.contains(['/', '.']) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "say \"off\", \"-\" for standard output, or the path of a file (./{text})"
        )),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) log: Log,
    #[command(flatten)]
    pub(crate) identity: Identity,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(flatten)]
    pub(crate) on_disk: OnDisk,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    #[command(flatten)]
    pub(crate) chain: Chain,
    /// Put the CNI plugin into the node's chain, keep it there, and answer it: a pod is
    /// enrolled before its first container starts.
    #[arg(long, env = "MESH_CNI")]
    pub(crate) cni: bool,
    /// With --cni: be ready also while the plugin was not in the node's chain yet, or does not
    /// reach the agent. New pods of the node start before they are enrolled then.
    #[arg(long)]
    pub(crate) ready_without_cni: bool,
    /// This node's name, as in the pods' spec.nodeName [default: the host name].
    #[arg(long, value_parser = names::node)]
    pub(crate) node_name: Option<String>,
    /// This node's zone, for Services that keep traffic near (topology hints)
    /// [default: what EndpointSlices say of the endpoints on this node].
    #[arg(long, value_parser = names::zone)]
    pub(crate) node_zone: Option<String>,
    /// Directory of Kubernetes YAML, unless --kubernetes is given.
    #[arg(long, default_value = "/etc/mesh-agent/config.d")]
    pub(crate) config_dir: PathBuf,
    /// Namespace whose policies reach the whole mesh.
    #[arg(long, default_value = ROOT_NAMESPACE, value_parser = names::namespace)]
    pub(crate) root_namespace: String,
    /// cgroup2 directory whose processes are looked at [default: the cgroup2 mount].
    #[arg(long)]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// cgroup2 directory that the agent is in or moves to [default: its own, or mesh-agent below the root].
    #[arg(long)]
    pub(crate) agent_cgroup: Option<PathBuf>,
    /// cgroup2 directory of probers: their connections reach applications at the ports that
    /// a pod's own probes name. With --find-pods the kubelet's is found; may be repeated.
    #[arg(long)]
    pub(crate) probe_cgroup: Vec<PathBuf>,
    /// cgroup2 directory below which unknown pods are refused; may be repeated.
    #[arg(long)]
    pub(crate) guard_cgroup: Vec<PathBuf>,
    /// How the node's side of the pods' links is guarded.
    #[arg(long, value_enum, default_value_t = LinkGuard::Auto)]
    pub(crate) link_guard: LinkGuard,
    /// Loopback address of /metrics, /readyz and /livez.
    #[arg(long, default_value = "127.0.0.1:15020")]
    pub(crate) metrics_addr: SocketAddr,
    /// Address, as ADDRESS:PORT, where a Prometheus elsewhere scrapes /metrics, and which
    /// has no other page [default: none]. Whoever reaches it may read it.
    #[arg(long, value_parser = names::address_and_port)]
    pub(crate) scrape_addr: Option<SocketAddr>,
    /// Worker threads [default: one per CPU].
    #[arg(long, value_parser = names::count)]
    pub(crate) workers: Option<usize>,
    /// What stays in the kernel when the agent stops.
    #[arg(long, value_enum, default_value_t = OnStop::Remove)]
    pub(crate) on_stop: OnStop,
    /// At a stop, how long live connections may go on before they are cut.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) drain_timeout: Duration,
    /// Longest wait for a server's answer.
    #[arg(long, default_value = "5s", value_parser = names::timeout)]
    pub(crate) connect_timeout: Duration,
    /// Ends connections without bytes for this long [default: never].
    #[arg(long, value_parser = names::timeout)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Access log: "off", "-" for standard output, or a file.
    #[arg(long, default_value = "off", value_parser = access_log)]
    pub(crate) access_log: String,
    /// Which lines the access log has.
    #[arg(long, value_enum, default_value_t = Lines::All)]
    pub(crate) access_log_events: Lines,
    /// Name of the cluster in metrics (source_cluster, destination_cluster).
    #[arg(long, default_value = crate::observe::DEFAULT_CLUSTER, value_parser = names::word)]
    pub(crate) cluster_id: String,
    /// Metrics of requests without the label `route`: fewer series.
    #[arg(long)]
    pub(crate) no_route_label: bool,
    /// Most connections that are carried at once; each takes two file descriptors
    /// [default: what the limit of open files gives, of 20000 about 9000].
    #[arg(long, value_parser = names::count)]
    pub(crate) max_connections: Option<usize>,
    /// Most connections of one pod [default: half of all]. Beside that each pod, and each source of
    /// connections from elsewhere, may have as many as are free: half of all alone.
    #[arg(long, value_parser = names::count)]
    pub(crate) max_connections_per_pod: Option<usize>,
    /// Most requests (HTTP/1, HTTP/2, gRPC) that are in flight at once
    /// [default: 100000, and no fewer than connections].
    #[arg(long, value_parser = names::count)]
    pub(crate) max_requests: Option<usize>,
    /// Most requests of one pod in flight, as client and as server; more are answered with 503
    /// (max_requests_per_pod) [default: half of all]. Beside that each pod, and each source of
    /// connections from elsewhere, may have as many as are free: half of all alone.
    #[arg(long, value_parser = names::count)]
    pub(crate) max_requests_per_pod: Option<usize>,
    /// Memory for what one side of a connection sent and the other did not take
    /// yet, of all connections, in MiB. Towards that they read less at a time.
    #[arg(long, default_value_t = 256, value_parser = names::count)]
    pub(crate) max_buffer_mib: usize,
    /// Longest TLS handshake, and longest wait for first bytes that decide.
    #[arg(long, default_value = "5s", value_parser = names::timeout)]
    pub(crate) handshake_timeout: Duration,
    /// Mutual TLS also between pods of this node.
    #[arg(long)]
    pub(crate) same_node_tls: bool,
    /// Source ports of connections that are handed to applications in a client's name, LOW-HIGH.
    /// The same on all nodes, and outside of every client's net.ipv4.ip_local_port_range.
    #[arg(long, default_value = "10000-32000", value_parser = ports::range)]
    pub(crate) delivery_ports: RangeInclusive<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkGuard {
    /// What the kernel has: tcx from Linux 6.6 on, else clsact.
    Auto,
    Tcx,
    Clsact,
    /// Not at all: pods with CAP_NET_RAW or CAP_NET_ADMIN can send past the agent.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnStop {
    /// Nothing: pods connect directly again.
    Remove,
    /// Everything: fail-closed pods are refused until the next agent runs.
    Keep,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_log_is_off_or_standard_output_or_a_path() {
        for text in ["off", "-", "/var/log/mesh.log", "./on", "mesh.log"] {
            assert_eq!(access_log(text).as_deref(), Ok(text));
        }
        for text in ["on", "true", "stdout", ""] {
            assert!(access_log(text).is_err(), "{text}");
        }
    }
}
