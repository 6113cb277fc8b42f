//! The CNI plugin's parts of a running agent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cni::{self, Keeper, Known};
use crate::config::Run;
use crate::enrol::Arrivals;
use crate::model::Snapshot;
use crate::observe::Observe;

/// How long the end waits for what is written yet.
const LAST: Duration = Duration::from_secs(2);

pub(super) struct Plugin {
    node: String,
    known: Known,
    /// The configuration that `known` says.
    generation: u64,
    keeper: Arc<Keeper>,
    /// Has what is outside the mesh been left on the disk, or is it told why not? The plugin is
    /// in the chain from then on: what it asks before nobody could answer, and without the file
    /// it takes the node for one that never had a mesh. `None`: it is being put there.
    left: Option<watch::Receiver<bool>>,
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
        let (known, writer) = Known::new(&settings.entry.outside_file);
        let keeper = Arc::new(Keeper::new(settings, metrics));
        let told = keeper.clone();
        let (is_left, left) = watch::channel(false);
        tasks.spawn(writer.run(move |why| {
            told.tell_unwritten(why);
            is_left.send_replace(true);
        }));
        Ok(Some(Self {
            node: node.to_owned(),
            known,
            generation: 0,
            keeper,
            left: Some(left),
            tasks,
            cancel,
        }))
    }

    pub(super) fn keeper(&self) -> Arc<Keeper> {
        self.keeper.clone()
    }

    /// What the configuration says now. It waits for no disk.
    pub(super) fn configured(&mut self, snapshot: &Snapshot) {
        // Of nothing (0) too: what an earlier agent left says more.
        if snapshot.generation == self.generation {
            return;
        }
        self.generation = snapshot.generation;
        self.known.keep(snapshot, &self.node);
        if let Some(mut left) = self.left.take() {
            let (keeper, cancel) = (Keeper::clone(&self.keeper), self.cancel.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    // One that can say it no more has ended with the agent.
                    _left = left.wait_for(|is_left| *is_left) => {}
                }
                keeper.keep(cancel).await;
            });
        }
    }

    /// When one of its tasks has ended by itself.
    pub(super) async fn ended(this: &mut Option<Self>) -> Option<Result<(), JoinError>> {
        match this {
            Some(plugin) => plugin.tasks.join_next().await,
            None => std::future::pending().await,
        }
    }

    /// Who waits for an answer asks the next agent. What was said last is written yet, by
    /// a disk that answers.
    pub(super) async fn end(self) {
        let Self {
            known,
            mut tasks,
            cancel,
            ..
        } = self;
        cancel.cancel();
        drop(known);
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST, ended).await.is_err() {
            tracing::warn!(
                "the node's disk does not answer: what is outside the mesh is not left on it as it is now"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};
    use crate::enrol;
    use crate::observe::AccessLogTarget;

    fn flags(dir: &Path) -> Run {
        let at = |name: &str| dir.join(name).display().to_string();
        let (run, file) = (at("run"), at("outside.json"));
        let args = ["mesh-agent", "run", "--cni", "--run-dir", &run];
        let folders = ["--cni-host-dir", &run, "--cni-outside-file", &file];
        match Cli::try_parse_from(args.into_iter().chain(folders)) {
            Ok(Cli {
                command: Command::Run(flags),
                ..
            }) => *flags,
            _ => panic!("flags of an agent"),
        }
    }

    /// What the control loop does with a configuration, and its end.
    async fn configured(flags: &Run, done: &mpsc::Sender<&'static str>) {
        let observe = Observe::new("n1", AccessLogTarget::Off);
        let (arrivals, _queue) = enrol::arrivals();
        let plugin = Plugin::start(flags, "n1", &observe, arrivals);
        let mut plugin = plugin.expect("started").expect("a plugin");
        let snapshot = Snapshot {
            generation: 1,
            ..Snapshot::default()
        };
        plugin.configured(&snapshot);
        done.send("configured").expect("it is waited for");
        plugin.end().await;
        done.send("ended").expect("it is waited for");
    }

    #[test]
    fn a_disk_that_does_not_answer_holds_up_neither_the_agents_work_nor_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = flags(dir.path());
        // What is written fails, and what is written then waits for a reader.
        let file = dir.path().join("outside.json");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        std::fs::create_dir(dir.path().join("outside.json.new")).expect("made");
        let (done, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime");
            runtime.block_on(configured(&flags, &done));
            runtime.shutdown_background();
        });
        let next = || told.recv_timeout(Duration::from_secs(20));
        assert_eq!(next(), Ok("configured"));
        assert_eq!(next(), Ok("ended"));
    }
}
