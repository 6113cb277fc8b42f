//! What the reference of metrics is made from.

use super::Observe;
use super::labels::{CLOSE_REASONS, DIRECTIONS, RESPONSE_FLAGS, SECURITIES};
use super::requests::REQUEST_FLAGS;
use super::tests::{outcome, request};
use crate::model::{
    CipherSuite, CloseReason, KeyExchange, REFUSE_REASONS, Refusal, RefuseReason, TLS_FAILURES,
    TlsParameters, TlsRole,
};

/// Closed sets of label values, by where they are.
pub(crate) fn names() -> [(&'static str, Vec<(&'static str, &'static str)>); 7] {
    let refusals = |refusal: &Refusal| (refusal.label, refusal.means);
    let refused = REFUSE_REASONS.iter().map(|r| refusals(r.refusal()));
    let handshakes = TLS_FAILURES.iter().map(|f| refusals(f.refusal()));
    [
        ("`reason`: how connections ended", CLOSE_REASONS.to_vec()),
        (
            "`reason`: why connections and requests were refused",
            refused.collect(),
        ),
        ("`reason`: why handshakes failed", handshakes.collect()),
        ("`direction`", DIRECTIONS.to_vec()),
        ("`response_flags` of connections", RESPONSE_FLAGS.to_vec()),
        ("`response_flags` of requests", REQUEST_FLAGS.to_vec()),
        ("`connection_security_policy`", SECURITIES.to_vec()),
    ]
}

pub(crate) use super::access_log::line::FIELDS;
pub(crate) use super::access_log::request::FIELDS as REQUEST_FIELDS;

/// One connection of each kind, so that every family has its labels.
pub(crate) fn fill(observe: &Observe) {
    let worker = observe.worker();
    let carried = outcome(CloseReason::Finished);
    worker.opened(carried.flow.clone()).closed(&carried);
    let parameters = TlsParameters {
        group: KeyExchange::X25519MlKem768,
        cipher: CipherSuite::Aes128Gcm,
    };
    worker.handshake(TlsRole::Client, parameters);
    worker.request(&request(&carried.flow));
    worker.refused(&outcome(CloseReason::Refused(RefuseReason::Denied)));
}

/// What a label of the page can be.
#[derive(Debug)]
pub(crate) struct Label {
    /// Metrics where it is this, `*` for any end; none: wherever it is.
    pub(crate) of: &'static [&'static str],
    /// `a, _b` stands for `a` and `a_b`.
    pub(crate) names: &'static str,
    pub(crate) values: &'static str,
}

impl Label {
    pub(crate) const fn anywhere(names: &'static str, values: &'static str) -> Self {
        Self::of(&[], names, values)
    }

    pub(crate) const fn of(
        of: &'static [&'static str],
        names: &'static str,
        values: &'static str,
    ) -> Self {
        Self { of, names, values }
    }
}

const BELOW: &str = "see below";
const CONFIGURED: &str = "from the configuration; `unknown`, `other`";

/// A label that is not the same everywhere has no row without metrics: who adds a metric
/// with it has to say what it is there.
pub(crate) const LABELS: &[Label] = &[
    Label::of(
        &["mesh_agent_connections_ended_total"],
        "reason",
        "see below: how connections ended, why they were refused, why handshakes failed",
    ),
    Label::of(
        &["mesh_agent_requests_refused_total"],
        "reason",
        "see below: why connections and requests were refused, why handshakes failed",
    ),
    Label::anywhere("direction", BELOW),
    Label::anywhere("connection_security_policy", BELOW),
    Label::of(
        &["istio_tcp_*"],
        "response_flags",
        "see below, of connections",
    ),
    Label::of(
        &["istio_request*", "istio_response*"],
        "response_flags",
        "see below, of requests",
    ),
    Label::anywhere(
        "source_canonical_service, destination_canonical_service",
        "label `service.istio.io/canonical-name`, else as the workload; `unknown`, `other`",
    ),
    Label::anywhere(
        "source_canonical_revision, destination_canonical_revision",
        "label `service.istio.io/canonical-revision`, `app.kubernetes.io/version` or `version`, else `latest`; `unknown`, `other`",
    ),
    Label::anywhere(
        "source_version, destination_version",
        "label `version` or `app.kubernetes.io/version`; `unknown`, `other`",
    ),
    Label::anywhere(
        "source_cluster, destination_cluster",
        "`--cluster-id`; `unknown`, `other`",
    ),
    Label::anywhere(
        "reporter",
        "`source` (the caller's agent, also within a node), `destination`",
    ),
    Label::anywhere("request_protocol", "`tcp`, `http`, `grpc`"),
    Label::anywhere("response_code", "of HTTP; 0 where no answer began"),
    Label::anywhere(
        "grpc_response_status",
        "of gRPC, 0 to 16; empty of what is not gRPC",
    ),
    Label::anywhere(
        "route",
        "`kind/namespace/name` of the route that a request took; `none`, `other`; empty with `--no-route-label`",
    ),
    Label::of(
        &["mesh_agent_pending_seconds"],
        "end",
        "`placed` (it had a place), `late` (none in time), `displaced` (it made room for a pod with fewer that wait), `left` (its client, or its pod, was gone before)",
    ),
    Label::of(
        &["mesh_agent_hedges_total"],
        "end",
        "`won` (its answer was the client's), `lost` (the first was answered before it, or the client left), `failed` (it had no answer that would do); not sent: `over_budget` (too many retries for the requests), `nowhere` (no other endpoint that may be asked, or no place)",
    ),
    Label::of(
        &["mesh_agent_api_*"],
        "kind",
        "a kind of objects of the Kubernetes API, as `Pod`",
    ),
    Label::of(
        &["mesh_agent_faults_injected_total"],
        "kind",
        "`delay`, `abort`",
    ),
    Label::anywhere(
        "fault",
        "`unreachable`, `timeout`, `unauthorized`, `forbidden`, `not_found`, `expired` (a watch that is too old: all is listed anew), `throttled`, `server_error`, `invalid` (an answer that is not understood)",
    ),
    Label::anywhere(
        "source_workload, destination_workload",
        "label `app.kubernetes.io/name` or `app`, else the pod's name; `unknown`, `other`",
    ),
    Label::anywhere(
        "source_app, destination_app",
        "label `app`; `unknown`, `other`",
    ),
    Label::anywhere(
        "source_workload_namespace, destination_workload_namespace",
        CONFIGURED,
    ),
    Label::anywhere("destination_service, _name, _namespace", CONFIGURED),
    Label::anywhere(
        "source_principal, destination_principal",
        "verified SPIFFE ids; `unknown`, `other`",
    ),
    Label::of(
        &["mesh_agent_authz_denied_total"],
        "policy",
        "`namespace/name` of an AuthorizationPolicy; `none`, `other`",
    ),
    Label::of(
        &["mesh_agent_rate_limited_total"],
        "policy",
        "`namespace/name` of a TrafficPolicy; `other`",
    ),
    Label::anywhere(
        "limit",
        "`rateLimits[].name` of that TrafficPolicy; `other`",
    ),
    Label::anywhere(
        "dry_run",
        "`true` (it passed, and was only counted), `false` (it was refused)",
    ),
    Label::anywhere("identity", "SPIFFE ids of this node's pods, 1,000 at most"),
    Label::anywhere(
        "copy",
        "`answered`; left out: `refused` (no leave, or no endpoint), `full` (too many under way, or no room to keep it), `too_long` (its body); `failed`, `timed_out`; `abandoned` (the request did not go to its end, or its pod went)",
    ),
    Label::anywhere(
        "share",
        "whose share of the places was taken: `node`, `pod`, `source`",
    ),
    Label::of(
        &["mesh_agent_pods"],
        "state",
        "`enrolled`, or `failed`: wanted in the mesh and not enrolled",
    ),
    Label::anywhere(
        "hash",
        "of the configuration in force, as in `status`: nodes with the same one decide alike",
    ),
    Label::anywhere("role", "`client`, `server`"),
    Label::of(&["mesh_agent_build_info"], "version", "of the agent"),
    Label::of(
        &["mesh_agent_tls_handshakes_total"],
        "version",
        "of TLS: `1.3`",
    ),
    Label::anywhere("group", "`X25519MLKEM768`, `X25519`"),
    Label::anywhere(
        "cipher",
        "`TLS_AES_128_GCM_SHA256`, `TLS_AES_256_GCM_SHA384`, `TLS_CHACHA20_POLY1305_SHA256`",
    ),
    Label::of(
        &["mesh_agent_certificate_renewals_total"],
        "result",
        "`success` (it has one), `failure`",
    ),
    Label::of(
        &["mesh_agent_outlier_probes_total"],
        "result",
        "`success` (the endpoint works again), `failure` (it does not yet)",
    ),
    Label::anywhere("cause", "`consecutive_failures`, `success_rate`"),
    Label::anywhere("outcome", "`enrolled`, `outside`, `refused`"),
    Label::anywhere("event", BELOW),
];
