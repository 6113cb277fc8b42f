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

/// Names of the values of a type, and the list of all names with what each
/// means: one source for labels, log and the reference.
macro_rules! names {
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident($value:ident: $type:ty), $all:ident:
        $($pattern:path => ($label:literal, $means:literal),)*
        $(; $nested:pat => $other:expr)?
    ) => {
        $(#[$doc])*
        #[must_use]
        $vis fn $name($value: $type) -> &'static str {
            match $value {
                $($pattern => $label,)*
                $($nested => $other,)?
            }
        }

        #[cfg(test)]
        pub(crate) const $all: &[(&str, &str)] = &[$(($label, $means)),*];
    };
}

names! {
    /// Name of a direction in labels and log.
    pub fn direction(value: Direction), DIRECTIONS:
    Direction::Outbound => ("outbound", "from a pod of this node to elsewhere"),
    Direction::Inbound => ("inbound", "to a pod of this node from elsewhere"),
    Direction::SameNode => ("same_node", "both pods are on this node"),
}

names! {
    /// Name of an end in labels and log.
    pub fn close_reason(value: CloseReason), CLOSE_REASONS:
    CloseReason::Finished => ("finished", "both sides said that they are done"),
    CloseReason::ResetByClient => ("reset_by_client", "the client reset it or vanished"),
    CloseReason::ResetByUpstream => ("reset_by_upstream", "the server reset it or vanished"),
    CloseReason::IdleTimeout => ("idle_timeout", "no bytes for `--idle-timeout`"),
    CloseReason::DrainDeadline => ("drain_deadline", "the agent stopped; longer `--drain-timeout` waits longer"),
    CloseReason::PodRemoved => ("pod_removed", "the pod left the mesh or went away"),
    CloseReason::PolicyChanged => ("policy_changed", "a policy that changed meanwhile says no: `explain`"),
    CloseReason::Revoked => ("revoked", "the peer's certificate was revoked meanwhile"),
    CloseReason::CertificateExpired => ("certificate_expired", "a certificate ended without a new one: `status`, and the authority"),
    CloseReason::PeerCertificateExpired => ("peer_certificate_expired", "the peer showed no newer certificate: its agent or authority is away, or the two cannot connect any more"),
    CloseReason::ProtocolError => ("protocol_error", "the other agent broke the protocol: compare versions, report it"),
    ; CloseReason::Refused(reason) => refuse_reason(reason)
}

names! {
    /// Name of a refusal in labels and log.
    pub fn refuse_reason(value: RefuseReason), REFUSE_REASONS:
    RefuseReason::UnknownServicePort => ("unknown_service_port", "the Service has no such port"),
    RefuseReason::NoEndpoint => ("no_endpoint", "no ready pod of that address family; check selector and readiness"),
    RefuseReason::ConnectRefused => ("connect_refused", "the application does not listen"),
    RefuseReason::ConnectTimeout => ("connect_timeout", "no answer: network, routes, NetworkPolicy"),
    RefuseReason::Unreachable => ("unreachable", "no route, or a firewall said so: network, routes, NetworkPolicy"),
    RefuseReason::SourcePortsExhausted => ("source_ports_exhausted", "too many deliveries to one address at once: widen `--delivery-ports`"),
    RefuseReason::OverLimit => ("over_limit", "`--max-connections`, `--max-connections-per-pod`, or open files"),
    RefuseReason::Displaced => ("displaced", "many connections that never say who they are; the oldest of the source with the most makes room: look at that source"),
    RefuseReason::Loop => ("loop", "the connection leads back to an agent, or a peer spoke for another address"),
    RefuseReason::Denied => ("denied", "the policy that the access log names: `explain`"),
    RefuseReason::PlaintextRefused => ("plaintext_refused", "the pod is STRICT and the client is not in the mesh"),
    RefuseReason::NoCertificate => ("no_certificate", "no source of certificates, or the authority does not answer: `status`"),
    RefuseReason::Unreadable => ("destination_unreadable", "what the configuration says of the address cannot be understood, and it may be in the mesh: see `mesh-agent check-config`"),
    RefuseReason::UnknownPod => ("unknown_pod", "an EndpointSlice gives the address to a Pod that is not known here (yet), or not with that address"),
    RefuseReason::WrongWorkload => ("wrong_workload", "the address belongs to another pod than the configuration says, is claimed by two, or was a mesh pod's that left within the last minute"),
    RefuseReason::RefusedByPeer => ("refused_by_peer", "the destination's policy denied: look there"),
    RefuseReason::Draining => ("draining", "the agent stops"),
    RefuseReason::PodRemoved => ("refused_pod_removed", "the pod leaves the mesh or goes away"),
    RefuseReason::Internal => ("internal", "a fault of the agent: report it, with its log"),
    ; RefuseReason::Tls(failure) => tls_failure(failure)
}

names! {
    /// Name of a handshake failure in labels and log.
    fn tls_failure(value: TlsFailure), TLS_FAILURES:
    TlsFailure::NoCertificate => ("tls_no_certificate", "the peer showed no certificate"),
    TlsFailure::UnknownIssuer => ("tls_unknown_issuer", "another mesh, or a root that is not known here yet"),
    TlsFailure::Expired => ("tls_expired", "clocks, or an authority that is away"),
    TlsFailure::NotYetValid => ("tls_not_yet_valid", "clocks"),
    TlsFailure::WrongUsage => ("tls_wrong_usage", "a certificate that the authority must not make so"),
    TlsFailure::NoIdentity => ("tls_no_identity", "as above"),
    TlsFailure::SeveralIdentities => ("tls_several_identities", "as above"),
    TlsFailure::MalformedIdentity => ("tls_malformed_identity", "as above"),
    TlsFailure::ForeignTrustDomain => ("tls_foreign_trust_domain", "another mesh: compare `--trust-domain`"),
    TlsFailure::UnexpectedIdentity => ("tls_unexpected_identity", "the address has another service account than configured"),
    TlsFailure::Revoked => ("tls_revoked", "revoked: meant, or renew the pod's certificate"),
    TlsFailure::ChainTooLarge => ("tls_chain_too_large", "more or larger certificates than a mesh peer sends"),
    TlsFailure::BadCertificate => ("tls_bad_certificate", "a certificate or signature that does not parse or verify"),
    TlsFailure::NoCommonProtocol => ("tls_no_common_protocol", "the other end is no agent of this mesh"),
    TlsFailure::RefusedByPeer => ("tls_refused_by_peer", "the reason is in the other agent's log"),
    TlsFailure::Malformed => ("tls_malformed", "the other end is no agent of this mesh"),
    TlsFailure::Timeout => ("tls_timeout", "network, or an overloaded peer"),
    TlsFailure::Closed => ("tls_closed", "network, or a peer that ends or refused without an alert"),
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

names! {
    /// Istio's label `connection_security_policy`.
    pub fn security(value: Security), SECURITIES:
    Security::None => ("none", "plaintext"),
    Security::SameNode => ("same_node", "within the node: no TLS, identities from the kernel"),
    Security::MutualTls => ("mutual_tls", "TLS 1.3, both certificates verified"),
}
