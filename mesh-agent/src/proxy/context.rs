//! What a connection's stages work with: the agent's state, the worker's, the
//! pod's and the connection's own. All of it is owned, so that a task of its own
//! may hold it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alarm::Alarm;
use super::breaker_log::BreakerLog;
use super::config::Config;
use super::dice::Dice;
use super::known_ports::KnownPorts;
use super::metrics::Metrics;
use super::places::{self, Places};
use super::ports::PortRange;
use super::pre_auth::{PreAuthLimiter, Slot};
use super::rates::{KnownRates, RatesHere};
use super::registry::{ConnectionEntry, ConnectionRegistry, CutReason, Registration};
use super::seen::Seen;
use super::spare::Spare;
use super::turns::{Share, Turns, by_turns};
use crate::balance::{Affinity, Balancer, Health};
use crate::detect::Learned;
use crate::enrol::LocalPod;
use crate::model::{
    ClientAddr, ConnectionId, OrigDst, Refused, TrustDomain, UnknownPeer, Workload,
};
use crate::observe::{self, Observe};
use crate::peer::{self, Peers, Preconnect, Proofs};
use crate::plan::{DecisionContext, InForce};
use crate::traffic::Asks;
use crate::tunnel::{Connection, Key};

/// Cookie of the namespace that a SYN from here to there went into, where this
/// node's agent enrolled it: proof of which pod the address belongs to now.
pub(super) type EnteredPod = Arc<dyn Fn(SocketAddr, SocketAddr) -> Option<u64> + Send + Sync>;

/// What all workers see.
pub(super) struct AgentState {
    pub(super) config: Config,
    pub(super) node: String,
    pub(super) trust_domain: TrustDomain,
    pub(super) published: Arc<ArcSwap<InForce>>,
    pub(super) entered_pod: EnteredPod,
    pub(super) observe: Observe,
    pub(super) metrics: Metrics,
    /// Of the connections to other agents.
    pub(super) peers: peer::Metrics,
    pub(super) places: Places,
    pub(super) request_places: Places,
    /// Which pod each enrolled namespace, by its cookie, is.
    pub(super) enrolled: ArcSwap<HashMap<u64, Arc<Workload>>>,
    pub(super) proofs: Arc<Proofs>,
    pub(super) affinity: Arc<Affinity>,
    /// What is known of endpoints.
    pub(super) health: Arc<Health>,
    pub(super) seen: Arc<Seen>,
    /// Tells that a part of the data path has ended by a panic.
    pub(super) alarm: Alarm,
}

impl AgentState {
    pub(super) fn decision_context<'p>(&'p self, published: &'p InForce) -> DecisionContext<'p> {
        DecisionContext {
            published,
            node: &self.node,
            node_zone: self.config.node_zone.as_deref(),
            trust_domain: &self.trust_domain,
            same_node_tls: self.config.same_node_tls,
        }
    }

    /// Is the enrolled namespace this very pod's, and not one's that has its address now?
    pub(super) fn is_pod(&self, netns_cookie: u64, workload: &Workload) -> bool {
        let enrolled = self.enrolled.load();
        enrolled.get(&netns_cookie).is_some_and(|pod| {
            pod.key == workload.key
                && pod.uid == workload.uid
                && pod.service_account == workload.service_account
        })
    }

    pub(super) fn show_limits(&self) {
        let shown = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
        self.metrics.places.set(shown(self.places.in_all()));
        let requests = self.request_places.in_all();
        self.metrics.request_places.set(shown(requests));
        let held = shown(self.config.max_buffer_bytes);
        self.metrics.held_limit.set(held);
    }

    pub(super) fn change_enrolled(&self, change: impl Fn(&mut HashMap<u64, Arc<Workload>>)) {
        self.enrolled.rcu(|enrolled| {
            let mut enrolled = HashMap::clone(enrolled);
            change(&mut enrolled);
            enrolled
        });
    }
}

/// Longest time that an agent which drains leaves an idle connection of HTTP/1.
const FAREWELL: Duration = Duration::from_secs(1);

/// State of one worker, shared by its tasks on one thread.
pub(super) struct WorkerState {
    pub(super) agent: Arc<AgentState>,
    pub(super) observe: observe::Recorder,
    pub(super) connections: Rc<ConnectionRegistry>,
    pub(super) pre_auth: PreAuthLimiter,
    /// Other agents, and the connections to them.
    pub(super) peers: Peers,
    /// No new streams: idle connections say goodbye.
    pub(super) draining: CancellationToken,
    /// While it drains, an idle connection of HTTP/1 may ask once more for this long.
    pub(super) farewell: Cell<Duration>,
    /// Behind it the kernel carries on what it has for clients.
    pub(super) capture_stays: Cell<bool>,
    pub(super) ports: PortRange,
    pub(super) spare: Spare,
    pub(super) balancer: RefCell<Balancer>,
    pub(super) dice: Dice,
    pub(super) breaker_log: BreakerLog,
    pub(super) rates: RefCell<KnownRates>,
    pub(super) known_ports: RefCell<KnownPorts>,
    /// What connections to a destination turned out to be.
    pub(super) learned: RefCell<Learned>,
    /// Copies of requests that are under way.
    pub(super) mirrors: Cell<usize>,
    index: usize,
    next_id: Cell<u64>,
    pub(super) turns: Rc<Turns>,
    /// Connections of all pods.
    pub(super) tasks: TaskTracker,
}

impl WorkerState {
    pub(super) fn new(
        index: usize,
        count: usize,
        agent: Arc<AgentState>,
        preconnects: mpsc::Sender<Preconnect>,
    ) -> Self {
        let observe = agent.observe.worker();
        Self {
            peers: Peers::new(
                agent.config.peers(),
                observe.clone(),
                agent.peers.clone(),
                agent.proofs.clone(),
                preconnects,
            ),
            observe,
            connections: Rc::default(),
            pre_auth: PreAuthLimiter::new(&agent.config, count),
            draining: CancellationToken::new(),
            farewell: Cell::default(),
            capture_stays: Cell::default(),
            ports: PortRange::part(&agent.config.delivery_ports, index, count),
            spare: Spare::new(),
            balancer: RefCell::new(Balancer::new(
                index,
                agent.affinity.clone(),
                agent.health.clone(),
            )),
            dice: Dice::new(),
            breaker_log: BreakerLog::default(),
            rates: RefCell::default(),
            known_ports: RefCell::default(),
            learned: RefCell::default(),
            mirrors: Cell::new(0),
            index,
            next_id: Cell::new((index as u64) << 48),
            turns: Turns::new(agent.metrics.turns.clone()),
            tasks: TaskTracker::new(),
            agent,
        }
    }

    /// Of `deadline` for what is under way idle clients may have half, and no more than
    /// who asks often enough to be told by an answer has need of.
    pub(super) fn drain(&self, deadline: Duration) {
        self.farewell.set(FAREWELL.min(deadline / 2));
        self.draining.cancel();
    }

    /// It drains, and whoever had something to ask on an idle connection has asked.
    pub(super) async fn idle_is_over(&self) {
        self.draining.cancelled().await;
        // Of few connections, and only then.
        Box::pin(tokio::time::sleep(self.farewell.get())).await;
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

    /// Registers a connection of the pod: from now on it can be cut.
    pub(super) fn register(&self, pod: &PodState) -> Registration {
        ConnectionRegistry::register(&self.connections, self.next_id(), pod.cookie())
    }

    /// The rate limits of a port of a pod as `now` has them.
    pub(super) fn rates(&self, now: &InForce, to: (&Workload, u16)) -> Option<RatesHere> {
        self.rates.borrow_mut().of(now, to)
    }

    /// One more for a port of a pod, by the rate limits that hold now.
    pub(super) fn admit(&self, to: (&Workload, u16), asks: &Asks<'_>) -> Result<(), Refused> {
        let now = self.agent.published.load();
        self.rates(&now, to)
            .map_or(Ok(()), |rates| rates.admit(asks))
    }

    /// Of a pod's port: something depends on each request there.
    pub(super) fn is_for_requests(&self, to: (&Workload, u16)) -> bool {
        let now = self.agent.published.load();
        self.known_ports.borrow_mut().is_for_requests(&now, to)
    }

    /// Ends what was begun for a pod that is somebody else now, or gone.
    pub(super) fn retire(&self, pod: &PodState) {
        pod.retired.set(true);
        self.connections
            .cut_pod(pod.cookie(), CutReason::PodRemoved);
        self.peers.remove_pod(pod.cookie());
    }

    /// A task for the pod, whose end the worker waits for when it drains.
    pub(super) fn spawn(&self, pod: &PodState, what: impl Future<Output = ()> + 'static) {
        pod.spawn(self.tasks.track_future(what));
    }

    /// Keeps a connection to another agent for the pod's next stream.
    pub(super) fn keep(&self, pod: &PodState, key: Key, connection: Connection) {
        // It has the certificate of who the pod was.
        if !pod.is_retired() {
            self.peers.keep(key, connection);
        }
    }
}

/// What a pod is, on one worker: another one when it changes.
pub(super) struct PodState {
    pod: LocalPod,
    /// Ends the accept loops.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Of the worker's time.
    pub(super) share: Rc<Share>,
    /// Copies of its requests that are under way.
    pub(super) mirrors: Cell<usize>,
    /// It is somebody else now, or gone.
    retired: Cell<bool>,
}

impl Deref for PodState {
    type Target = LocalPod;

    fn deref(&self) -> &LocalPod {
        &self.pod
    }
}

impl PodState {
    pub(super) fn new(pod: LocalPod, share: Rc<Share>) -> Self {
        Self {
            pod,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            share,
            mirrors: Cell::new(0),
            retired: Cell::new(false),
        }
    }

    /// The pod is another one now, and what is under way goes on.
    pub(super) fn followed_by(&self, pod: LocalPod) -> Self {
        Self {
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
            ..Self::new(pod, self.share.clone())
        }
    }

    /// A task for the pod takes turns with those of others.
    pub(super) fn spawn<F>(&self, what: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.tasks.spawn_local(by_turns(self.share.clone(), what))
    }

    pub(super) fn places(&self) -> places::Pod<'_> {
        places::Pod {
            netns: self.cookie(),
            taken: &self.active,
        }
    }

    /// What was begun for it and is not registered yet must not go on: whoever
    /// comes later is not found by the cut.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }
}

/// Where and between whom a connection is.
pub(super) struct ConnectionContext {
    pub(super) worker: Rc<WorkerState>,
    pub(super) pod: Rc<PodState>,
    pub(super) client_addr: ClientAddr,
    pub(super) orig_dst: OrigDst,
    /// Of a connection from elsewhere: whose places its requests take.
    requests_of: OnceCell<Option<Box<places::HeldBySource>>>,
    /// As long as anything of the connection lives, it can be cut.
    registration: Registration,
}

impl ConnectionContext {
    pub(super) fn new(
        worker: Rc<WorkerState>,
        pod: Rc<PodState>,
        client: SocketAddr,
        orig_dst: SocketAddr,
    ) -> Rc<Self> {
        Rc::new(Self {
            registration: worker.register(&pod),
            worker,
            pod,
            client_addr: ClientAddr::new(client),
            orig_dst: OrigDst::new(orig_dst),
            requests_of: OnceCell::new(),
        })
    }

    /// Of the same two, for a connection that is judged and cut by itself.
    pub(super) fn beside(&self) -> Rc<Self> {
        let (worker, pod) = (self.worker.clone(), self.pod.clone());
        Self::new(worker, pod, self.client_addr.get(), self.orig_dst.get())
    }

    /// A task for its pod that holds it.
    pub(super) fn spawn<F>(self: &Rc<Self>, what: impl FnOnce(Rc<Self>) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        self.worker.spawn(&self.pod, what(self.clone()));
    }

    pub(super) fn entry(&self) -> &Rc<ConnectionEntry> {
        &self.registration.entry
    }

    /// What is made for it; removal and drain win over a connection just made.
    pub(super) async fn unless_cut<T>(
        &self,
        making: impl Future<Output = Result<T, Refused>>,
    ) -> Result<T, Refused> {
        tokio::select! {
            biased;
            reason = self.entry().cut.wait() => Err(reason.refuse()),
            made = making => made,
        }
    }

    /// Its place among those that have not shown who they are.
    pub(super) fn pre_auth(&self) -> Slot<'_> {
        let pre_auth = &self.worker.pre_auth;
        pre_auth.enter(self.pod.cookie(), self.client_addr.ip(), self.entry())
    }

    /// Whose places its requests take, beside the pod's.
    pub(super) fn requests_of(&self) -> Option<&places::HeldBySource> {
        let find = || {
            let agent = &self.worker.agent;
            let source = self.source(&agent.published.load());
            let source = agent.request_places.source(source, self.pod.cookie());
            Some(source)
        };
        let found = self.requests_of.get_or_init(|| match self.is_inbound() {
            true => find(),
            false => None,
        });
        found.as_deref()
    }

    /// Whose places a connection from elsewhere takes.
    fn source(&self, in_force: &InForce) -> places::ClientSource {
        let ip = self.client_addr.ip();
        let by_ip = &in_force.snapshot.by_ip;
        places::ClientSource::new(ip, by_ip.contains_key(&ip))
    }

    /// Does the connection come from elsewhere to the pod?
    pub(super) fn is_inbound(&self) -> bool {
        self.pod.workload.ips.contains(self.orig_dst.ip())
    }
}

/// What is decided on as one: a TCP stream, or a request of HTTP. All its stages see
/// one configuration; the next one of a connection may see another.
pub(super) struct Exchange {
    pub(super) context: Rc<ConnectionContext>,
    pub(super) in_force: Arc<InForce>,
}

impl Exchange {
    /// By the configuration that holds now.
    pub(super) fn begin(context: &Rc<ConnectionContext>) -> Self {
        Self {
            context: context.clone(),
            in_force: context.worker.agent.published.load_full(),
        }
    }

    pub(super) fn decision_context(&self) -> DecisionContext<'_> {
        self.context.worker.agent.decision_context(&self.in_force)
    }

    /// The pod that the configuration gives the client's address to: a name
    /// for people, and never a proof.
    pub(super) fn workload_of_client(&self) -> Result<Arc<Workload>, UnknownPeer> {
        let by_ip = &self.in_force.snapshot.by_ip;
        by_ip
            .get(&self.context.client_addr.ip())
            .cloned()
            .ok_or(UnknownPeer)
    }

    /// Whose places a connection from elsewhere takes.
    pub(super) fn source(&self) -> places::ClientSource {
        self.context.source(&self.in_force)
    }
}
