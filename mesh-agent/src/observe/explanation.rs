//! What would become of a connection or a request, for people and programs to read.

use serde::{Deserialize, Serialize};

/// What would become of connections from here to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allowed,
    Refused,
    /// Some endpoints take it and some do not.
    Mixed,
    /// A connection may be, and each request on it is decided by itself.
    NeedsRequest,
}

/// An answer of `mesh-agent explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub verdict: Verdict,
    /// The node whose agent answered, and the configuration that it went by.
    pub node: String,
    pub generation: u64,
    pub from: Side,
    pub to: Side,
    pub port: u16,
    /// What the routes of the Service's port say; `None` where there are none for
    /// this caller.
    #[serde(default)]
    pub route: Option<Routed>,
    /// One for each endpoint that the connection may go to; some of them
    /// where there are more than `ways_total` tells.
    pub ways: Vec<EndpointPath>,
    pub ways_total: usize,
    pub notes: Vec<String>,
}

/// One end, as the question named it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// `pod`, `service` or `address`.
    pub kind: String,
    /// `namespace/name`.
    pub name: Option<String>,
    pub address: Option<String>,
    pub node: Option<String>,
    /// Enrolled: its connections pass an agent.
    pub in_mesh: bool,
    pub identity: Option<String>,
}

/// What routes make of a request, or of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routed {
    /// `kind/namespace/name`; `None` where no rule matches.
    pub route: Option<String>,
    /// The rule's name, or its number.
    pub rule: Option<String>,
    /// What may become of it; the shares are of one sum.
    pub shares: Vec<Share>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub weight: u64,
    pub of: u64,
    /// `namespace/name:port` of a Service; `None` where the agent answers.
    pub backend: Option<String>,
    /// The agent's own answer: its status (0: a connection is reset), and why.
    pub status: Option<u16>,
    pub why: Option<String>,
    /// What filters change of requests and of answers.
    pub changes: Vec<String>,
    /// Where copies go, with their share.
    pub copies: Vec<String>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointPath {
    /// The backend of a route whose endpoint it is: `namespace/name:port`.
    #[serde(default)]
    pub backend: Option<String>,
    /// Where it would be dialled; `None` when it does not get that far.
    pub destination: Option<String>,
    pub workload: Option<String>,
    pub node: Option<String>,
    pub identity: Option<String>,
    /// As the label `connection_security_policy`: `mutual_tls`, `same_node`, `none`.
    pub transport: Option<String>,
    /// What the port takes, `STRICT`, `PERMISSIVE` or `DISABLE`, and the
    /// PeerAuthentication that says so; `None` where none does.
    pub mode: Option<String>,
    pub mode_by: Option<String>,
    /// As the label `reason`; `None` where it is allowed.
    pub refused: Option<String>,
    /// Neither allowed nor refused before there is a request.
    #[serde(default)]
    pub needs_request: bool,
    /// Of a policy's refusal, in Istio's words.
    pub details: Option<String>,
    /// The rule that decided; `None` where no policy did.
    pub rule: Option<Rule>,
    /// Every policy that selects the destination, in the order of evaluation.
    pub policies: Vec<Policy>,
    pub policies_total: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// `namespace/name`.
    pub policy: String,
    /// Index into `spec.rules`; `None` where no single rule decided.
    pub rule: Option<u16>,
    /// Of the configuration that it comes from.
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub policy: String,
    /// `ALLOW` or `DENY`.
    pub action: String,
    pub matches: bool,
    /// One of its rules may match: the request says it.
    #[serde(default)]
    pub needs_request: bool,
    /// Index of the rule that matches.
    pub rule: Option<u16>,
    /// Only rehearsed: what it would have said.
    pub dry_run: Option<DryRun>,
    /// What it says and does not do.
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DryRun {
    WouldAllow,
    WouldDeny,
    /// A DENY of which no rule matches.
    NoEffect,
}
