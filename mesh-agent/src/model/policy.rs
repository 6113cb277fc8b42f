//! Who may connect: authorization and peer authentication, as written.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use ipnet::IpNet;

use super::{ServiceKey, TrustDomain};

/// In a principal it means the mesh's own trust domain, whatever that is called.
const CLUSTER_LOCAL: &str = "cluster.local";

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Policies in this namespace reach every namespace.
    pub root_namespace: String,
    /// Of every identity that is made here.
    pub trust_domain: TrustDomain,
    /// Other names of it: former ones, or one to come.
    pub trust_domain_aliases: Vec<TrustDomain>,
}

impl MeshSettings {
    /// What the own trust domain may be called in a principal.
    pub fn own_names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.trust_domain_aliases.iter();
        let given = [&self.trust_domain].into_iter().chain(aliases);
        given.map(TrustDomain::as_str).chain([CLUSTER_LOCAL])
    }

    #[must_use]
    pub fn is_own(&self, domain: &str) -> bool {
        self.own_names().any(|name| name == domain)
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".to_owned(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    Deny,
}

/// Which workloads an object selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
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
pub struct AuthorizationPolicy {
    pub namespace: String,
    pub name: String,
    pub action: Action,
    /// Evaluated and told, never enforced.
    pub dry_run: bool,
    pub scope: Scope,
    pub rules: Vec<Rule>,
    /// Why it could not be understood. Then DENY denies all that it selects
    /// and ALLOW grants nothing.
    pub broken: Option<String>,
}

/// All of: a source (if any is given), an operation (if any is given), every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub from: Vec<Source>,
    pub to: Vec<Operation>,
    pub when: Vec<Condition>,
}

/// One of `values` (unless empty), and none of `not_values`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<T> {
    pub values: Vec<T>,
    pub not_values: Vec<T>,
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
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub principals: Match<Pattern>,
    pub namespaces: Match<Pattern>,
    pub service_accounts: Match<ServiceAccount>,
    pub ip_blocks: Match<IpNet>,
    /// From X-Forwarded-For or the PROXY protocol: an HTTP part here.
    pub remote_ip_blocks: Match<IpNet>,
    /// From a token: an HTTP part.
    pub request_principals: Match<String>,
}

impl Source {
    #[must_use]
    pub fn has_http(&self) -> bool {
        !self.remote_ip_blocks.is_empty() || !self.request_principals.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    pub ports: Match<u16>,
    pub hosts: Match<String>,
    pub methods: Match<String>,
    pub paths: Match<String>,
}

impl Operation {
    #[must_use]
    pub fn has_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Principal(Match<Pattern>),
    Namespace(Match<Pattern>),
    ServiceAccount(Match<ServiceAccount>),
    SourceIp(Match<IpNet>),
    DestinationIp(Match<IpNet>),
    DestinationPort(Match<u16>),
    Sni(Match<Pattern>),
    /// Any other key, for example `request.headers[x]`.
    Http {
        key: String,
        values: Match<String>,
    },
}

/// A service account of any trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
}

/// `abc`, `abc*`, `*abc` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Anything but the empty text.
    Present,
}

impl Pattern {
    /// `None` when empty, or with a `*` that is neither first nor last, or both.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let pattern = if text == "*" {
            return Some(Self::Present);
        } else if let Some(prefix) = text.strip_suffix('*') {
            (prefix, Self::Prefix(prefix.to_owned()))
        } else if let Some(suffix) = text.strip_prefix('*') {
            (suffix, Self::Suffix(suffix.to_owned()))
        } else {
            (text, Self::Exact(text.to_owned()))
        };
        (!pattern.0.is_empty() && !pattern.0.contains('*')).then_some(pattern.1)
    }
}

impl Pattern {
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Present => !text.is_empty(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

/// What an inbound port takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerMode {
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
pub struct PeerAuthentication {
    pub namespace: String,
    pub name: String,
    /// `None` where no API server has seen it: files.
    pub created: Option<SystemTime>,
    /// Never [`Scope::Services`].
    pub scope: Scope,
    /// `None` inherits.
    pub mode: Option<PeerMode>,
    /// By the workload's port; only with a selector.
    pub ports: BTreeMap<u16, Option<PeerMode>>,
    /// Why it could not be understood: then STRICT for all that it selects.
    pub broken: Option<String>,
}
