//! Label sets, and the names that labels and log share.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use serde::Serialize;

use super::who::{Who, workload};
use super::{OTHER, UNKNOWN};
use crate::model::{
    CipherSuite, CloseReason, Direction, KeyExchange, RefuseReason, Security, SpiffeId, TlsFailure,
    TlsParameters, TlsRole, Workload,
};

/// Labels of Istio's standard TCP metrics. Workloads go by their owner-like
/// name, as there: a pod's own name would make a new set with every restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Connection {
    reporter: &'static str,
    source_workload: String,
    source_workload_namespace: String,
    source_app: String,
    source_principal: String,
    destination_workload: String,
    destination_workload_namespace: String,
    destination_app: String,
    destination_principal: String,
    destination_service: String,
    destination_service_name: String,
    destination_service_namespace: String,
    request_protocol: &'static str,
    connection_security_policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    pub(super) direction: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DirectionLabel {
    pub(super) direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Policy {
    pub(super) policy: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Event {
    pub(super) event: &'static str,
}

/// Six sets for each role at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Handshake {
    role: &'static str,
    version: &'static str,
    group: &'static str,
    cipher: &'static str,
}

impl Handshake {
    pub(super) fn of(role: TlsRole, parameters: TlsParameters) -> Self {
        let TlsNames {
            version,
            group,
            cipher,
        } = TlsNames::of(parameters);
        let role = match role {
            TlsRole::Client => "client",
            TlsRole::Server => "server",
        };
        Self {
            role,
            version,
            group,
            cipher,
        }
    }
}

impl Connection {
    pub(super) fn of(who: &Who) -> Self {
        let (source, destination) = (workload(&who.source), workload(&who.destination));
        let (service, service_name, service_namespace) = match &who.service {
            Some(key) => (
                format!("{}.{}.svc.cluster.local", key.name, key.namespace),
                key.name.clone(),
                key.namespace.clone(),
            ),
            None => (UNKNOWN.into(), UNKNOWN.into(), UNKNOWN.into()),
        };
        Self {
            reporter: match who.direction {
                Direction::Outbound | Direction::SameNode => "source",
                Direction::Inbound => "destination",
            },
            source_workload: or_unknown(source.map(|w| &*w.app)),
            source_workload_namespace: or_unknown(source.map(|w| &*w.key.namespace)),
            source_app: or_unknown(app_label(source)),
            source_principal: or_unknown(who.source_principal.as_ref().map(SpiffeId::as_str)),
            destination_workload: or_unknown(destination.map(|w| &*w.app)),
            destination_workload_namespace: or_unknown(destination.map(|w| &*w.key.namespace)),
            destination_app: or_unknown(app_label(destination)),
            destination_principal: or_unknown(
                who.destination_principal.as_ref().map(SpiffeId::as_str),
            ),
            destination_service: service,
            destination_service_name: service_name,
            destination_service_namespace: service_namespace,
            request_protocol: "tcp",
            connection_security_policy: security(who.security),
        }
    }

    /// The set that counts for all that are too many; how it is secured is kept.
    pub(super) fn into_other(self) -> Self {
        let other = || OTHER.to_owned();
        Self {
            reporter: self.reporter,
            source_workload: other(),
            source_workload_namespace: other(),
            source_app: other(),
            source_principal: other(),
            destination_workload: other(),
            destination_workload_namespace: other(),
            destination_app: other(),
            destination_principal: other(),
            destination_service: other(),
            destination_service_name: other(),
            destination_service_namespace: other(),
            request_protocol: self.request_protocol,
            connection_security_policy: self.connection_security_policy,
        }
    }
}

fn or_unknown(value: Option<&str>) -> String {
    value.unwrap_or(UNKNOWN).to_owned()
}

fn app_label(workload: Option<&Workload>) -> Option<&str> {
    workload?.labels.get("app").map(String::as_str)
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
        CloseReason::PeerCertificateExpired => "peer_certificate_expired",
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

/// Names of what a handshake agreed on, as IANA has them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct TlsNames {
    pub(super) version: &'static str,
    pub(super) group: &'static str,
    pub(super) cipher: &'static str,
}

impl TlsNames {
    pub(super) fn of(parameters: TlsParameters) -> Self {
        Self {
            version: "1.3",
            group: match parameters.group {
                KeyExchange::X25519MlKem768 => "X25519MLKEM768",
                KeyExchange::X25519 => "X25519",
            },
            cipher: match parameters.cipher {
                CipherSuite::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
                CipherSuite::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
                CipherSuite::ChaCha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
            },
        }
    }
}

/// Istio's label `connection_security_policy`.
pub(super) fn security(security: Security) -> &'static str {
    match security {
        Security::None => "none",
        Security::SameNode => "same_node",
        Security::MutualTls => "mutual_tls",
    }
}
