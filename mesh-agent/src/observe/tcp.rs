//! Istio's standard TCP metrics: the counters, and all labels that Kiali and
//! Istio's own dashboards join on.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;

use super::flow::workload;
use super::labels::{OTHER, response_flags, security};
use super::series::{Family, Labels};
use crate::model::{ByteCounts, Direction, Flow, ResponseFlags, SpiffeId, Workload};

/// The counters of one label set.
#[derive(Debug, Default)]
pub(super) struct Counters {
    failed: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    /// Bytes from servers to clients.
    sent: AtomicU64,
    /// Bytes from clients to servers.
    received: AtomicU64,
}

impl Counters {
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// It was not carried.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: ByteCounts) {
        self.sent.fetch_add(bytes.received, Ordering::Relaxed);
        self.received.fetch_add(bytes.sent, Ordering::Relaxed);
    }
}

impl Labels for Connection {
    type Counters = Counters;

    const FAMILIES: &'static [Family<Self>] = &[
        Family::counter(
            "istio_tcp_connections_opened",
            "Connections that reached their upstream",
            Self::is_of_carried,
            |counters| counters.opened.load(Ordering::Relaxed),
        ),
        Family::counter(
            "istio_tcp_connections_closed",
            "Connections that reached their upstream and ended",
            Self::is_of_carried,
            |counters| counters.closed.load(Ordering::Relaxed),
        ),
        Family::counter(
            "istio_tcp_sent_bytes",
            "Application data from servers to clients, in bytes",
            Self::is_of_carried,
            |counters| counters.sent.load(Ordering::Relaxed),
        ),
        Family::counter(
            "istio_tcp_received_bytes",
            "Application data from clients to servers, in bytes",
            Self::is_of_carried,
            |counters| counters.received.load(Ordering::Relaxed),
        ),
        Family::counter(
            "istio_tcp_connections_failed",
            "Connections that were refused or never reached their upstream, by response_flags",
            |labels| !labels.is_of_carried(),
            |counters| counters.failed.load(Ordering::Relaxed),
        ),
    ];

    const OVERFLOWED: (&'static str, &'static str) = (
        "mesh_agent_label_sets_overflowed",
        "Label sets of connections that are counted as `other`, for there are too many",
    );

    /// How it is secured, and what became of it, are kept.
    fn into_other(self) -> Self {
        let kept = KeptLabels {
            reporter: self.reporter,
            protocol: self.request_protocol,
            response_flags: self.response_flags,
            security: self.connection_security_policy,
        };
        let ends = [(); 2].map(|()| EndLabels::all(OTHER));
        let other = || OTHER.to_owned();
        Self::put_together(
            kept,
            ends,
            [(); 3].map(|()| other()),
            [(); 2].map(|()| other()),
        )
    }
}

/// Where nothing is known.
const UNKNOWN: &str = "unknown";
/// Of a workload that names no revision, as with Istio.
const LATEST: &str = "latest";

/// Workloads go by their owner-like name, as there: a pod's own name would
/// make a new set with every restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Connection {
    reporter: &'static str,
    source_workload: String,
    source_canonical_service: String,
    source_canonical_revision: String,
    source_workload_namespace: String,
    source_principal: String,
    source_app: String,
    source_version: String,
    source_cluster: String,
    destination_service: String,
    destination_service_name: String,
    destination_service_namespace: String,
    destination_workload: String,
    destination_canonical_service: String,
    destination_canonical_revision: String,
    destination_workload_namespace: String,
    destination_principal: String,
    destination_app: String,
    destination_version: String,
    destination_cluster: String,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

/// Labels that come from closed sets: they are kept where there are too many sets.
struct KeptLabels {
    reporter: &'static str,
    protocol: &'static str,
    response_flags: &'static str,
    security: &'static str,
}

/// What is said of one end.
struct EndLabels {
    workload: String,
    namespace: String,
    canonical_service: String,
    canonical_revision: String,
    app: String,
    version: String,
    cluster: String,
}

impl EndLabels {
    fn of(workload: Option<&Workload>, cluster: &str) -> Self {
        let Some(w) = workload else {
            return Self::all(UNKNOWN);
        };
        let first = |names: &[&str], or: &str| {
            let found = names.iter().find_map(|name| w.labels.get(name));
            found.map_or_else(|| or.to_owned(), Clone::clone)
        };
        let revision = [
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ];
        Self {
            workload: w.app.to_string(),
            namespace: w.key.namespace.to_string(),
            canonical_service: first(&["service.istio.io/canonical-name"], &w.app),
            canonical_revision: first(&revision, LATEST),
            app: first(&["app"], UNKNOWN),
            version: first(&["version", "app.kubernetes.io/version"], UNKNOWN),
            cluster: cluster.to_owned(),
        }
    }

    fn all(value: &str) -> Self {
        let value = || value.to_owned();
        Self {
            workload: value(),
            namespace: value(),
            canonical_service: value(),
            canonical_revision: value(),
            app: value(),
            version: value(),
            cluster: value(),
        }
    }
}

impl Connection {
    pub(super) fn of_tcp(flow: &Flow, flags: ResponseFlags, cluster: &str) -> Self {
        Self::of(flow, response_flags(flags), "tcp", cluster)
    }

    /// The labels that a connection and its requests have in common.
    pub(super) fn of(
        flow: &Flow,
        flags: &'static str,
        protocol: &'static str,
        cluster: &str,
    ) -> Self {
        let (source, destination) = (workload(&flow.source), workload(&flow.destination));
        let service = match &flow.service {
            Some(key) => [
                format!("{}.{}.svc.cluster.local", key.name, key.namespace),
                key.name.to_string(),
                key.namespace.to_string(),
            ],
            None => [UNKNOWN; 3].map(str::to_owned),
        };
        let principals = [&flow.source_principal, &flow.destination_principal]
            .map(|id| or_unknown(id.as_ref().map(SpiffeId::as_str)));
        let ends = [source, destination].map(|end| EndLabels::of(end, cluster));
        let kept = KeptLabels {
            reporter: match flow.direction {
                Direction::Outbound | Direction::SameNode => "source",
                Direction::Inbound => "destination",
            },
            protocol,
            response_flags: flags,
            security: security(flow.security),
        };
        Self::put_together(kept, ends, service, principals)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.request_protocol == "grpc"
    }

    /// Counts connections that were carried, and not ones that were refused.
    fn is_of_carried(&self) -> bool {
        self.response_flags == response_flags(ResponseFlags::None)
    }

    fn put_together(
        kept: KeptLabels,
        [source, destination]: [EndLabels; 2],
        [service, service_name, service_namespace]: [String; 3],
        [source_principal, destination_principal]: [String; 2],
    ) -> Self {
        Self {
            reporter: kept.reporter,
            source_workload: source.workload,
            source_canonical_service: source.canonical_service,
            source_canonical_revision: source.canonical_revision,
            source_workload_namespace: source.namespace,
            source_principal,
            source_app: source.app,
            source_version: source.version,
            source_cluster: source.cluster,
            destination_service: service,
            destination_service_name: service_name,
            destination_service_namespace: service_namespace,
            destination_workload: destination.workload,
            destination_canonical_service: destination.canonical_service,
            destination_canonical_revision: destination.canonical_revision,
            destination_workload_namespace: destination.namespace,
            destination_principal,
            destination_app: destination.app,
            destination_version: destination.version,
            destination_cluster: destination.cluster,
            request_protocol: kept.protocol,
            response_flags: kept.response_flags,
            connection_security_policy: kept.security,
        }
    }
}

fn or_unknown(value: Option<&str>) -> String {
    value.unwrap_or(UNKNOWN).to_owned()
}
