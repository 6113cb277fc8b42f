//! Label sets, and the names that labels and log share.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use serde::Serialize;

use crate::model::{
    CipherSuite, CloseReason, Direction, KeyExchange, RefuseReason, Security, TlsFailure,
    TlsParameters, TlsRole,
};

/// Value of the labels that count for all that are too many.
pub(super) const OTHER: &str = "other";

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PodState {
    pub(super) state: &'static str,
}

/// Six sets for each role at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Handshake {
    role: &'static str,
    version: &'static str,
    group: &'static str,
    cipher: &'static str,
}

pub(super) const ALL_DIRECTIONS: [Direction; 3] =
    [Direction::Outbound, Direction::Inbound, Direction::SameNode];

/// Every value of the label `reason`.
pub(super) fn every_reason() -> impl Iterator<Item = &'static str> {
    let all = [CLOSE_REASONS, REFUSE_REASONS, TLS_FAILURES];
    all.into_iter().flatten().map(|(label, _)| *label)
}

impl Handshake {
    pub(super) fn every() -> impl Iterator<Item = Self> {
        let parameters = [KeyExchange::X25519MlKem768, KeyExchange::X25519]
            .into_iter()
            .flat_map(|group| {
                let ciphers = [
                    CipherSuite::Aes128Gcm,
                    CipherSuite::Aes256Gcm,
                    CipherSuite::ChaCha20Poly1305,
                ];
                ciphers.map(|cipher| TlsParameters { group, cipher })
            });
        parameters.flat_map(|parameters| {
            [TlsRole::Client, TlsRole::Server].map(|role| Self::of(role, parameters))
        })
    }

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

        /// With what each means.
        #[allow(dead_code, reason = "some are for the reference only, which a test makes")]
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
    RefuseReason::RefusedByPeer => ("refused_by_peer", "the destination's policy denied: the log's `denied_by` names it, as does the log of the node there"),
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

/// What became of a connection, in a word: Istio's label `response_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ResponseFlags {
    None,
    Denied,
    Connect,
    TlsFailure,
    Identity,
    Other,
}

names! {
    /// As ztunnel has them.
    pub(super) fn response_flags(value: ResponseFlags), RESPONSE_FLAGS:
    ResponseFlags::None => ("-", "it was carried"),
    ResponseFlags::Denied => ("DENY", "a policy said no, of this node or of the destination's: `denied`, `refused_by_peer`, `plaintext_refused`"),
    ResponseFlags::Connect => ("CONNECT", "no way to an application: no endpoint, no route, nobody listens, no answer"),
    ResponseFlags::TlsFailure => ("TLS_FAILURE", "the handshake between the agents failed: `tls_…`"),
    ResponseFlags::Identity => ("IDENTITY_ERROR", "no valid certificate here, or another workload than configured"),
    ResponseFlags::Other => ("OTHER", "limits, drain, a pod that goes, a fault, a client that left: `reason` says which"),
}

impl ResponseFlags {
    /// Of a connection that was not carried.
    pub(super) fn of_refused(reason: CloseReason) -> Self {
        use RefuseReason as R;
        match reason {
            CloseReason::Refused(reason) => match reason {
                R::Denied | R::RefusedByPeer | R::PlaintextRefused => Self::Denied,
                R::UnknownServicePort
                | R::NoEndpoint
                | R::ConnectRefused
                | R::ConnectTimeout
                | R::Unreachable
                | R::UnknownPod
                | R::Unreadable => Self::Connect,
                R::Tls(_) => Self::TlsFailure,
                R::NoCertificate | R::WrongWorkload => Self::Identity,
                R::SourcePortsExhausted
                | R::OverLimit
                | R::Displaced
                | R::Loop
                | R::Draining
                | R::PodRemoved
                | R::Internal => Self::Other,
            },
            CloseReason::PolicyChanged => Self::Denied,
            CloseReason::ResetByUpstream => Self::Connect,
            _ => Self::Other,
        }
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

names! {
    /// Istio's label `connection_security_policy`.
    pub fn security(value: Security), SECURITIES:
    Security::Unknown => ("unknown", "refused before that was settled: nothing was carried"),
    Security::None => ("none", "plaintext"),
    Security::SameNode => ("same_node", "within the node: no TLS, identities from the kernel"),
    Security::MutualTls => ("mutual_tls", "TLS 1.3, both certificates verified"),
}
