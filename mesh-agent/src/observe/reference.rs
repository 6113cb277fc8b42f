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

/// Labels and what they can be.
pub(crate) fn labels() -> Vec<(&'static str, String)> {
    let below = "see below";
    let configured = "from the configuration; `unknown`, `other`";
    [
        ("reason", below),
        ("direction", below),
        ("connection_security_policy", below),
        ("response_flags", below),
        (
            "source_canonical_service, destination_canonical_service",
            "label `service.istio.io/canonical-name`, else as the workload; `unknown`, `other`",
        ),
        (
            "source_canonical_revision, destination_canonical_revision",
            "label `service.istio.io/canonical-revision`, `app.kubernetes.io/version` or `version`, else `latest`; `unknown`, `other`",
        ),
        (
            "source_version, destination_version",
            "label `version` or `app.kubernetes.io/version`; `unknown`, `other`",
        ),
        (
            "source_cluster, destination_cluster",
            "`--cluster-id`; `unknown`, `other`",
        ),
        (
            "reporter",
            "`source` (the caller's agent, also within a node), `destination`",
        ),
        ("request_protocol", "`tcp`, `http`, `grpc`"),
        ("response_code", "of HTTP; 0 where no answer began"),
        ("grpc_response_status", "of gRPC, 0 to 16; empty of what is not gRPC"),
        (
            "route",
            "`kind/namespace/name` of the route that a request took; `none`, `other`; empty with `--no-route-label`",
        ),
        (
            "end",
            "of a wait for a place at a Service (`mesh_agent_pending_seconds`): `placed` (it had one), `late` (none in time), `displaced` (it made room for a pod with fewer that wait), `left` (its client, or its pod, was gone before); of a second try (`mesh_agent_hedges_total`): `won` (its answer was the client's), `lost` (the first was answered before it, or the client left), `failed` (it had no answer that would do); not sent: `over_budget` (too many retries for the requests), `nowhere` (no other endpoint that may be asked, or no place)",
        ),
        (
            "kind",
            "a kind of objects of the Kubernetes API, as `Pod`",
        ),
        (
            "fault",
            "`unreachable`, `timeout`, `unauthorized`, `forbidden`, `not_found`, `expired` (a watch that is too old: all is listed anew), `throttled`, `server_error`, `invalid` (an answer that is not understood)",
        ),
        (
            "source_workload, destination_workload",
            "label `app.kubernetes.io/name` or `app`, else the pod's name; `unknown`, `other`",
        ),
        (
            "source_app, destination_app",
            "label `app`; `unknown`, `other`",
        ),
        (
            "source_workload_namespace, destination_workload_namespace",
            configured,
        ),
        ("destination_service, _name, _namespace", configured),
        (
            "source_principal, destination_principal",
            "verified SPIFFE ids; `unknown`, `other`",
        ),
        (
            "policy",
            "`namespace/name` of an AuthorizationPolicy; `none`, `other`",
        ),
        ("identity", "SPIFFE ids of this node's pods, 1,000 at most"),
        (
            "copy",
            "`answered`; left out: `refused` (no leave, or no endpoint), `full` (too many under way, or no room to keep it), `too_long` (its body); `failed`, `timed_out`; `abandoned` (the request did not go to its end, or its pod went)",
        ),
        ("share", "whose share of the places was taken: `node`, `pod`, `source`"),
        (
            "state",
            "`enrolled`, or `failed`: wanted in the mesh and not enrolled",
        ),
        (
            "hash",
            "of the configuration in force, as in `status`: nodes with the same one decide alike",
        ),
        ("role", "`client`, `server`"),
        ("version", "`1.3`"),
        ("group", "`X25519MLKEM768`, `X25519`"),
        (
            "cipher",
            "`TLS_AES_128_GCM_SHA256`, `TLS_AES_256_GCM_SHA384`, `TLS_CHACHA20_POLY1305_SHA256`",
        ),
        ("result", "`success`, `failure`"),
        ("cause", "`consecutive_failures`, `success_rate`"),
        ("outcome", "`enrolled`, `outside`, `refused`"),
    ]
    .map(|(label, values)| (label, values.to_owned()))
    .into()
}
