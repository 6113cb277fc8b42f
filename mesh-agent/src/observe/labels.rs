//! Label sets, and the names that labels and log share.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use serde::Serialize;

use crate::model::{
    CipherSuite, CloseReason, Direction, KeyExchange, REFUSE_REASONS, RefusalScope, RefuseReason,
    ResponseFlags, Security, TLS_FAILURES, TlsParameters, TlsRole,
};

/// Value of the labels that count for all that are too many.
pub(super) const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    direction: &'static str,
    reason: &'static str,
}

impl ReasonLabels {
    pub(super) fn new(way: Direction, reason: &'static str) -> Self {
        Self {
            direction: direction(way),
            reason,
        }
    }
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

/// Every value of the label `reason` of connections.
pub(super) fn every_end() -> impl Iterator<Item = &'static str> {
    let closes = CLOSE_REASONS.iter().map(|(label, _)| *label);
    let refusals = every_refusal().filter(|reason| match reason.refusal().scope {
        RefusalScope::Any => true,
        // A series of such ends would never move.
        RefusalScope::Requests => false,
    });
    closes.chain(refusals.map(refuse_reason))
}

/// Each may be why a request is refused.
pub(super) fn every_refusal() -> impl Iterator<Item = RefuseReason> {
    let tls = TLS_FAILURES.iter().copied().map(RefuseReason::Tls);
    REFUSE_REASONS.iter().copied().chain(tls)
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
    pub(crate) fn direction(value: Direction), DIRECTIONS:
    Direction::Outbound => ("outbound", "from a pod of this node to elsewhere"),
    Direction::Inbound => ("inbound", "to a pod of this node from elsewhere"),
    Direction::SameNode => ("same_node", "both pods are on this node"),
}

names! {
    /// Name of an end in labels and log.
    pub(crate) fn close_reason(value: CloseReason), CLOSE_REASONS:
    CloseReason::Finished => ("finished", "both sides said that they are done"),
    CloseReason::ResetByClient => ("reset_by_client", "the client reset it or vanished"),
    CloseReason::ResetByUpstream => ("reset_by_upstream", "the server reset it or vanished"),
    CloseReason::IdleTimeout => ("idle_timeout", "no bytes for `--idle-timeout`"),
    CloseReason::DrainDeadline => ("drain_deadline", "the agent stopped; longer `--drain-timeout` waits longer"),
    CloseReason::PodRemoved => ("pod_removed", "the pod left the mesh or went away"),
    CloseReason::PolicyChanged => ("policy_changed", "a policy that changed meanwhile says no: `explain`"),
    CloseReason::Revoked => ("revoked", "the peer's certificate was revoked meanwhile, or the root that it was verified by was removed"),
    CloseReason::CertificateExpired => ("certificate_expired", "a certificate ended without a new one: `status`, and the authority"),
    CloseReason::PeerCertificateExpired => ("peer_certificate_expired", "the peer showed no newer certificate: its agent or authority is away, or the two cannot connect any more"),
    CloseReason::ProtocolError => ("protocol_error", "the other agent broke the protocol: compare versions, report it"),
    ; CloseReason::Refused(reason) => refuse_reason(reason)
}

/// Name of a refusal in labels and log.
#[must_use]
pub(crate) fn refuse_reason(value: RefuseReason) -> &'static str {
    value.refusal().label
}

names! {
    /// As ztunnel has them.
    pub(super) fn response_flags(value: ResponseFlags), RESPONSE_FLAGS:
    ResponseFlags::None => ("-", "it was carried"),
    ResponseFlags::Denied => ("DENY", "a policy said no, of this node or of the destination's: `denied`, `refused_by_peer`, `plaintext_refused`"),
    ResponseFlags::Connect => ("CONNECT", "no way to an application: no endpoint, no route, nobody listens, no answer"),
    ResponseFlags::TlsFailure => ("TLS_FAILURE", "the handshake between the agents failed: `tls_…`"),
    ResponseFlags::Identity => ("IDENTITY_ERROR", "no valid certificate here, or another workload than configured"),
    ResponseFlags::DownstreamProtocol => ("DPE", "the client sent what is no request, or one with two meanings"),
    ResponseFlags::UpstreamProtocol => ("UPE", "the application sent what is no answer"),
    ResponseFlags::UpstreamReset => ("UC", "the application closed before it answered"),
    ResponseFlags::NoRoute => ("NR", "no route, or no backend of a route"),
    ResponseFlags::Timeout => ("UT", "it took too long"),
    ResponseFlags::Overflow => ("UO", "a limit of the destination"),
    ResponseFlags::RateLimited => ("RL", "a rate limit of the destination's Service: `rate_limited`"),
    ResponseFlags::FaultInjected => ("FI", "a fault that a TrafficPolicy injects"),
    ResponseFlags::Other => ("OTHER", "limits, drain, a pod that goes, a fault, a client that left: `reason` says which"),
}

/// Of a connection that was not carried.
pub(super) fn flags_of_refused(reason: CloseReason) -> ResponseFlags {
    match reason.refused() {
        Some(reason) => reason.refusal().flags,
        None if reason == CloseReason::PolicyChanged => ResponseFlags::Denied,
        None if reason == CloseReason::ResetByUpstream => ResponseFlags::Connect,
        None => ResponseFlags::Other,
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
    pub(crate) fn security(value: Security), SECURITIES:
    Security::Unknown => ("unknown", "refused before that was settled: nothing was carried"),
    Security::None => ("none", "plaintext"),
    Security::SameNode => ("same_node", "within the node: no TLS, identities from the kernel"),
    Security::MutualTls => ("mutual_tls", "TLS 1.3, both certificates verified"),
}
