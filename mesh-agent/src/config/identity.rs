//! Where the pods' certificates come from.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::names;
use super::place::Place;
use crate::identity::{CaConfig, Config, ConfigMap, NotAConfigMap, Roots, RootsFrom, SourceConfig};
use crate::kube::Access;
use crate::model::{SpiffeError, TrustDomain};

#[derive(Clone, Debug, Args)]
pub(crate) struct Identity {
    /// Who vouches for this mesh's identities.
    #[arg(long, default_value = TrustDomain::DEFAULT, value_parser = trust_domain)]
    pub(crate) trust_domain: TrustDomain,
    /// Another name of the trust domain, before and after it is renamed: in policies it means the
    /// same, and peers of it are the same workloads; may be repeated.
    #[arg(long, value_parser = trust_domain)]
    pub(crate) trust_domain_alias: Vec<TrustDomain>,
    /// Certificate authority, HOST:PORT.
    #[arg(long, value_parser = names::address, requires_all = ["ca_roots", "ca_token_file"], conflicts_with = "identity_dir")]
    pub(crate) ca_address: Option<String>,
    /// Name in the authority's certificate [default: the host of --ca-address].
    #[arg(long, requires = "ca_address", value_parser = names::host)]
    pub(crate) ca_server_name: Option<String>,
    /// Roots (PEM) that the authority's own certificate must come from; watched.
    #[arg(long, requires = "ca_address", group = "ca_roots")]
    pub(crate) ca_root: Option<PathBuf>,
    /// The same in a ConfigMap, NAMESPACE/NAME[/KEY] (root.pem where no key is named): watched by
    /// the API server, with the revocation lists in crl.pem beside it, and kept for a start without it.
    #[arg(long, requires = "ca_address", group = "ca_roots", value_parser = |t: &str| -> Result<ConfigMap, NotAConfigMap> { t.parse() })]
    pub(crate) ca_root_configmap: Option<ConfigMap>,
    /// What an authority of several clusters calls this one (istiod's ClusterID).
    #[arg(long, requires = "ca_address", value_parser = names::word)]
    pub(crate) ca_cluster_id: Option<String>,
    /// Join token, or a projected token of the pod's service account; read again for each request.
    #[arg(long, requires = "ca_address")]
    pub(crate) ca_token_file: Option<PathBuf>,
    /// Directory of NAMESPACE.SERVICE_ACCOUNT.crt and .key and ca.crt; watched.
    #[arg(long)]
    pub(crate) identity_dir: Option<PathBuf>,
    /// Revocation lists (PEM or DER); watched.
    #[arg(long)]
    pub(crate) crl_file: Option<PathBuf>,
    /// Lifetime to ask for [default: the authority's].
    #[arg(long, value_parser = names::lifetime)]
    pub(crate) certificate_lifetime: Option<Duration>,
}

pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, SpiffeError> {
    TrustDomain::new(text)
}

impl Identity {
    fn roots(&self, (access, dir): (Access, PathBuf)) -> Option<Roots> {
        let configmap = self.ca_root_configmap.clone().map(|configmap| {
            Roots::ConfigMap(RootsFrom {
                configmap,
                access,
                dir,
            })
        });
        configmap.or_else(|| self.ca_root.clone().map(Roots::File))
    }

    /// For the agent of `node`. `cluster`: how it reaches the API server, and where it
    /// keeps the roots that it saw there.
    #[must_use]
    pub(crate) fn config(&self, node: &str, place: &Place, cluster: (Access, PathBuf)) -> Config {
        let source = match (&self.ca_address, self.roots(cluster), &self.ca_token_file) {
            (Some(address), Some(roots), Some(token)) => SourceConfig::Ca(Box::new(CaConfig {
                server_name: self
                    .ca_server_name
                    .clone()
                    .unwrap_or_else(|| host(address).to_owned()),
                address: address.clone(),
                roots,
                cluster_id: self.ca_cluster_id.clone(),
                token: token.clone(),
                node: node.to_owned(),
                lifetime: self.certificate_lifetime,
            })),
            _ => match &self.identity_dir {
                Some(dir) => SourceConfig::Files(dir.clone()),
                None => SourceConfig::None,
            },
        };
        Config {
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_alias.clone(),
            source,
            crl_file: self.crl_file.clone(),
            crl_kept: Some(place.crl()),
        }
    }
}

/// Without the port and without an IPv6 address's brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
