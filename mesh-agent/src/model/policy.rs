//! Who may connect: authorization and peer authentication, as written.

mod host;
mod path;
mod pattern;

use std::collections::BTreeMap;
use std::time::SystemTime;

use ipnet::IpNet;

use super::{ServiceKey, TrustDomain};
pub(crate) use host::HostPattern;
pub(crate) use path::PathPattern;
pub(crate) use pattern::Pattern;

/// Whose policies reach the whole mesh where nobody says otherwise, as in Istio.
pub(crate) const ROOT_NAMESPACE: &str = "istio-system";
/// In a principal it means the mesh's own trust domain, whatever that is called.
const CLUSTER_LOCAL: &str = TrustDomain::DEFAULT;

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshSettings {
    /// Policies in this namespace reach every namespace.
    pub(crate) root_namespace: String,
    /// Of every identity that is made here.
    pub(crate) trust_domain: TrustDomain,
    /// Other names of it: former ones, or one to come.
    pub(crate) trust_domain_aliases: Vec<TrustDomain>,
}

impl MeshSettings {
    /// What the own trust domain may be called in a principal.
    pub(crate) fn own_names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.trust_domain_aliases.iter();
        let given = [&self.trust_domain].into_iter().chain(aliases);
        given.map(TrustDomain::as_str).chain([CLUSTER_LOCAL])
    }

    #[must_use]
    pub(crate) fn is_own(&self, domain: &str) -> bool {
        self.own_names().any(|name| name == domain)
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: ROOT_NAMESPACE.to_owned(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Allow,
    Deny,
}

/// Which workloads an object selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Whatever namespace the object is in: its metadata could not be read.
    Mesh,
    /// Its namespace; the whole mesh from the root namespace.
    Namespace,
    /// Those with all these labels, within the above.
    Labels(BTreeMap<String, String>),
    /// Those behind one of these services.
    Services(Vec<ServiceKey>),
}

/// `security.istio.io` AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthorizationPolicy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) action: Action,
    /// Evaluated and told, never enforced.
    pub(crate) dry_run: bool,
    pub(crate) scope: Scope,
    pub(crate) rules: Vec<Rule>,
    /// Why it could not be understood. Then DENY denies all that it selects
    /// and ALLOW grants nothing.
    pub(crate) broken: Option<String>,
}

/// All of: a source (if any is given), an operation (if any is given), every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) from: Vec<Source>,
    pub(crate) to: Vec<Operation>,
    pub(crate) when: Vec<Condition>,
}

/// One of `values` (unless empty), and none of `not_values`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match<T> {
    pub(crate) values: Vec<T>,
    pub(crate) not_values: Vec<T>,
}

impl<T> Default for Match<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            not_values: Vec::new(),
        }
    }
}

impl<T> Match<T> {
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) principals: Match<Pattern>,
    pub(crate) namespaces: Match<Pattern>,
    pub(crate) service_accounts: Match<ServiceAccount>,
    pub(crate) ip_blocks: Match<IpNet>,
    /// What X-Forwarded-For or the PROXY protocol says: a claim, and not served.
    pub(crate) remote_ip_blocks: Match<IpNet>,
    /// From a token: not served.
    pub(crate) request_principals: Match<String>,
}

impl Source {
    /// Asks for what is never known here.
    #[must_use]
    pub(crate) fn is_unserved(&self) -> bool {
        !self.remote_ip_blocks.is_empty() || !self.request_principals.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) ports: Match<u16>,
    pub(crate) hosts: Match<HostPattern>,
    pub(crate) methods: Match<Pattern>,
    pub(crate) paths: Match<PathPattern>,
}

impl Operation {
    #[must_use]
    pub(crate) fn has_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Principal(Match<Pattern>),
    Namespace(Match<Pattern>),
    ServiceAccount(Match<ServiceAccount>),
    SourceIp(Match<IpNet>),
    DestinationIp(Match<IpNet>),
    DestinationPort(Match<u16>),
    Sni(Match<Pattern>),
    /// `request.headers[:authority]`, or `[host]`.
    Host(Match<HostPattern>),
    /// `request.headers[:method]`.
    Method(Match<Pattern>),
    /// `request.headers[name]`.
    Header {
        name: String,
        values: Match<Pattern>,
    },
    /// A key of Istio's that is never known here: tokens, X-Forwarded-For.
    Unserved {
        key: String,
        values: Match<String>,
    },
}

/// A service account of any trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What an inbound port takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum PeerMode {
    /// Only mutual TLS.
    Strict,
    /// Mutual TLS and plaintext.
    #[default]
    Permissive,
    /// Only plaintext.
    Disable,
}

/// `security.istio.io` PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAuthentication {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `None` where no API server has seen it: files.
    pub(crate) created: Option<SystemTime>,
    /// Never [`Scope::Services`].
    pub(crate) scope: Scope,
    /// `None` inherits.
    pub(crate) mode: Option<PeerMode>,
    /// By the workload's port; only with a selector.
    pub(crate) ports: BTreeMap<u16, Option<PeerMode>>,
    /// Why it could not be understood: then STRICT for all that it selects.
    pub(crate) broken: Option<String>,
}
