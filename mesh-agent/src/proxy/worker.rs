//! A worker: one thread, one runtime, its listeners and connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::background::{preconnect, renew};
use super::connection;
use super::context::{AgentState, PodState, WorkerState};
use super::registry::CutReason;
use crate::enrol::{LocalPod, Recheck, ServeError};
use crate::peer::{Pair, Preconnect, RenewalAction};
use crate::plan::Changes;
use crate::tls;

/// What the control runtime asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve a pod, or have it be what it is now; listeners of new addresses.
    Put(LocalPod, Listeners, oneshot::Sender<()>),
    /// Close a pod's listeners of addresses that it has no more.
    CloseFormer(u64, oneshot::Sender<()>),
    Remove(u64, oneshot::Sender<()>),
    Recheck(Recheck),
    Drain(Duration),
}

/// Of a pod, each with the address that it is for.
pub(super) type Listeners = Vec<(IpAddr, TcpListener)>;

/// A running worker, as the control runtime has it.
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    runtime: tokio::runtime::Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Handle {
    pub(super) async fn send(&self, command: Command) -> Result<(), ServeError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| ServeError::WorkerGone)
    }

    /// Has the worker's runtime watch a listener. Here and not in the worker, so
    /// that a failure is the enrolment's, and a busy worker need not be waited for.
    pub(super) fn register(&self, listener: StdListener) -> io::Result<TcpListener> {
        let _entered = self.runtime.enter();
        TcpListener::from_std(listener)
    }

    /// Waits until it has ended what it was told to.
    pub(super) fn join(self) -> std::thread::Result<()> {
        drop(self.commands);
        self.thread.join()
    }
}

/// How often idle connections to other agents are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Connections to be made ahead that are not begun; more are not asked for.
const MAX_PRECONNECTS: usize = 64;
/// Connections that are accepted before others run, those too that make room.
const ACCEPTS: usize = 16;
/// Handshakes that a sweep starts to renew proofs.
const RENEWALS: usize = 64;

impl WorkerState {
    fn recheck(&self, what: Recheck) {
        match what {
            Recheck::Policy(changes) => self.recheck_policy(&changes),
            Recheck::Trust(trust) => {
                self.connections.recheck_sessions(|session| {
                    let revoked = self.peers.is_revoked(session, &trust);
                    revoked.then_some(CutReason::Revoked)
                });
                self.peers.distrust(&trust);
            }
        }
    }

    /// Those that a change is not about were judged by the same before.
    fn recheck_policy(&self, changes: &Changes) {
        let published = self.agent.published.load_full();
        self.balancer.borrow_mut().hear(&published.snapshot);
        self.connections.recheck(|check| {
            // Only a permit is one.
            changes.leave(check.destination(), &published.snapshot, &self.agent.node)
                || check.is_allowed_still(&published)
        });
    }

    /// Closes and cuts what has ended; gives the pairs whose proof is to be renewed.
    fn sweep(&self) -> Vec<(Pair, SocketAddr)> {
        let (now, wall) = (std::time::Instant::now(), SystemTime::now());
        self.peers.sweep(now, wall);
        self.agent.metrics.refresh(self.agent.health.ejected());
        let mut due = Vec::new();
        self.connections.recheck_sessions(|session| {
            if session.own.current().is_none() {
                return Some(CutReason::CertificateExpired);
            }
            // What finds no room is left for the next sweep.
            let may_renew = due.len() < RENEWALS;
            match self.peers.renewal_action(session, wall, may_renew) {
                RenewalAction::Nothing => None,
                RenewalAction::Cut => Some(CutReason::PeerCertificateExpired),
                RenewalAction::Renew(pair, to) => {
                    due.push((pair, to));
                    None
                }
            }
        });
        due
    }
}

/// A pod's accept loops, and what they accept for.
struct Served {
    current: Rc<RefCell<Rc<PodState>>>,
    listeners: Vec<(IpAddr, CancellationToken)>,
}

impl Served {
    fn state(&self) -> Rc<PodState> {
        self.current.borrow().clone()
    }

    fn close_former(&mut self) {
        let state = self.state();
        self.listeners.retain(|(ip, stop)| {
            let stays = state.ips.contains(*ip);
            if !stays {
                stop.cancel();
            }
            stays
        });
    }
}

pub(super) fn spawn(index: usize, count: usize, agent: Arc<AgentState>) -> io::Result<Handle> {
    let (sender, commands) = mpsc::channel(64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    let name = format!("worker-{index}");
    let vital = agent.alarm.guard(name.clone());
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let _vital = vital;
        tls::warm();
        crate::io::keep_files_from(agent.config.limits.data_files());
        let (sender, preconnects) = mpsc::channel(MAX_PRECONNECTS);
        let worker = Rc::new(WorkerState::new(index, count, agent, sender));
        LocalSet::new().block_on(&runtime, run(worker, commands, preconnects));
    })?;
    Ok(Handle {
        commands: sender,
        runtime: handle,
        thread,
    })
}

async fn run(
    worker: Rc<WorkerState>,
    mut commands: mpsc::Receiver<Command>,
    mut preconnects: mpsc::Receiver<Preconnect>,
) {
    let mut pods: HashMap<u64, Served> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = sweep.tick() => {
                renew_due(&worker, &pods);
                continue;
            }
            Some(request) = preconnects.recv() => {
                preconnects_due(&worker, &pods, request);
                continue;
            }
        };
        match command {
            None => return,
            Some(Command::Put(pod, listeners, done)) => {
                put(&worker, &mut pods, pod, listeners);
                // As below.
                let _gone = done.send(());
            }
            Some(Command::CloseFormer(cookie, done)) => {
                if let Some(served) = pods.get_mut(&cookie) {
                    served.close_former();
                }
                let _gone = done.send(());
            }
            Some(Command::Remove(cookie, done)) => {
                if let Some(served) = pods.remove(&cookie) {
                    end_pod(&worker, &served.state()).await;
                }
                // The asker may have gone: the pod is removed all the same.
                let _gone = done.send(());
            }
            Some(Command::Recheck(what)) => worker.recheck(what),
            Some(Command::Drain(deadline)) => return drain(&worker, &pods, deadline).await,
        }
    }
}

/// Looks at all that lives, and starts the handshakes that are due.
fn renew_due(worker: &Rc<WorkerState>, pods: &HashMap<u64, Served>) {
    for (pair, to) in worker.sweep() {
        // One that is gone needs none.
        if let Some(pod) = pods.get(&pair.netns).map(Served::state) {
            let renewing = renew(worker.clone(), pod.clone(), pair, to);
            let renewing = worker.tasks.track_future(renewing);
            pod.tasks.spawn_local(renewing);
        }
    }
}

fn preconnects_due(worker: &Rc<WorkerState>, pods: &HashMap<u64, Served>, request: Preconnect) {
    match pods.get(&request.key.netns).map(Served::state) {
        Some(pod) => {
            let making = preconnect(worker.clone(), pod.clone(), request);
            pod.tasks.spawn_local(worker.tasks.track_future(making));
        }
        // It went meanwhile.
        None => drop(worker.peers.under_way(&request)),
    }
}

async fn drain(worker: &WorkerState, pods: &HashMap<u64, Served>, deadline: Duration) {
    for served in pods.values() {
        served.state().stop.cancel();
    }
    worker.draining.cancel();
    worker.peers.clear();
    worker.tasks.close();
    if tokio::time::timeout(deadline, worker.tasks.wait())
        .await
        .is_err()
    {
        worker.connections.cut_all(CutReason::DrainDeadline);
        worker.tasks.wait().await;
    }
}

fn put(
    worker: &Rc<WorkerState>,
    pods: &mut HashMap<u64, Served>,
    pod: LocalPod,
    listeners: Listeners,
) {
    let cookie = pod.netns.cookie();
    let new = |stop, tasks| Rc::new(PodState::new(pod, stop, tasks));
    let served = match pods.entry(cookie) {
        Entry::Vacant(entry) => {
            let state = new(CancellationToken::new(), TaskTracker::new());
            entry.insert(Served {
                current: Rc::new(RefCell::new(state)),
                listeners: Vec::new(),
            })
        }
        Entry::Occupied(entry) => {
            let served = entry.into_mut();
            let before = served.state();
            let state = new(before.stop.clone(), before.tasks.clone());
            served.current.replace(state.clone());
            if !state.is_still(&before) {
                worker.retire(&before);
            }
            served
        }
    };
    let state = served.state();
    for (ip, listener) in listeners {
        let stop = state.stop.child_token();
        served.listeners.push((ip, stop.clone()));
        let listening = Listening { ip, listener, stop };
        let accepting = accept(worker.clone(), served.current.clone(), listening);
        state.tasks.spawn_local(accepting);
    }
}

async fn end_pod(worker: &WorkerState, pod: &PodState) {
    pod.stop.cancel();
    worker.retire(pod);
    pod.tasks.close();
    pod.tasks.wait().await;
}

/// A listener of a pod's, on one worker.
struct Listening {
    ip: IpAddr,
    listener: TcpListener,
    stop: CancellationToken,
}

async fn accept(worker: Rc<WorkerState>, current: Rc<RefCell<Rc<PodState>>>, listening: Listening) {
    let Listening { ip, listener, stop } = listening;
    // It goes first where the thread unwinds: both are told by one name.
    let name = std::thread::current()
        .name()
        .unwrap_or("a worker")
        .to_owned();
    let _vital = worker.agent.alarm.guard(name);
    let (mut count, mut failing) = (0_usize, false);
    loop {
        let accepted = tokio::select! {
            biased; // a stopped listener takes no more
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                let pod = current.borrow().clone();
                let over = worker.agent.config.limits.is_held_back(&client);
                // Of a former address no local one tells which way it goes.
                let former = !pod.ips.contains(ip);
                let serving =
                    connection::serve(worker.clone(), pod.clone(), (client, peer), former);
                if over {
                    // Refused before the next one is accepted: a burst would take
                    // more than what is held back.
                    // As a task, so that a panic costs the connection and not the listener.
                    let _ended = pod.tasks.spawn_local(serving).await;
                    continue;
                }
                let serving = worker.tasks.track_future(serving);
                pod.tasks.spawn_local(serving);
                if std::mem::take(&mut failing) {
                    tracing::info!(pod = %pod.workload.key, "accepts again");
                }
                count = count.wrapping_add(1);
                if count.is_multiple_of(ACCEPTS) {
                    tokio::task::yield_now().await;
                }
            }
            // Out of memory, or of descriptors that others took: shed some, or
            // who waits would find out by a timeout.
            Err(error) => {
                let shed = worker.spare.shed(&listener);
                if !std::mem::replace(&mut failing, true) {
                    let pod = current.borrow().workload.key.clone();
                    tracing::warn!(%error, %pod, shed, "cannot accept");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
