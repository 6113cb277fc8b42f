//! A worker: one thread, one runtime, its listeners and connections.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Cut};
use super::dial::PortRange;
use super::{LocalPod, Shared};

/// What the control runtime asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    Add(LocalPod, Vec<StdListener>),
    Remove(u64, oneshot::Sender<()>),
    Drain(Duration),
}

/// State of one worker, shared by its tasks on one thread.
pub(super) struct Local {
    pub(super) shared: Arc<Shared>,
    pub(super) ports: PortRange,
    /// Turn of round robin.
    pub(super) turn: Cell<usize>,
    pub(super) next_id: Cell<u64>,
    /// Connections of all pods.
    pub(super) tasks: TaskTracker,
    /// Cuts every connection.
    pub(super) cut_all: CancellationToken,
}

/// One pod on one worker.
pub(super) struct PodState {
    pub(super) pod: LocalPod,
    /// Ends the accept loops.
    pub(super) stop: CancellationToken,
    /// Cuts the connections.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

pub(super) fn spawn(
    index: usize,
    count: usize,
    shared: Arc<Shared>,
) -> io::Result<(mpsc::Sender<Command>, std::thread::JoinHandle<()>)> {
    let (sender, commands) = mpsc::channel(64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let local = Local {
        ports: PortRange::part(&shared.config.delivery_ports, index, count),
        turn: Cell::new(index),
        next_id: Cell::new((index as u64) << 48),
        tasks: TaskTracker::new(),
        cut_all: CancellationToken::new(),
        shared,
    };
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || LocalSet::new().block_on(&runtime, run(Rc::new(local), commands)))?;
    Ok((sender, thread))
}

async fn run(local: Rc<Local>, mut commands: mpsc::Receiver<Command>) {
    let mut pods: HashMap<u64, Rc<PodState>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Add(pod, listeners) => add(&local, &mut pods, pod, listeners),
            Command::Remove(cookie, done) => {
                if let Some(pod) = pods.remove(&cookie) {
                    end_pod(&pod).await;
                }
                // The asker may have gone: the pod is removed all the same.
                let _gone = done.send(());
            }
            Command::Drain(deadline) => {
                for pod in pods.values() {
                    pod.stop.cancel();
                }
                local.tasks.close();
                if tokio::time::timeout(deadline, local.tasks.wait())
                    .await
                    .is_err()
                {
                    local.cut_all.cancel();
                    local.tasks.wait().await;
                }
                return;
            }
        }
    }
}

fn add(
    local: &Rc<Local>,
    pods: &mut HashMap<u64, Rc<PodState>>,
    pod: LocalPod,
    listeners: Vec<StdListener>,
) {
    let state = Rc::new(PodState {
        pod,
        stop: CancellationToken::new(),
        cut: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    for listener in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let accepting = accept(local.clone(), state.clone(), listener);
                state.tasks.spawn_local(accepting);
            }
            Err(error) => tracing::error!(%error, "cannot register a listener"),
        }
    }
    if let Some(old) = pods.insert(state.pod.netns.cookie(), state) {
        old.stop.cancel();
    }
}

async fn end_pod(pod: &PodState) {
    pod.stop.cancel();
    pod.cut.cancel();
    pod.tasks.close();
    pod.tasks.wait().await;
}

async fn accept(local: Rc<Local>, pod: Rc<PodState>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased; // a stopped listener takes no more
            () = pod.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                let cut = Cut {
                    pod: pod.cut.clone(),
                    all: local.cut_all.clone(),
                };
                let serving = connection::serve(local.clone(), pod.clone(), client, peer, cut);
                let serving = local.tasks.track_future(serving);
                pod.tasks.spawn_local(serving);
            }
            // Out of descriptors or memory: the connection waits in the backlog.
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
