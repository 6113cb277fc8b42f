//! Label sets, bounded.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;

use crate::model::{
    CloseReason, Direction, Opening, RefuseReason, Security, TlsFailure, UnknownPeer, Workload,
};

/// Most label sets of connections; those past it are counted as `other`.
const MAX_SETS: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Connection {
    reporter: &'static str,
    source_workload: String,
    source_workload_namespace: String,
    destination_workload: String,
    destination_workload_namespace: String,
    destination_service_name: String,
    destination_service_namespace: String,
    connection_security_policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    pub(super) direction: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Event {
    pub(super) event: &'static str,
}

/// Keeps the number of label sets bounded.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    known: Mutex<HashSet<Connection>>,
    counter: Counter,
}

impl Overflow {
    pub(super) fn counter(&self) -> Counter {
        self.counter.clone()
    }

    pub(super) fn bound(&self, opening: &Opening) -> Connection {
        let labels = Connection::of(opening);
        let mut known = self.known.lock();
        if known.contains(&labels) {
            return labels;
        }
        if known.len() < MAX_SETS {
            known.insert(labels.clone());
            return labels;
        }
        self.counter.inc();
        Connection::other(labels.reporter)
    }
}

impl Connection {
    fn of(opening: &Opening) -> Self {
        let (source_workload, source_workload_namespace) = name(&opening.source);
        let (destination_workload, destination_workload_namespace) = name(&opening.destination);
        let (service_name, service_namespace) = match &opening.service {
            Some(key) => (key.name.clone(), key.namespace.clone()),
            None => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
        };
        Self {
            reporter: match opening.direction {
                Direction::Outbound | Direction::SameNode => "source",
                Direction::Inbound => "destination",
            },
            source_workload,
            source_workload_namespace,
            destination_workload,
            destination_workload_namespace,
            destination_service_name: service_name,
            destination_service_namespace: service_namespace,
            connection_security_policy: security(opening.security),
        }
    }

    fn other(reporter: &'static str) -> Self {
        let other = || "other".to_owned();
        Self {
            reporter,
            source_workload: other(),
            source_workload_namespace: other(),
            destination_workload: other(),
            destination_workload_namespace: other(),
            destination_service_name: other(),
            destination_service_namespace: other(),
            connection_security_policy: "none",
        }
    }
}

const UNKNOWN: &str = "unknown";

fn name(workload: &Result<Arc<Workload>, UnknownPeer>) -> (String, String) {
    match workload {
        Ok(w) => (w.key.name.clone(), w.key.namespace.clone()),
        Err(UnknownPeer) => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
    }
}

/// Name of a direction in labels and log.
#[must_use]
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
        Direction::SameNode => "same_node",
    }
}

/// Name of an end in labels and log.
#[must_use]
pub fn close_reason(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Finished => "finished",
        CloseReason::ResetByClient => "reset_by_client",
        CloseReason::ResetByUpstream => "reset_by_upstream",
        CloseReason::IdleTimeout => "idle_timeout",
        CloseReason::DrainDeadline => "drain_deadline",
        CloseReason::PodRemoved => "pod_removed",
        CloseReason::PolicyChanged => "policy_changed",
        CloseReason::Revoked => "revoked",
        CloseReason::CertificateExpired => "certificate_expired",
        CloseReason::ProtocolError => "protocol_error",
        CloseReason::Refused(reason) => refuse_reason(reason),
    }
}

/// Name of a refusal in labels and log.
#[must_use]
pub fn refuse_reason(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::UnknownServicePort => "unknown_service_port",
        RefuseReason::NoEndpoint => "no_endpoint",
        RefuseReason::ConnectRefused => "connect_refused",
        RefuseReason::ConnectTimeout => "connect_timeout",
        RefuseReason::Unreachable => "unreachable",
        RefuseReason::SourcePortsExhausted => "source_ports_exhausted",
        RefuseReason::OverLimit => "over_limit",
        RefuseReason::Loop => "loop",
        RefuseReason::Denied => "denied",
        RefuseReason::PlaintextRefused => "plaintext_refused",
        RefuseReason::NoCertificate => "no_certificate",
        RefuseReason::Tls(failure) => tls_failure(failure),
        RefuseReason::WrongWorkload => "wrong_workload",
        RefuseReason::RefusedByPeer => "refused_by_peer",
        RefuseReason::Draining => "draining",
        RefuseReason::PodRemoved => "refused_pod_removed",
        RefuseReason::Internal => "internal",
    }
}

/// Name of a handshake failure in labels and log.
fn tls_failure(failure: TlsFailure) -> &'static str {
    match failure {
        TlsFailure::NoCertificate => "tls_no_certificate",
        TlsFailure::UnknownIssuer => "tls_unknown_issuer",
        TlsFailure::Expired => "tls_expired",
        TlsFailure::NotYetValid => "tls_not_yet_valid",
        TlsFailure::WrongUsage => "tls_wrong_usage",
        TlsFailure::NoIdentity => "tls_no_identity",
        TlsFailure::SeveralIdentities => "tls_several_identities",
        TlsFailure::MalformedIdentity => "tls_malformed_identity",
        TlsFailure::ForeignTrustDomain => "tls_foreign_trust_domain",
        TlsFailure::UnexpectedIdentity => "tls_unexpected_identity",
        TlsFailure::Revoked => "tls_revoked",
        TlsFailure::ChainTooLarge => "tls_chain_too_large",
        TlsFailure::BadCertificate => "tls_bad_certificate",
        TlsFailure::NoCommonProtocol => "tls_no_common_protocol",
        TlsFailure::RefusedByPeer => "tls_refused_by_peer",
        TlsFailure::Malformed => "tls_malformed",
        TlsFailure::Timeout => "tls_timeout",
        TlsFailure::Closed => "tls_closed",
    }
}

/// Istio's label `connection_security_policy`.
fn security(security: Security) -> &'static str {
    match security {
        Security::None => "none",
        Security::SameNode => "same_node",
        Security::MutualTls => "mutual_tls",
    }
}
