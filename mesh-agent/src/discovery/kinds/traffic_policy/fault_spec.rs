//! Faults that a TrafficPolicy asks for, as the API has them.

#[cfg(test)]
use schemars::JsonSchema;
use serde::Deserialize;

use super::values::{Label, PrincipalName, Time, Timestamp, Within};

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.delay) || has(self.abort)",
    "message": "needs delay or abort",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Fault {
    /// Its name in log and status.
    pub(super) name: Label,
    /// Whose requests.
    pub(super) from: From,
    /// From then on it has no effect; in UTC, such as `2026-12-31T17:30:00Z`.
    pub(super) until: Timestamp,
    /// So many of a hundred of their requests, by chance. Default: 100.
    pub(super) percent: Option<Within<1, 100>>,
    /// They wait for so long on the caller's node, and are decided on behind that; the
    /// timeouts of routes and policies begin then.
    pub(super) delay: Option<Time<1, 60_000>>,
    /// The answer, which no server has given; with `delay`, behind that.
    pub(super) abort: Option<Abort>,
}

/// Whose.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.principals) || has(self.namespaces)",
    "message": "names no caller: principals or namespaces",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct From {
    /// Identities of pods: `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, where `cluster.local` is
    /// the mesh's own trust domain.
    #[cfg_attr(test, schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic")))]
    pub(super) principals: Option<Vec<PrincipalName>>,
    /// All pods of these namespaces, too.
    #[cfg_attr(test, schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic")))]
    pub(super) namespaces: Option<Vec<Label>>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.httpStatus) || has(self.grpcStatus)",
    "message": "needs httpStatus or grpcStatus",
}])))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Abort {
    /// Default: what the gRPC status is in HTTP.
    pub(super) http_status: Option<Within<400, 599>>,
    /// Of requests of gRPC. Default: what the HTTP status is in gRPC.
    pub(super) grpc_status: Option<GrpcStatus>,
}

/// All but that of success.
#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum GrpcStatus {
    Cancelled = 1,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}
