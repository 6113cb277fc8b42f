//! The CNI plugin's parts of a running agent.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cni::{self, Keeper, Known};
use crate::config::Run;
use crate::enrol::Arrivals;
use crate::model::Snapshot;
use crate::observe::Observe;

pub(super) struct Plugin {
    node: String,
    known: Known,
    /// The configuration that `known` says.
    generation: u64,
    keeper: Arc<Keeper>,
    /// The plugin is in the chain from the first configuration on: what it asks before
    /// that nobody could answer.
    is_kept: bool,
    tasks: JoinSet<()>,
    cancel: CancellationToken,
}

impl Plugin {
    /// `None`: the agent is to leave the node's CNI configuration alone.
    pub(super) fn start(
        flags: &Run,
        node: &str,
        observe: &Observe,
        arrivals: Arrivals,
    ) -> anyhow::Result<Option<Self>> {
        let metrics = cni::register(observe);
        if !flags.cni {
            return Ok(None);
        }
        let settings = flags.chain.settings(&flags.place.run_dir);
        let socket = settings.entry.socket.clone();
        let listener = cni::bind(&socket)
            .with_context(|| format!("listen for the CNI plugin on {}", socket.display()))?;
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(cni::serve(
            listener,
            arrivals,
            metrics.clone(),
            cancel.clone(),
        ));
        Ok(Some(Self {
            node: node.to_owned(),
            known: Known::new(settings.entry.outside_file.clone()),
            generation: 0,
            keeper: Arc::new(Keeper::new(settings, metrics)),
            is_kept: false,
            tasks,
            cancel,
        }))
    }

    pub(super) fn keeper(&self) -> Arc<Keeper> {
        self.keeper.clone()
    }

    /// What the configuration says now.
    pub(super) fn configured(&mut self, snapshot: &Snapshot) {
        // Of nothing (0) too: what an earlier agent left says more.
        if snapshot.generation == self.generation {
            return;
        }
        self.known.keep(snapshot, &self.node);
        if self.known.failed.is_none() {
            self.generation = snapshot.generation;
        }
        self.keeper.tell_unwritten(self.known.failed.clone());
        if !std::mem::replace(&mut self.is_kept, true) {
            let keeper = Keeper::clone(&self.keeper);
            self.tasks.spawn(keeper.keep(self.cancel.clone()));
        }
    }

    /// When one of its tasks has ended by itself.
    pub(super) async fn ended(this: &mut Option<Self>) -> Option<Result<(), JoinError>> {
        match this {
            Some(plugin) => plugin.tasks.join_next().await,
            None => std::future::pending().await,
        }
    }

    /// Who waits for an answer asks the next agent.
    pub(super) async fn end(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
