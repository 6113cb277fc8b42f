//! What would become of a connection or a request, for people and programs to read.

use serde::{Deserialize, Serialize};

/// What would become of connections from here to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Allowed,
    Refused,
    /// Some endpoints take it and some do not.
    Mixed,
    /// A connection may be, and each request on it is decided by itself.
    NeedsRequest,
}

/// An answer of `mesh-agent explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) verdict: Verdict,
    /// The node whose agent answered, and the configuration that it went by.
    pub(crate) node: String,
    pub(crate) generation: u64,
    pub(crate) from: Side,
    pub(crate) to: Side,
    pub(crate) port: u16,
    /// What the routes of the Service's port say; `None` where there are none for
    /// this caller.
    #[serde(default)]
    pub(crate) route: Option<Routed>,
    /// One for each endpoint that the connection may go to; some of them
    /// where there are more than `ways_total` tells.
    pub(crate) ways: Vec<EndpointPath>,
    pub(crate) ways_total: usize,
    pub(crate) notes: Vec<String>,
}

/// One end, as the question named it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Side {
    /// `pod`, `service` or `address`.
    pub(crate) kind: String,
    /// `namespace/name`.
    pub(crate) name: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) node: Option<String>,
    /// Enrolled: its connections pass an agent.
    pub(crate) in_mesh: bool,
    pub(crate) identity: Option<String>,
}

/// What routes make of a request, or of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Routed {
    /// `kind/namespace/name`; `None` where no rule matches.
    pub(crate) route: Option<String>,
    /// The rule's name, or its number.
    pub(crate) rule: Option<String>,
    /// What may become of it; the shares are of one sum.
    pub(crate) shares: Vec<Share>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) weight: u64,
    pub(crate) of: u64,
    /// `namespace/name:port` of a Service; `None` where the agent answers.
    pub(crate) backend: Option<String>,
    /// The agent's own answer: its status (0: a connection is reset), and why.
    pub(crate) status: Option<u16>,
    pub(crate) why: Option<String>,
    /// What filters change of requests and of answers.
    pub(crate) changes: Vec<String>,
    /// Where copies go, with their share.
    pub(crate) copies: Vec<String>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointPath {
    /// The backend of a route whose endpoint it is: `namespace/name:port`.
    #[serde(default)]
    pub(crate) backend: Option<String>,
    /// Where it would be dialled; `None` when it does not get that far.
    pub(crate) destination: Option<String>,
    pub(crate) workload: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) identity: Option<String>,
    /// As the label `connection_security_policy`: `mutual_tls`, `same_node`, `none`.
    pub(crate) transport: Option<String>,
    /// What the port takes, `STRICT`, `PERMISSIVE` or `DISABLE`, and the
    /// PeerAuthentication that says so; `None` where none does.
    pub(crate) mode: Option<String>,
    pub(crate) mode_by: Option<String>,
    /// As the label `reason`; `None` where it is allowed.
    pub(crate) refused: Option<String>,
    /// Neither allowed nor refused before there is a request.
    #[serde(default)]
    pub(crate) needs_request: bool,
    /// Of a policy's refusal, in Istio's words.
    pub(crate) details: Option<String>,
    /// The rule that decided; `None` where no policy did.
    pub(crate) rule: Option<Rule>,
    /// Every policy that selects the destination, in the order of evaluation.
    pub(crate) policies: Vec<Policy>,
    pub(crate) policies_total: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// `namespace/name`.
    pub(crate) policy: String,
    /// Index into `spec.rules`; `None` where no single rule decided.
    pub(crate) rule: Option<u16>,
    /// Of the configuration that it comes from.
    pub(crate) generation: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) policy: String,
    /// `ALLOW` or `DENY`.
    pub(crate) action: String,
    pub(crate) matches: bool,
    /// One of its rules may match: the request says it.
    #[serde(default)]
    pub(crate) needs_request: bool,
    /// Index of the rule that matches.
    pub(crate) rule: Option<u16>,
    /// Only rehearsed: what it would have said.
    pub(crate) dry_run: Option<DryRun>,
    /// What it says and does not do.
    pub(crate) problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DryRun {
    WouldAllow,
    WouldDeny,
    /// A DENY of which no rule matches.
    NoEffect,
}
