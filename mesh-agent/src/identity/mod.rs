//! The certificates of this node's pods: gets them, keeps them fresh, forgets them.
//!
//! [`Identities::want`] says which identities have a pod here; only those are
//! asked for. Each has a [`Handle`], which connections read without a lock.
//! Sources: an authority over gRPC, or files. Two clocks decide on renewal, so
//! that jumps of the wall clock do no harm (`schedule`).
//!
//! Never: a key on disk or in a log, a certificate after its expiry or after
//! its last pod left, trust in other roots than those that came last.

mod client;
mod files;
pub(crate) mod grpc;
mod handle;
mod manager;
mod metrics;
pub(crate) mod report;
mod roots;
mod schedule;
mod source;
mod status;
mod token;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::{SpiffeId, TrustDomain};
use crate::tls::Trust;
pub(crate) use client::{CaConfig, Roots};
pub(crate) use handle::Handle;
#[cfg(test)]
pub(crate) use handle::IdentityError;
use manager::{Crls, Manager, Shared};
use roots::Mirror;
pub(crate) use roots::{ConfigMap, NotAConfigMap, RootsFrom, root_files};
use source::CertificateSource;
pub(crate) use status::{IdentityStatus, Status, TokenStatus};
pub(crate) use token::TokenLife;

/// For who follows a ConfigMap by an API of its own.
#[cfg(test)]
pub(crate) fn mirror_of(configmap: &str, dir: &std::path::Path) -> Mirror {
    Mirror::new(RootsFrom {
        configmap: configmap.parse().expect("a ConfigMap"),
        access: crate::cluster::Access::InCluster,
        dir: dir.to_owned(),
    })
}

/// Where certificates come from.
#[derive(Clone, Debug)]
pub(crate) enum SourceConfig {
    /// No mTLS is possible: traffic that needs it is refused.
    None,
    Ca(Box<CaConfig>),
    Files(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) trust_domain: TrustDomain,
    /// Other names of it, of peers.
    pub(crate) trust_domain_aliases: Vec<TrustDomain>,
    pub(crate) source: SourceConfig,
    /// Revocation lists; watched. Without a readable one there is no certificate.
    pub(crate) crl_file: Option<PathBuf>,
    /// Where those in force are kept, so that a restart does not go back either.
    pub(crate) crl_kept: Option<PathBuf>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Identities {
    shared: Arc<Shared>,
    trust_domain: TrustDomain,
    /// The authority, where certificates come from one.
    ca: Option<Arc<client::Client>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Identities {
    /// Adds the metrics of the certificates.
    pub(crate) fn register(&self, registry: &mut Registry) {
        metrics::register(&self.shared, registry);
    }

    /// Starts on the current (control) runtime. The source may be away.
    #[must_use]
    pub(crate) fn start(config: Config) -> Self {
        let mirror = match &config.source {
            SourceConfig::Ca(ca) => match &ca.roots {
                Roots::ConfigMap(from) => Some(Mirror::new(from.clone())),
                Roots::File(_) => None,
            },
            _ => None,
        };
        let problem = mirror.as_ref().map(Mirror::problem).unwrap_or_default();
        let mut ca = None;
        let source: Option<Arc<dyn CertificateSource>> = match config.source {
            SourceConfig::None => None,
            SourceConfig::Ca(config) => {
                let client = Arc::new(client::Client::new(*config, problem));
                ca = Some(client.clone());
                Some(client)
            }
            SourceConfig::Files(dir) => Some(Arc::new(files::Files::new(dir))),
        };
        let shared = Arc::new(Shared::new(source.as_deref()));
        let identities = Self {
            shared: shared.clone(),
            trust_domain: config.trust_domain.clone(),
            ca,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        if let Some(source) = source {
            let domains = (config.trust_domain, config.trust_domain_aliases);
            let crl = Crls {
                file: config.crl_file,
                from_cluster: mirror.as_ref().map(Mirror::lists),
                kept: config.crl_kept,
            };
            let manager = Manager::new(shared, source, domains, crl);
            identities
                .tasks
                .spawn(manager.run(identities.cancel.clone()));
        }
        if let Some(mirror) = mirror {
            let cancel = identities.cancel.clone();
            identities.tasks.spawn(mirror.run(cancel));
        }
        identities.tasks.close();
        identities
    }

    /// Tells the authority what is in force here, until stopped. Where certificates do
    /// not come from an authority, nobody is told.
    pub(crate) fn report(&self, reports: watch::Receiver<report::Report>) {
        if let Some(ca) = &self.ca {
            let told = report::run(ca.clone(), reports, self.cancel.clone());
            self.tasks.spawn(told);
        }
    }

    /// Once, as it is.
    #[cfg(test)]
    pub(crate) async fn report_once(
        &self,
        report: &report::Report,
    ) -> Result<report::Sent, String> {
        let ca = self.ca.as_ref().expect("an authority");
        report::send(ca, report)
            .await
            .map_err(|error| error.to_string())
    }

    /// The identities of the pods that are here now, all of them. Those that
    /// are no longer named lose certificate and key.
    pub(crate) fn want(&self, wanted: &BTreeSet<SpiffeId>) {
        self.shared.want(wanted);
    }

    /// To be asked for after [`Identities::want`]; the handle of an identity that is
    /// not wanted gives nothing, also when it is wanted later.
    #[must_use]
    pub(crate) fn handle(&self, id: &SpiffeId) -> Arc<Handle> {
        self.shared.handle(id)
    }

    /// None until the first certificate came.
    #[must_use]
    pub(crate) fn trust(&self) -> Option<Arc<Trust>> {
        self.shared.trust.load_full()
    }

    /// Changes after each change of [`Identities::trust`]: roots or revocations.
    #[must_use]
    pub(crate) fn trust_changes(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    #[must_use]
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether this agent holds a valid certificate for it.
    #[must_use]
    pub(crate) fn is_valid(&self, id: &SpiffeId) -> bool {
        let entries = self.shared.entries.lock();
        entries
            .get(id)
            .is_some_and(|entry| entry.handle.current().is_some())
    }

    /// Ends the task and forgets every certificate.
    pub(crate) async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.wait().await;
        self.want(&BTreeSet::new());
    }
}
