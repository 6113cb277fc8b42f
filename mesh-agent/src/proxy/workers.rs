//! The worker threads, as the control side has them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::alarm::{Alarm, PartEnded};
use super::config::Config;
use super::context::{AgentState, EnteredPod};
use super::metrics::Metrics;
use super::places::Places;
use super::seen::Seen;
use super::worker::{self, Command};
use crate::balance::Health;
use crate::enrol::{Active, DataPath, LocalPod, Recheck, ServeError};
use crate::model::{PodIps, TrustDomain};
use crate::observe::Observe;
use crate::plan::InForce;
use crate::sys::socket;
use crate::{io, peer};

/// What all workers see.
pub(crate) struct Environment {
    pub(crate) node: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) published: Arc<ArcSwap<InForce>>,
    pub(crate) entered_pod: EnteredPod,
    pub(crate) observe: Observe,
    pub(crate) seen: Arc<Seen>,
    pub(crate) health: Arc<Health>,
}

/// The data path could not begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a worker thread: {0}")]
pub(crate) struct StartError(#[from] std::io::Error);

/// The worker threads.
pub(crate) struct Workers {
    agent: Arc<AgentState>,
    /// Addresses that are listened for, in each namespace by its cookie.
    listening: Mutex<HashMap<u64, PodIps>>,
    workers: Vec<worker::Handle>,
}

impl Workers {
    /// With them, where it is told that a part of them has ended.
    pub(crate) fn start(
        config: Config,
        world: Environment,
    ) -> Result<(Self, PartEnded), StartError> {
        let count = config.workers.max(1);
        let Environment {
            node,
            trust_domain,
            published,
            entered_pod,
            observe,
            seen,
            health,
        } = world;
        let places = Places::new(config.max_connections, config.max_connections_per_pod);
        let request_places = Places::new(config.max_requests, config.max_requests_per_pod);
        io::limit_held(config.max_buffer_bytes);
        let (alarm, ended) = Alarm::new();
        let agent = Arc::new(AgentState {
            alarm,
            config,
            node,
            trust_domain,
            published,
            entered_pod,
            metrics: Metrics::new(&observe),
            peers: peer::Metrics::new(&observe),
            observe,
            places,
            request_places,
            enrolled: ArcSwap::default(),
            proofs: Arc::default(),
            affinity: Arc::default(),
            health,
            seen,
        });
        agent.show_limits();
        let workers = (0..count)
            .map(|index| worker::spawn(index, count, agent.clone()))
            .collect::<Result<_, _>>()?;
        let workers = Self {
            agent,
            listening: Mutex::default(),
            workers,
        };
        Ok((workers, ended))
    }

    /// Returns when each worker has done it: all at once, for one may wait for its
    /// connections to end.
    async fn each(
        &self,
        command: impl Fn(oneshot::Sender<()>) -> Command,
    ) -> Result<(), ServeError> {
        let mut waits = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            worker.send(command(done)).await?;
            waits.push(wait);
        }
        for wait in waits {
            wait.await.map_err(|_| ServeError::WorkerGone)?;
        }
        Ok(())
    }
}

impl DataPath for Workers {
    async fn recheck(&self, what: &Recheck) -> Result<(), ServeError> {
        for worker in &self.workers {
            worker.send(Command::Recheck(what.clone())).await?;
        }
        Ok(())
    }

    fn delivery_ports(&self) -> &RangeInclusive<u16> {
        &self.agent.config.delivery_ports
    }

    fn expect(&self, pod: &LocalPod) {
        self.agent.change_enrolled(|enrolled| {
            enrolled.insert(pod.netns.cookie(), pod.workload.clone());
        });
    }

    fn active(&self) -> Active {
        Active {
            connections: self.agent.places.taken(),
            requests: self.agent.request_places.taken(),
        }
    }

    async fn put_pod(&self, pod: &LocalPod) -> Result<Vec<(IpAddr, OwnedFd)>, ServeError> {
        let cookie = pod.netns.cookie();
        let before = self.listening.lock().get(&cookie).copied();
        let (is_new, before) = (before.is_none(), before.unwrap_or_default());
        let mut per_worker: Vec<worker::Listeners> = self.workers.iter().map(|_| vec![]).collect();
        let mut steered = Vec::new();
        for ip in pod.ips.iter().filter(|ip| !before.contains(*ip)) {
            let group = pod
                .netns
                .run(|| socket::listener_group(ip, self.workers.len()))
                .and_then(|group| group)
                .map_err(ServeError::Listen)?;
            let first = group[0].as_fd().try_clone_to_owned();
            steered.push((ip, first.map_err(ServeError::Listen)?));
            let workers = self.workers.iter().zip(&mut per_worker);
            for ((worker, listeners), listener) in workers.zip(group) {
                let listener = worker.register(listener).map_err(ServeError::Listen)?;
                listeners.push((ip, listener));
            }
        }
        // Before the kernel names the pod to anybody.
        self.agent.change_enrolled(|enrolled| {
            enrolled.insert(cookie, pod.workload.clone());
        });
        self.listening.lock().insert(cookie, pod.ips);
        for (worker, listeners) in self.workers.iter().zip(per_worker) {
            let (done, wait) = oneshot::channel();
            let command = Command::Put(pod.clone(), listeners, done);
            worker.send(command).await?;
            // A new one's connections wait in the backlog for who is busy.
            if !is_new {
                wait.await.map_err(|_| ServeError::WorkerGone)?;
            }
        }
        Ok(steered)
    }

    async fn remove_pod(&self, cookie: u64) -> Result<(), ServeError> {
        self.agent.change_enrolled(|enrolled| {
            enrolled.remove(&cookie);
        });
        self.listening.lock().remove(&cookie);
        self.each(|done| Command::Remove(cookie, done)).await
    }

    async fn close_former(&self, cookie: u64) -> Result<(), ServeError> {
        self.each(|done| Command::CloseFormer(cookie, done)).await
    }

    async fn drain(self, deadline: Duration, stays: bool) {
        for worker in &self.workers {
            // A worker that is gone has nothing to drain.
            let _gone = worker.send(Command::Drain(deadline, stays)).await;
        }
        let joins = tokio::task::spawn_blocking(move || {
            for worker in self.workers {
                if worker.join().is_err() {
                    tracing::error!("a worker thread panicked");
                }
            }
        });
        if joins.await.is_err() {
            tracing::error!("joining the workers failed");
        }
    }
}
