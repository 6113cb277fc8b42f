//! One agent after another on a node, without a gap.
//!
//! Who may change the programs holds a lock on their directory. An agent that starts
//! beside another asks for it, when all that it can have without is there; the other
//! lets go, and from then on serves what it has until it is told to end. What is
//! captured meanwhile goes to the listeners of one or the other. Where the newcomer dies
//! before the other has ended, it goes to none and is refused, for as long as a lock may be
//! free until the other sees itself orphaned, ends and is started anew.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use tokio::sync::watch;

use crate::admin;
use crate::capture::{self, Owner};
use crate::discovery::Update;
use crate::enrol::{Appearing, DataPath, Recheck, Reconciler};
use crate::identity::Identities;
use crate::model::Snapshot;

/// Between tries of one that waits.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the other one may take to let go.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long certificates are waited for before it is asked for the lock.
const CERTIFICATES: Duration = Duration::from_secs(10);
/// A lock that is free for so long is nobody's.
const ORPHANED: Duration = Duration::from_secs(3);
const DONE: &[u8] = b"yours\n";

pub(super) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("handover.sock")
}

/// Where another agent asks.
pub(super) struct Offer {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Offer {
    fn drop(&mut self) {
        // Nobody else has one of that name yet.
        let _absent = std::fs::remove_file(&self.path);
    }
}

impl Offer {
    pub(super) fn new(run_dir: &Path) -> io::Result<Self> {
        let path = path(run_dir);
        // Of an agent that was here before; absent is fine.
        let _absent = std::fs::remove_file(&path);
        let listener = admin::private_socket(&path)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, path })
    }

    /// Another agent of root's asks; cancel-safe.
    pub(super) async fn asked(&self) -> Asker {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) => {
                    return Asker(stream);
                }
                Ok(_) => {}
                // Descriptors are used up, for example.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

pub(super) struct Asker(UnixStream);

impl Asker {
    /// The lock is free.
    pub(super) async fn tell(mut self) {
        // One that does not listen any more tries the lock.
        let _gone = tokio::time::timeout(PATIENCE, self.0.write_all(DONE)).await;
    }
}

/// Waits for the lock: asks the agent that has it, and takes it when that is gone.
pub(super) async fn wait(bpffs_dir: &Path, run_dir: &Path) -> Result<Owner, capture::Error> {
    tracing::info!("another agent is on this node: taking over from it");
    let mut told = false;
    loop {
        match Owner::of(bpffs_dir) {
            Err(capture::Error::Owned { .. }) => {}
            owner => return owner,
        }
        if !ask(run_dir).await && !told {
            told = true;
            tracing::warn!("the other agent does not let go: waiting until it has ended");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Does the other one let go?
async fn ask(run_dir: &Path) -> bool {
    let asked = async {
        let mut stream = UnixStream::connect(path(run_dir)).await?;
        let mut said = [0; DONE.len()];
        stream.read_exact(&mut said).await?;
        match said == DONE {
            true => Ok(()),
            false => Err(io::Error::from(ErrorKind::InvalidData)),
        }
    };
    matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Ok(())))
}

/// Gets the certificates of the node's pods, as far as they come in time.
pub(super) async fn certificates(identities: &Identities, snapshot: &Snapshot, node: &str) {
    let domain = identities.trust_domain();
    let wanted = snapshot.enrolled_on(node);
    let wanted = wanted.filter_map(|workload| workload.spiffe_id(domain).ok());
    identities.want(&wanted.collect());
    let have_all = async {
        loop {
            let status = identities.status();
            if status.source == "none" || status.identities.iter().all(|i| i.state == "valid") {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    if tokio::time::timeout(CERTIFICATES, have_all).await.is_err() {
        tracing::warn!("taking over without some certificates");
    }
}

/// What an agent that has handed over still does.
pub(super) struct Rest<'r, D> {
    pub(super) reconciler: &'r mut Reconciler<D>,
    pub(super) identities: &'r Identities,
    pub(super) updates: &'r mut watch::Receiver<Update>,
    pub(super) appearing: &'r mut Appearing,
    pub(super) bpffs_dir: &'r Path,
}

impl<D: DataPath> Rest<'_, D> {
    /// What is forbidden now is cut here, too, and pods that come are watched: the other
    /// agent may need a while until it knows any, or end before. Ends only with an error:
    /// where the other one is gone, nobody looks after the node, and this one is to begin anew.
    pub(super) async fn serve(self) -> anyhow::Error {
        let mut trust = self.identities.trust_changes();
        let mut look = tokio::time::interval(Duration::from_millis(500));
        let mut free_since: Option<std::time::Instant> = None;
        loop {
            tokio::select! {
                changed = self.updates.changed() => {
                    if changed.is_err() {
                        return anyhow::anyhow!("the thread that follows the configuration has ended by itself");
                    }
                    let (update, changes) = {
                        let update = self.updates.borrow_and_update();
                        (update.clone(), update.take_changes())
                    };
                    let what = Recheck::Policy(std::sync::Arc::new(changes));
                    self.reconciler.recheck(&what).await;
                    self.reconciler.guard_newcomers(&update.snapshot);
                }
                changed = trust.changed() => {
                    if changed.is_err() {
                        return anyhow::anyhow!("the task that gets certificates has ended by itself");
                    }
                    if let Some(trust) = self.identities.trust() {
                        self.reconciler.recheck(&Recheck::Trust(trust)).await;
                    }
                }
                Some(()) = self.appearing.next() => {
                    self.appearing.follow(&self.reconciler.above_pods());
                    let snapshot = self.updates.borrow().snapshot.clone();
                    self.reconciler.guard_newcomers(&snapshot);
                }
                _ = look.tick() => {
                    self.appearing.follow(&self.reconciler.above_pods());
                    let snapshot = self.updates.borrow().snapshot.clone();
                    self.reconciler.guard_newcomers(&snapshot);
                    // Taken for a moment only.
                    let is_free = Owner::of(self.bpffs_dir).is_ok();
                    free_since = is_free.then(|| free_since.unwrap_or_else(std::time::Instant::now));
                    if free_since.is_some_and(|since| since.elapsed() >= ORPHANED) {
                        return anyhow::anyhow!("the agent that took over is gone: this one begins anew");
                    }
                }
            }
        }
    }
}
