//! What an agent needs before it serves anything: its place on the node, its configuration,
//! its certificates, and the programs in the kernel.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::handover;
use super::place::Place;
use crate::admin;
use crate::capture::{self, Capture};
use crate::config::Run;
use crate::discovery::{Api, ConfigSource, Directory, Update};
use crate::identity::Identities;
use crate::io;
use crate::observe::{self, AccessLogTarget, Observe};
use crate::policy::Here;
use crate::proxy;
use crate::sys::process;

pub(super) struct Base {
    pub(super) begun: Instant,
    pub(super) flags: Run,
    pub(super) node: String,
    pub(super) proxy: proxy::Config,
    pub(super) place: Place,
    /// Nobody else is this agent in its cgroup, as long as this lasts.
    pub(super) seat: capture::Seat,
    pub(super) source: ConfigSource,
    pub(super) updates: watch::Receiver<Update>,
    pub(super) observe: Observe,
    pub(super) identities: Identities,
    /// For this node, and for who scrapes from elsewhere.
    pub(super) admin: (TcpListener, UnixListener),
    pub(super) scrapes: Option<TcpListener>,
    pub(super) offer: handover::Offer,
    pub(super) capture: Capture,
}

impl Base {
    /// In this order: what another agent on this node may use is taken from it last.
    pub(super) async fn start(flags: Run) -> anyhow::Result<Self> {
        let begun = Instant::now();
        capture::check_privileges()?;
        let open_files = process::raise_open_files().context("raise the limit of open files")?;
        let node = node_name(flags.node_name.as_deref())?;
        let place = Place::new(&flags)?;
        // Before anything that another agent on this node may use.
        let owner = match capture::Owner::of(&place.capture.bpffs_dir) {
            Err(capture::Error::Owned { .. }) if flags.host.take_over => None,
            owner => Some(owner?),
        };
        // Before another agent is asked for what it has.
        let seat = capture::Seat::of(&place.capture.agent_cgroup)?;
        let (source, updates) = source(&flags, &node).await?;
        let observe = Observe::start(observe_config(&flags, &node));
        let identities = Identities::start(flags.identity.config(
            &node,
            &flags.place,
            (flags.api.access(), flags.on_disk.ca_root()),
        ));
        observe.register(|registry| identities.register(registry));
        let owner = match owner {
            Some(owner) => owner,
            None => {
                // The other one's pods have theirs: they are not to wait for ours.
                let wanted = updates.borrow().snapshot.clone();
                handover::certificates(&identities, &wanted, &node).await;
                handover::wait(&place.capture.bpffs_dir, &flags.place.run_dir).await?
            }
        };
        Ok(Self {
            begun,
            proxy: proxy_config(&flags, open_files),
            admin: admin::bind(flags.metrics_addr, &flags.place.run_dir).await?,
            scrapes: admin::bind_scrapes(flags.scrape_addr).await?,
            offer: handover::Offer::new(&flags.place.run_dir)?,
            capture: Capture::start(&place.capture, owner)?,
            flags,
            node,
            place,
            seat,
            source,
            updates,
            observe,
            identities,
        })
    }
}

/// Where the configuration is from.
async fn source(
    flags: &Run,
    node: &str,
) -> anyhow::Result<(ConfigSource, watch::Receiver<Update>)> {
    let here = Here::Node(node.to_owned());
    let settings = flags.mesh_settings();
    if let Some(config) = flags.api.config(&flags.on_disk) {
        let (api, updates) = Api::start(config, settings, here).await?;
        return Ok((ConfigSource::Api(api), updates));
    }
    let (directory, updates) = Directory::start(flags.config_dir.clone(), settings, here)?;
    Ok((ConfigSource::Directory(directory), updates))
}

fn node_name(flag: Option<&str>) -> anyhow::Result<String> {
    match flag {
        Some(name) => Ok(name.to_owned()),
        None => {
            let name =
                nix::unistd::gethostname().context("read the host name; give --node-name")?;
            Ok(name.to_string_lossy().into_owned())
        }
    }
}

fn observe_config(flags: &Run, node: &str) -> observe::Config {
    observe::Config {
        node: node.to_owned(),
        cluster: flags.cluster_id.clone(),
        route_label: !flags.no_route_label,
        log: access_log(&flags.access_log),
        events: flags.access_log_events.into(),
    }
}

fn access_log(flag: &str) -> AccessLogTarget {
    match flag {
        "off" => AccessLogTarget::Off,
        "-" => AccessLogTarget::Stdout,
        path => AccessLogTarget::File(PathBuf::from(path)),
    }
}

fn proxy_config(flags: &Run, open_files: u64) -> proxy::Config {
    let mut defaults = proxy::Config::default();
    let workers = flags.workers.unwrap_or(defaults.workers);
    let limits = io::Limits::of(open_files, workers);
    let max_connections = flags.max_connections.unwrap_or(limits.connections);
    let per_pod = limits.connections_per_pod.min(max_connections);
    let per_pod = flags.max_connections_per_pod.unwrap_or(per_pod);
    let said = [flags.max_requests, flags.max_requests_per_pod];
    let [max_requests, max_requests_per_pod] =
        proxy::request_limits(said, [max_connections, per_pod]);
    defaults.pool.in_all = limits.pooled;
    defaults.pool.per_pod = defaults.pool.per_pod.min(limits.pooled);
    proxy::Config {
        workers,
        limits,
        node_zone: flags.node_zone.clone().filter(|zone| !zone.is_empty()),
        connect_timeout: flags.connect_timeout,
        idle_timeout: flags.idle_timeout,
        max_connections,
        max_connections_per_pod: per_pod,
        max_requests,
        max_requests_per_pod,
        max_buffer_bytes: flags.max_buffer_mib.saturating_mul(1 << 20),
        handshake_timeout: flags.handshake_timeout,
        same_node_tls: flags.same_node_tls,
        delivery_ports: flags.delivery_ports.clone(),
        ..defaults
    }
}
