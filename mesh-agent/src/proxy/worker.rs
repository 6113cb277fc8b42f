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
use super::context::{Local, PodState, Shared};
use super::live::CutReason;
use crate::enrol::{LocalPod, Recheck};
use crate::peer::{Pair, Preconnect, RenewalAction};
use crate::plan::Verdict;
use crate::tls;

/// What the control runtime asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve a pod, or have it be what it is now; listeners of new addresses.
    Put(LocalPod, Vec<(IpAddr, StdListener)>, oneshot::Sender<()>),
    Remove(u64, oneshot::Sender<()>),
    Recheck(Recheck),
    Drain(Duration),
}

/// How often idle connections to other agents are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Connections to be made ahead that are not begun; more are not asked for.
const MAX_PRECONNECTS: usize = 64;
/// Connections that are accepted before others run, those too that make room.
const ACCEPTS: usize = 16;
/// Handshakes that a sweep starts to renew proofs.
const RENEWALS: usize = 64;

impl Local {
    fn recheck(&self, what: Recheck) {
        match what {
            Recheck::Policy => self.recheck_policy(),
            Recheck::Trust(trust) => {
                self.live.recheck_sessions(|session| {
                    let revoked = self.peers.is_revoked(session, &trust);
                    revoked.then_some(CutReason::Revoked)
                });
                self.peers.distrust(&trust);
            }
        }
    }

    fn recheck_policy(&self) {
        let published = self.shared.published.load_full();
        self.balancer.borrow_mut().hear(&published.snapshot);
        self.live.recheck(|check| {
            // Only a permit is one.
            matches!(check.verdict_now(&published), Verdict::Permit(_))
        });
    }

    /// Closes and cuts what has ended; gives the pairs whose proof is to be renewed.
    fn sweep(&self) -> Vec<(Pair, SocketAddr)> {
        let (now, wall) = (std::time::Instant::now(), SystemTime::now());
        self.peers.sweep(now, wall);
        self.shared.metrics.refresh();
        let mut due = Vec::new();
        self.live.recheck_sessions(|session| {
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
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            tls::warm();
            crate::io::keep_files_from(shared.config.limits.data_files());
            let (sender, preconnects) = mpsc::channel(MAX_PRECONNECTS);
            let local = Rc::new(Local::new(index, count, shared, sender));
            LocalSet::new().block_on(&runtime, run(local, commands, preconnects));
        })?;
    Ok((sender, thread))
}

async fn run(
    local: Rc<Local>,
    mut commands: mpsc::Receiver<Command>,
    mut preconnects: mpsc::Receiver<Preconnect>,
) {
    let mut pods: HashMap<u64, Served> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = sweep.tick() => {
                renew_due(&local, &pods);
                continue;
            }
            Some(request) = preconnects.recv() => {
                preconnects_due(&local, &pods, request);
                continue;
            }
        };
        match command {
            None => return,
            Some(Command::Put(pod, listeners, done)) => {
                put(&local, &mut pods, pod, listeners);
                // As below.
                let _gone = done.send(());
            }
            Some(Command::Remove(cookie, done)) => {
                if let Some(served) = pods.remove(&cookie) {
                    end_pod(&local, &served.state()).await;
                }
                // The asker may have gone: the pod is removed all the same.
                let _gone = done.send(());
            }
            Some(Command::Recheck(what)) => local.recheck(what),
            Some(Command::Drain(deadline)) => return drain(&local, &pods, deadline).await,
        }
    }
}

/// Looks at all that lives, and starts the handshakes that are due.
fn renew_due(local: &Rc<Local>, pods: &HashMap<u64, Served>) {
    for (pair, to) in local.sweep() {
        // One that is gone needs none.
        if let Some(pod) = pods.get(&pair.netns).map(Served::state) {
            let renewing = renew(local.clone(), pod.clone(), pair, to);
            let renewing = local.tasks.track_future(renewing);
            pod.tasks.spawn_local(renewing);
        }
    }
}

fn preconnects_due(local: &Rc<Local>, pods: &HashMap<u64, Served>, request: Preconnect) {
    match pods.get(&request.key.netns).map(Served::state) {
        Some(pod) => {
            let making = preconnect(local.clone(), pod.clone(), request);
            pod.tasks.spawn_local(local.tasks.track_future(making));
        }
        // It went meanwhile.
        None => drop(local.peers.under_way(&request)),
    }
}

async fn drain(local: &Local, pods: &HashMap<u64, Served>, deadline: Duration) {
    for served in pods.values() {
        served.state().stop.cancel();
    }
    local.draining.cancel();
    local.peers.clear();
    local.tasks.close();
    if tokio::time::timeout(deadline, local.tasks.wait())
        .await
        .is_err()
    {
        local.live.cut_all(CutReason::DrainDeadline);
        local.tasks.wait().await;
    }
}

fn put(
    local: &Rc<Local>,
    pods: &mut HashMap<u64, Served>,
    pod: LocalPod,
    listeners: Vec<(IpAddr, StdListener)>,
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
                local.retire(&before);
            }
            served
        }
    };
    let state = served.state();
    served.listeners.retain(|(ip, stop)| {
        let stays = state.ips.contains(*ip);
        if !stays {
            stop.cancel();
        }
        stays
    });
    for (ip, listener) in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let stop = state.stop.child_token();
                served.listeners.push((ip, stop.clone()));
                let accepting = accept(local.clone(), served.current.clone(), stop, listener);
                state.tasks.spawn_local(accepting);
            }
            Err(error) => tracing::error!(%error, "cannot register a listener"),
        }
    }
}

async fn end_pod(local: &Local, pod: &PodState) {
    pod.stop.cancel();
    local.retire(pod);
    pod.tasks.close();
    pod.tasks.wait().await;
}

async fn accept(
    local: Rc<Local>,
    current: Rc<RefCell<Rc<PodState>>>,
    stop: CancellationToken,
    listener: TcpListener,
) {
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
                let over = local.shared.config.limits.is_held_back(&client);
                let serving = connection::serve(local.clone(), pod.clone(), client, peer);
                if over {
                    // Refused before the next one is accepted: a burst would take
                    // more than what is held back.
                    serving.await;
                    continue;
                }
                let serving = local.tasks.track_future(serving);
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
                let shed = local.spare.shed(&listener);
                if !std::mem::replace(&mut failing, true) {
                    let pod = current.borrow().workload.key.clone();
                    tracing::warn!(%error, %pod, shed, "cannot accept");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
