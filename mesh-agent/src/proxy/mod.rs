//! Accepts pods' connections and carries them.
//!
//! One thread and runtime per worker, each with its own listeners in every
//! enrolled pod; nothing is shared between workers on the hot path. A
//! connection passes the stages accept, target, dial, relay, and ends in
//! exactly one [`Outcome`](crate::model::Outcome). Invariants: whatever cannot
//! be carried is reset, never passed by; a pod's removal closes every socket
//! that the agent has in its namespace.

#![deny(clippy::wildcard_enum_match_arm)]

mod away;
mod carry;
mod connection;
mod dial;
mod inbound;
mod limits;
mod live;
mod metrics;
mod outbound;
mod places;
mod proofs;
mod reach;
mod renew;
mod report;
mod spare;
mod unproven;
mod worker;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use inbound::fuzz_first_bytes;
#[cfg(test)]
pub(crate) use inbound::{Sniffed, sniff};

use crate::identity::Handle;
use crate::io;
use crate::model::{PodIps, SpiffeId, TrustDomain, Workload};
use crate::observe::Observe;
use crate::plan::{Premises, Published};
use crate::sys::{netns::Netns, socket};
use crate::tls::Trust;
use crate::tunnel::PoolConfig;
pub use limits::{Limits, RECOMMENDED_OPEN_FILES};
pub(crate) use metrics::Metrics;
use places::Places;
use proofs::Proofs;
use worker::Command;

/// Settings of the data path.
#[derive(Clone, Debug)]
pub struct Config {
    pub workers: usize,
    /// Longest wait for an upstream's answer.
    pub connect_timeout: Duration,
    /// Ends a connection without bytes for this long; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Of the whole agent; each takes two file descriptors.
    pub max_connections: usize,
    /// Of one pod. Beside that each pod, and each source, may have as many as
    /// are free, so that busy ones do not starve their neighbours.
    pub max_connections_per_pod: usize,
    /// Bytes that all connections hold of what one side sent and the other did
    /// not take; towards that they read less at a time.
    pub max_buffer_bytes: usize,
    /// What the machine gives.
    pub limits: Limits,
    /// Longest TLS handshake, and longest wait for a client's first bytes
    /// where they decide what the connection is.
    pub handshake_timeout: Duration,
    /// Mutual TLS also between pods of this node.
    pub same_node_tls: bool,
    /// Bounds of each worker's idle connections to other agents.
    pub pool: PoolConfig,
    /// Source ports of deliveries. Outside of the clients' own ephemeral range,
    /// for a delivery shares the client's address.
    pub delivery_ports: RangeInclusive<u16>,
}

impl Default for Config {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = Limits::of(RECOMMENDED_OPEN_FILES, workers);
        Self {
            workers,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: None,
            max_connections: limits.connections,
            max_connections_per_pod: limits.connections_per_pod,
            limits,
            max_buffer_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(5),
            same_node_tls: false,
            pool: PoolConfig::default(),
            delivery_ports: 10_000..=32_000,
        }
    }
}

/// An enrolled pod of this node.
#[derive(Clone, Debug)]
pub struct LocalPod {
    pub workload: Arc<Workload>,
    pub netns: Arc<Netns>,
    /// Those of its addresses that are served: its namespace may lack a family.
    pub ips: PodIps,
    /// Who the pod is, by the namespace that its sockets live in.
    pub spiffe_id: SpiffeId,
    /// Its certificate, as soon and as long as there is one.
    pub identity: Arc<Handle>,
    /// Ports that the agent's dials from there are held to, where others collide
    /// with deliveries.
    pub dial_ports: Option<RangeInclusive<u16>>,
    /// Connections that it has on all workers.
    pub active: Arc<AtomicUsize>,
}

impl LocalPod {
    /// Is what was begun for the one also the other's?
    fn is_still(&self, before: &Self) -> bool {
        self.workload.uid == before.workload.uid
            && self.spiffe_id == before.spiffe_id
            && before.ips.iter().all(|ip| self.ips.contains(ip))
    }
}

/// Cookie of the namespace that a SYN from here to there went into, where this
/// node's agent enrolled it: proof of which pod the address belongs to now.
pub type EnteredPod = Arc<dyn Fn(SocketAddr, SocketAddr) -> Option<u64> + Send + Sync>;

/// What live connections are to be looked at again for.
#[derive(Clone, Debug)]
pub enum Recheck {
    /// The configuration changed.
    Policy,
    /// Roots or revocations changed.
    Trust(Arc<Trust>),
}

/// What all workers see.
pub struct World {
    pub node: String,
    pub trust_domain: TrustDomain,
    pub published: Arc<ArcSwap<Published>>,
    pub entered_pod: EnteredPod,
    pub observe: Observe,
}

/// The above, and what the workers share among themselves.
struct Shared {
    config: Config,
    node: String,
    trust_domain: TrustDomain,
    published: Arc<ArcSwap<Published>>,
    entered_pod: EnteredPod,
    observe: Observe,
    metrics: Metrics,
    places: Places,
    /// Which pod each enrolled namespace, by its cookie, is.
    enrolled: ArcSwap<HashMap<u64, Arc<Workload>>>,
    proofs: Proofs,
}

impl Shared {
    fn premises<'p>(&'p self, published: &'p Published) -> Premises<'p> {
        Premises {
            published,
            node: &self.node,
            trust_domain: &self.trust_domain,
            same_node_tls: self.config.same_node_tls,
        }
    }

    /// Is the enrolled namespace this very pod's, and not one's that has its address now?
    fn is_pod(&self, netns_cookie: u64, workload: &Workload) -> bool {
        let enrolled = self.enrolled.load();
        enrolled.get(&netns_cookie).is_some_and(|pod| {
            pod.key == workload.key
                && pod.uid == workload.uid
                && pod.service_account == workload.service_account
        })
    }

    fn show_limits(&self) {
        let shown = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
        self.metrics.places.set(shown(self.places.in_all()));
        let held = shown(self.config.max_buffer_bytes);
        self.metrics.held_limit.set(held);
    }

    fn change_enrolled(&self, change: impl Fn(&mut HashMap<u64, Arc<Workload>>)) {
        self.enrolled.rcu(|enrolled| {
            let mut enrolled = HashMap::clone(enrolled);
            change(&mut enrolled);
            enrolled
        });
    }
}

/// Why a pod could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open listeners in the pod's network namespace: {0}")]
    Listen(std::io::Error),
    #[error("a worker thread has ended")]
    WorkerGone,
    #[error("cannot start a worker thread: {0}")]
    Start(std::io::Error),
}

/// The worker threads.
pub struct Workers {
    shared: Arc<Shared>,
    /// Addresses that are listened for, in each namespace by its cookie.
    listening: Mutex<HashMap<u64, PodIps>>,
    workers: Vec<(mpsc::Sender<Command>, std::thread::JoinHandle<()>)>,
}

impl Workers {
    pub fn start(config: Config, world: World) -> Result<Self, Error> {
        let count = config.workers.max(1);
        let World {
            node,
            trust_domain,
            published,
            entered_pod,
            observe,
        } = world;
        let places = Places::new(config.max_connections, config.max_connections_per_pod);
        io::limit_held(config.max_buffer_bytes);
        let shared = Arc::new(Shared {
            config,
            node,
            trust_domain,
            published,
            entered_pod,
            metrics: Metrics::new(&observe),
            observe,
            places,
            enrolled: ArcSwap::default(),
            proofs: Proofs::default(),
        });
        shared.show_limits();
        let workers = (0..count)
            .map(|index| worker::spawn(index, count, shared.clone()).map_err(Error::Start))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shared,
            listening: Mutex::default(),
            workers,
        })
    }

    /// Has every live connection looked at again; what is not allowed any
    /// more is cut.
    pub async fn recheck(&self, what: &Recheck) -> Result<(), Error> {
        for (worker, _) in &self.workers {
            let command = Command::Recheck(what.clone());
            worker.send(command).await.map_err(|_| Error::WorkerGone)?;
        }
        Ok(())
    }

    /// Source ports of deliveries.
    #[must_use]
    pub fn delivery_ports(&self) -> &RangeInclusive<u16> {
        &self.shared.config.delivery_ports
    }

    /// Connections carried now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.shared.places.taken()
    }

    /// Serves the pod, or has one that is served be what it is now: its
    /// listeners stay, and connections that were begun as somebody else are cut
    /// when this returns. Gives one member of each listener group that is new,
    /// for the kernel to steer to.
    pub async fn put_pod(&self, pod: &LocalPod) -> Result<Vec<(IpAddr, OwnedFd)>, Error> {
        let cookie = pod.netns.cookie();
        let before = self.listening.lock().get(&cookie).copied();
        let (is_new, before) = (before.is_none(), before.unwrap_or_default());
        let mut per_worker: Vec<Vec<(IpAddr, TcpListener)>> =
            self.workers.iter().map(|_| vec![]).collect();
        let mut steered = Vec::new();
        for ip in pod.ips.iter().filter(|ip| !before.contains(*ip)) {
            let group = pod
                .netns
                .run(|| socket::listener_group(ip, self.workers.len()))
                .and_then(|group| group)
                .map_err(Error::Listen)?;
            let first = group[0].as_fd().try_clone_to_owned();
            steered.push((ip, first.map_err(Error::Listen)?));
            for (listeners, listener) in per_worker.iter_mut().zip(group) {
                listeners.push((ip, listener));
            }
        }
        // Before the kernel names the pod to anybody.
        self.shared.change_enrolled(|enrolled| {
            enrolled.insert(cookie, pod.workload.clone());
        });
        self.listening.lock().insert(cookie, pod.ips);
        for ((worker, _), listeners) in self.workers.iter().zip(per_worker) {
            let (done, wait) = oneshot::channel();
            let command = Command::Put(pod.clone(), listeners, done);
            worker.send(command).await.map_err(|_| Error::WorkerGone)?;
            // A new one's connections wait in the backlog for who is busy.
            if !is_new {
                wait.await.map_err(|_| Error::WorkerGone)?;
            }
        }
        Ok(steered)
    }

    /// Closes the pod's listeners and resets its connections; returns when all are closed.
    pub async fn remove_pod(&self, cookie: u64) -> Result<(), Error> {
        self.shared.change_enrolled(|enrolled| {
            enrolled.remove(&cookie);
        });
        self.listening.lock().remove(&cookie);
        for (worker, _) in &self.workers {
            let (done, wait) = oneshot::channel();
            let command = Command::Remove(cookie, done);
            worker.send(command).await.map_err(|_| Error::WorkerGone)?;
            wait.await.map_err(|_| Error::WorkerGone)?;
        }
        Ok(())
    }

    /// Stops accepting, lets connections end until `deadline`, cuts the rest, ends the threads.
    pub async fn drain(self, deadline: Duration) {
        for (worker, _) in &self.workers {
            // A worker that is gone has nothing to drain.
            let _gone = worker.send(Command::Drain(deadline)).await;
        }
        let joins = tokio::task::spawn_blocking(move || {
            for (sender, thread) in self.workers {
                drop(sender);
                if thread.join().is_err() {
                    tracing::error!("a worker thread panicked");
                }
            }
        });
        if joins.await.is_err() {
            tracing::error!("joining the workers failed");
        }
    }
}
