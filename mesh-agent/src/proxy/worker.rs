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
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::background::{preconnect, renew};
use super::connection;
use super::context::{AgentState, PodState, WorkerState};
use super::registry::{ConnectionRegistry, CutReason};
use crate::enrol::{LocalPod, Recheck, ServeError};
use crate::io::is_anothers_spare;
use crate::peer::{Pair, Preconnect, RenewalAction};
use crate::plan::Changes;
use crate::sys::socket;
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
    /// By then; does the capture stay?
    Drain(Duration, bool),
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
/// Connections that outlive the drain are ended within a tenth more of its time, or this.
const SPREAD: Duration = Duration::from_secs(3);
/// What was cut has ended by then: the other side of it is waited for no longer than two
/// seconds.
const CUT_ENDS: Duration = Duration::from_secs(3);

impl WorkerState {
    fn recheck(&self, what: Recheck) {
        match what {
            Recheck::Policy(changes) => self.recheck_policy(&changes),
            Recheck::Trust(trust) => {
                self.connections.recheck_sessions(|session| {
                    let trusted = self.peers.is_trusted(session, &trust);
                    (!trusted).then_some(CutReason::Revoked)
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
        self.spare.restore();
        self.breaker_log.sweep(now);
        let requests = self.agent.request_places.taken();
        self.agent
            .metrics
            .refresh(self.agent.health.ejected(), requests);
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
    let _dealing = AbortOnDropHandle::new(spawn_local(deal(worker.clone())));
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
            Some(Command::Remove(cookie, done)) => match pods.remove(&cookie) {
                Some(served) => end_pod(&worker, served.state(), done),
                None => {
                    // The asker may have gone: the pod is removed all the same.
                    let _gone = done.send(());
                }
            },
            Some(Command::Recheck(what)) => worker.recheck(what),
            Some(Command::Drain(deadline, stays)) => {
                worker.capture_stays.set(stays);
                return drain(&worker, &pods, deadline).await;
            }
        }
    }
}

/// Without it nobody whose turn is over would come to another one.
async fn deal(worker: Rc<WorkerState>) {
    let _vital = worker.agent.alarm.guard(thread_name());
    worker.turns.deal().await;
}

/// Parts of a worker are told by one name: any may go first where it unwinds.
fn thread_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or("a worker").to_owned()
}

/// Looks at all that lives, and starts the handshakes that are due.
fn renew_due(worker: &Rc<WorkerState>, pods: &HashMap<u64, Served>) {
    for (pair, to) in worker.sweep() {
        // One that is gone needs none.
        if let Some(pod) = pods.get(&pair.netns).map(Served::state) {
            let renewing = renew(worker.clone(), pod.clone(), pair, to);
            worker.spawn(&pod, renewing);
        }
    }
}

fn preconnects_due(worker: &Rc<WorkerState>, pods: &HashMap<u64, Served>, request: Preconnect) {
    match pods.get(&request.key.netns).map(Served::state) {
        Some(pod) => {
            let making = preconnect(worker.clone(), pod.clone(), request);
            worker.spawn(&pod, making);
        }
        // It went meanwhile.
        None => drop(worker.peers.under_way(&request)),
    }
}

/// Over how long what outlives a drain is ended.
fn spread(deadline: Duration) -> Duration {
    (deadline / 10).min(SPREAD)
}

/// How long after a drain has begun the last connection is gone.
#[cfg(test)]
pub(crate) fn longest_drain(deadline: Duration) -> Duration {
    deadline + spread(deadline) + CUT_ENDS
}

async fn drain(worker: &WorkerState, pods: &HashMap<u64, Served>, deadline: Duration) {
    for served in pods.values() {
        served.state().stop.cancel();
    }
    worker.drain(deadline);
    worker.peers.clear();
    worker.tasks.close();
    if tokio::time::timeout(deadline, worker.tasks.wait())
        .await
        .is_err()
    {
        cut_one_by_one(&worker.connections, spread(deadline)).await;
        let left = left_over(&worker.tasks).await;
        if left > 0 {
            tracing::warn!(left, "connections do not end: they end with the agent");
        }
    }
}

/// In this time: their clients do not come back elsewhere all at once.
async fn cut_one_by_one(connections: &ConnectionRegistry, within: Duration) {
    const STEP: Duration = Duration::from_millis(10);
    let steps = usize::try_from(within.as_millis() / STEP.as_millis()).unwrap_or(usize::MAX);
    let at_once = connections.len().div_ceil(steps.max(1));
    while connections.cut_some(at_once, CutReason::DrainDeadline) > 0 {
        tokio::time::sleep(STEP).await;
    }
}

/// Waits for what was cut; gives how many tasks have not ended in time.
async fn left_over(tasks: &TaskTracker) -> usize {
    tasks.close();
    match tokio::time::timeout(CUT_ENDS, tasks.wait()).await {
        Ok(()) => 0,
        Err(_late) => tasks.len(),
    }
}

fn put(
    worker: &Rc<WorkerState>,
    pods: &mut HashMap<u64, Served>,
    pod: LocalPod,
    listeners: Listeners,
) {
    let cookie = pod.netns.cookie();
    let served = match pods.entry(cookie) {
        Entry::Vacant(entry) => {
            let state = Rc::new(PodState::new(pod, worker.turns.join()));
            entry.insert(Served {
                current: Rc::new(RefCell::new(state)),
                listeners: Vec::new(),
            })
        }
        Entry::Occupied(entry) => {
            let served = entry.into_mut();
            let before = served.state();
            let state = Rc::new(before.followed_by(pod));
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
        state.spawn(accepting);
    }
}

/// Ends all that is the pod's. What it waits for keeps nobody else of the worker waiting.
fn end_pod(worker: &WorkerState, pod: Rc<PodState>, done: oneshot::Sender<()>) {
    pod.stop.cancel();
    worker.retire(&pod);
    worker.tasks.spawn_local(async move {
        let left = left_over(&pod.tasks).await;
        if left > 0 {
            let pod = &pod.workload.key;
            tracing::warn!(%pod, left, "connections of a pod that goes do not end: they are not waited for");
        }
        // As above.
        let _gone = done.send(());
    });
}

/// A listener of a pod's, on one worker.
struct Listening {
    ip: IpAddr,
    listener: TcpListener,
    stop: CancellationToken,
}

async fn accept(worker: Rc<WorkerState>, current: Rc<RefCell<Rc<PodState>>>, listening: Listening) {
    let Listening { ip, listener, stop } = listening;
    let _vital = worker.agent.alarm.guard(thread_name());
    let (mut count, mut failing) = (0_usize, false);
    loop {
        let accepted = tokio::select! {
            biased; // a stopped listener takes no more
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) if is_anothers_spare() => {
                socket::reset_on_close(&client);
                drop(client);
                worker.spare.restore();
            }
            Ok((client, peer)) => {
                let pod = current.borrow().clone();
                let over = worker.agent.config.limits.is_held_back(&client);
                // Of a former address no local one tells which way it goes.
                let former = !pod.ips.contains(ip);
                let serving = connection::serve(&worker, &pod, (client, peer), former);
                let Some(serving) = serving else {
                    continue;
                };
                if over {
                    // Refused before the next one is accepted: a burst would take
                    // more than what is held back.
                    // As a task, so that a panic costs the connection and not the listener.
                    let _ended = pod.spawn(serving).await;
                    continue;
                }
                worker.spawn(&pod, serving);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_that_outlive_the_drain_end_one_by_one() {
        let connections = Rc::new(ConnectionRegistry::default());
        let all: Vec<_> = (0..50)
            .map(|id| ConnectionRegistry::register(&connections, id, 1))
            .collect();
        let begun = tokio::time::Instant::now();
        let ended = async {
            let mut times = Vec::new();
            for one in &all {
                times.push(async {
                    one.entry.cut.wait().await;
                    begun.elapsed()
                });
            }
            futures::future::join_all(times).await
        };
        let cutting = cut_one_by_one(&connections, Duration::from_secs(1));
        let (times, ()) = tokio::join!(ended, cutting);
        let last = times.iter().max().expect("some");
        assert!(*last >= Duration::from_millis(400), "{last:?}");
        assert!(*last <= Duration::from_secs(1), "{last:?}");
        let most = times
            .iter()
            .map(|t| times.iter().filter(|o| o == &t).count());
        assert_eq!(most.max(), Some(1), "one at a time");
        let rest = ConnectionRegistry::register(&connections, 99, 1);
        cut_one_by_one(&connections, Duration::ZERO).await;
        assert!(rest.entry.cut.is_told());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_cut_is_waited_for_and_never_for_ever() {
        let (ends, stays) = (TaskTracker::new(), TaskTracker::new());
        ends.spawn(tokio::time::sleep(CUT_ENDS / 2));
        let stuck = stays.spawn(std::future::pending::<()>());
        let begun = tokio::time::Instant::now();
        assert_eq!(left_over(&ends).await, 0);
        assert_eq!(begun.elapsed(), CUT_ENDS / 2);
        assert_eq!(left_over(&stays).await, 1);
        assert_eq!(begun.elapsed(), CUT_ENDS / 2 + CUT_ENDS);
        stuck.abort();
    }
}
