//! The Kubernetes API as the source.
//!
//! Each object is a place of its own, read by the same reader as a document of
//! a file: what holds for files holds for objects. Invariants: nothing is in
//! force before every kind is known as a whole, by a list, from disk, or because
//! it is not installed; a list counts at its end alone; an object that cannot be
//! understood is one of its own; an API server that does not answer leaves in
//! force what was. `file` and `copy` keep on disk what is known.

mod classes;
mod copy;
mod file;
mod held;
mod held_back;
mod metrics;
mod places;
mod resources;
mod source;
mod status;
mod taken;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::publish::{Publisher, Update};
use super::store::Listed;
use crate::kube::{Access, AccessError, Client, Patience};
use crate::model::policy::MeshSettings;
use crate::plan::InForce;
use crate::policy;
pub(crate) use file::copies;
#[cfg(test)]
pub(crate) use metrics::reference;
#[cfg(test)]
pub(crate) use resources::role_rules;
use source::ApiSource;
#[cfg(test)]
pub(crate) use status::ApiAway;
pub(crate) use status::{ApiState, KindRow, Watched};

/// How the API server is asked.
#[derive(Clone, Debug)]
pub(crate) struct ApiConfig {
    pub(crate) access: Access,
    /// Where what is known is kept for a start without the API server.
    pub(crate) state_dir: PathBuf,
}

/// A followed API server.
pub(crate) struct Api {
    access: Access,
    patience: Patience,
    state_dir: PathBuf,
    publisher: Publisher,
    watched: Arc<Watched>,
}

impl Api {
    /// Asks nothing yet: that the API server does not answer is no error.
    pub(crate) async fn start(
        config: ApiConfig,
        settings: MeshSettings,
        here: policy::Here,
    ) -> Result<(Self, watch::Receiver<Update>), AccessError> {
        Self::start_with(config, settings, here, Patience::default()).await
    }

    async fn start_with(
        config: ApiConfig,
        settings: MeshSettings,
        here: policy::Here,
        patience: Patience,
    ) -> Result<(Self, watch::Receiver<Update>), AccessError> {
        let access = config.access;
        // What is wrong with the flags is told at once.
        let client = Client::new(&access, patience.clone()).await?;
        let (mut publisher, updates) = Publisher::new(settings, here);
        publisher.expect_namespaces();
        publisher.note_classes(Listed::Not);
        let api = Self {
            access,
            patience,
            state_dir: config.state_dir,
            publisher,
            watched: Arc::new(Watched::new(client.cluster().clone(), &resources::served())),
        };
        Ok((api, updates))
    }

    #[must_use]
    pub(crate) fn published(&self) -> Arc<ArcSwap<InForce>> {
        self.publisher.published()
    }

    #[must_use]
    pub(crate) fn held(&self) -> Held {
        self.publisher.held()
    }

    #[must_use]
    pub(crate) fn watched(&self) -> Arc<Watched> {
        self.watched.clone()
    }

    /// Follows it until cancelled, on a thread of its own.
    pub(crate) fn follow(self, cancel: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("discovery".to_owned());
        thread.spawn(move || {
            runtime.block_on(self.run(&cancel));
            // What still asks for names, or writes, is not waited for.
            runtime.shutdown_background();
        })
    }

    async fn run(self, cancel: &CancellationToken) {
        let source = ApiSource::new(self.publisher, self.watched, self.state_dir);
        source.run(&self.access, &self.patience, cancel).await;
    }
}
