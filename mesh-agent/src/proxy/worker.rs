//! A worker: one thread, one runtime, its listeners and connections.

use std::cell::{Cell, RefCell};
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

use super::away::Away;
use super::connection;
use super::dial::{Delivery, PortRange};
use super::live::{CutReason, Live};
use super::places;
use super::proofs::{self, Judgement, Pair};
use super::reach::{self, Wish};
use super::renew::renew;
use super::spare::Spare;
use super::unproven::Unproven;
use super::{LocalPod, Recheck, Shared};
use crate::model::ConnectionId;
use crate::observe;
use crate::tls;
use crate::tunnel::{Connection, Key, Pool};

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
/// Connections to be made ahead that are not begun; more are not wished for.
const MAX_WISHES: usize = 64;
/// Connections that are accepted before others run, those too that make room.
const ACCEPTS: usize = 16;
/// Handshakes that a sweep starts to renew proofs.
const RENEWALS: usize = 64;

/// State of one worker, shared by its tasks on one thread.
pub(super) struct Local {
    pub(super) shared: Arc<Shared>,
    pub(super) observe: observe::Local,
    pub(super) live: Live,
    pub(super) unproven: Unproven,
    /// Idle connections to other agents.
    pub(super) pool: RefCell<Pool>,
    /// Other agents that were not there.
    pub(super) away: RefCell<Away>,
    /// Connections to be made ahead.
    pub(super) wishes: mpsc::Sender<Wish>,
    /// No new streams: idle connections say goodbye.
    pub(super) draining: CancellationToken,
    ports: PortRange,
    spare: Spare,
    /// Turn of round robin.
    turn: Cell<usize>,
    index: usize,
    next_id: Cell<u64>,
    /// Connections of all pods.
    tasks: TaskTracker,
}

impl Local {
    fn new(index: usize, count: usize, shared: Arc<Shared>, wishes: mpsc::Sender<Wish>) -> Self {
        Self {
            wishes,
            away: RefCell::default(),
            observe: shared.observe.worker(),
            live: Live::default(),
            unproven: Unproven::new(&shared.config, count),
            pool: RefCell::new(Pool::new(shared.config.pool.clone())),
            draining: CancellationToken::new(),
            ports: PortRange::part(&shared.config.delivery_ports, index, count),
            spare: Spare::new(),
            turn: Cell::new(index),
            index,
            next_id: Cell::new((index as u64) << 48),
            tasks: TaskTracker::new(),
            shared,
        }
    }

    /// Unique in this process.
    pub(super) fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// For log and list.
    pub(super) fn connection_id(&self) -> ConnectionId {
        // The worker stands in the upper bits; there are never 65,536 of them.
        let worker = u16::try_from(self.index).unwrap_or(u16::MAX);
        ConnectionId::new(worker, self.next_id())
    }

    pub(super) fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    pub(super) fn delivery(&self) -> Delivery<'_> {
        Delivery {
            ports: &self.ports,
            limits: &self.shared.config.limits,
            deadline: self.shared.config.connect_timeout,
        }
    }

    /// Ends what was begun for a pod that is somebody else now, or gone.
    fn retire(&self, pod: &PodState) {
        pod.retired.set(true);
        self.live.cut_pod(pod.cookie(), CutReason::PodRemoved);
        self.pool.borrow_mut().remove_pod(pod.cookie());
    }

    /// Keeps a connection to another agent for the pod's next stream.
    pub(super) fn keep(&self, pod: &PodState, key: Key, connection: Connection) {
        // It has the certificate of who the pod was.
        if !pod.is_retired() {
            let now = std::time::Instant::now();
            self.pool.borrow_mut().put(key, connection, now);
        }
    }

    fn recheck(&self, what: Recheck) {
        match what {
            Recheck::Policy => self.recheck_policy(),
            Recheck::Trust(trust) => {
                let proofs = &self.shared.proofs;
                self.live.recheck_standing(|standing| {
                    let newest = proofs.get(&standing.proved.pair);
                    let revoked = trust.is_revoked(&standing.peer)
                        || newest.is_some_and(|proof| trust.is_revoked(&proof.peer));
                    revoked.then_some(CutReason::Revoked)
                });
                let mut pool = self.pool.borrow_mut();
                pool.retain_peers(|peer| !trust.is_revoked(peer));
            }
        }
    }

    fn recheck_policy(&self) {
        let published = self.shared.published.load_full();
        self.live.recheck(|checked| {
            let workloads = &published.snapshot.workloads;
            // One that is gone has no policy to allow anything by.
            let Some(destination) = workloads.get(&checked.destination.key) else {
                return false;
            };
            checked.verdict(&published.policy, destination).is_ok()
        });
    }

    /// When a handshake that was made now is to be followed by another.
    pub(super) fn due(&self, now: SystemTime, expires: SystemTime) -> SystemTime {
        proofs::due(now, expires, self.next_id.get())
    }

    /// Closes and cuts what has ended; gives the pairs whose proof is to be renewed.
    fn sweep(&self) -> Vec<(Pair, SocketAddr)> {
        let (now, wall) = (std::time::Instant::now(), SystemTime::now());
        self.pool.borrow_mut().sweep(now, wall);
        self.shared.metrics.refresh();
        let mut due = Vec::new();
        self.live.recheck_standing(|standing| {
            if standing.own.current().is_none() {
                return Some(CutReason::CertificateExpired);
            }
            // What finds no room is left for the next sweep.
            let may_renew = due.len() < RENEWALS;
            let proofs = &self.shared.proofs;
            match standing.proved.judge(proofs, wall, may_renew) {
                Judgement::Fine => None,
                Judgement::Cut => Some(CutReason::PeerCertificateExpired),
                Judgement::Renew(pair, to) => {
                    due.push((pair, to));
                    None
                }
            }
        });
        due
    }
}

/// What a pod is, on one worker: another one when it changes.
pub(super) struct PodState {
    pub(super) pod: LocalPod,
    /// Ends the accept loops.
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
    /// It is somebody else now, or gone.
    retired: Cell<bool>,
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

impl PodState {
    pub(super) fn places(&self) -> places::Pod<'_> {
        places::Pod {
            netns: self.cookie(),
            taken: &self.pod.active,
        }
    }

    /// What was begun for it and is not registered yet must not go on: whoever
    /// comes later is not found by the cut.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Cookie of the pod's network namespace.
    pub(super) fn cookie(&self) -> u64 {
        self.pod.netns.cookie()
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
            let (sender, wishes) = mpsc::channel(MAX_WISHES);
            let local = Rc::new(Local::new(index, count, shared, sender));
            LocalSet::new().block_on(&runtime, run(local, commands, wishes));
        })?;
    Ok((sender, thread))
}

async fn run(
    local: Rc<Local>,
    mut commands: mpsc::Receiver<Command>,
    mut wishes: mpsc::Receiver<Wish>,
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
            Some(wish) = wishes.recv() => {
                make_ahead(&local, &pods, wish);
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

fn make_ahead(local: &Rc<Local>, pods: &HashMap<u64, Served>, wish: Wish) {
    match pods.get(&wish.key.netns).map(Served::state) {
        Some(pod) => {
            let making = reach::make(local.clone(), pod.clone(), wish);
            pod.tasks.spawn_local(local.tasks.track_future(making));
        }
        // It went meanwhile.
        None => local.pool.borrow_mut().no_longer_ahead(wish.key),
    }
}

async fn drain(local: &Local, pods: &HashMap<u64, Served>, deadline: Duration) {
    for served in pods.values() {
        served.state().stop.cancel();
    }
    local.draining.cancel();
    local.pool.borrow_mut().clear();
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
    let new = |stop, tasks| {
        Rc::new(PodState {
            pod,
            stop,
            tasks,
            retired: Cell::new(false),
        })
    };
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
            if !state.pod.is_still(&before.pod) {
                local.retire(&before);
            }
            served
        }
    };
    let state = served.state();
    served.listeners.retain(|(ip, stop)| {
        let stays = state.pod.ips.contains(*ip);
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
                    tracing::info!(pod = %pod.pod.workload.key, "accepts again");
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
                    let pod = &current.borrow().pod.workload.key;
                    tracing::warn!(%error, %pod, shed, "cannot accept");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
