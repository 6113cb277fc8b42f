//! Connections to other agents: pooled, waited for, and made ahead.
//!
//! A stream waits out an agent that is being restarted. Where several streams of
//! a pair waited for a handshake at once, the next burst is likely: the worker
//! makes that many in the background. How many is the pool's to say.

use std::time::{Duration, Instant, SystemTime};

use super::connect::{Reached, still_trusted};
use super::peers::{PROTOCOL, Peers, Preconnect};
use crate::enrol::LocalPod;
use crate::model::{PeerProtocol, RefuseReason, Refused, TlsFailure};
use crate::plan::{MayDial as _, MeshPeer};
use crate::tunnel::{Connection, Key};

/// The burst itself goes first, and what it leaves may be enough.
const LATER: Duration = Duration::from_millis(50);

/// Between tries to reach an agent; the first one doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(160);

/// A stream that waits for a new connection.
struct Waiting<'p> {
    peers: &'p Peers,
    key: Key,
}

impl<'p> Waiting<'p> {
    fn begin(peers: &'p Peers, key: Key) -> Self {
        peers.pool.borrow_mut().missed(key, Instant::now());
        Self { peers, key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.peers.pool.borrow_mut().served(self.key);
    }
}

/// One of those that the pool counts as under way.
pub(crate) struct UnderWay<'p> {
    peers: &'p Peers,
    key: Key,
}

impl UnderWay<'_> {
    pub(crate) fn made(self, keep: impl FnOnce(Key)) {
        keep(self.key);
        self.peers.metrics.connects_ahead.inc();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.peers.pool.borrow_mut().preconnect_ended(self.key);
    }
}

impl Peers {
    pub(crate) fn key(pod: &LocalPod, peer: &MeshPeer) -> Key {
        Key {
            netns: pod.cookie(),
            destination: peer.to(),
            protocol: PROTOCOL,
        }
    }

    /// A new connection that is to be shared, when it is its turn.
    pub(crate) async fn wait_for_shared(
        &self,
        pod: &LocalPod,
        peer: &MeshPeer,
    ) -> Result<Reached, Refused> {
        let key = Key {
            protocol: PeerProtocol::Shared1,
            ..Self::key(pod, peer)
        };
        let reaching = self.reach_by(peer, || self.connect_shared(pod, peer));
        let reached = self.gate.in_turn(key, reaching).await?;
        self.metrics.connects.inc();
        Ok(reached)
    }

    /// An idle connection, for a stream that begins now. One whose peer is not trusted
    /// any more is closed: what was made before a root went is no fault of the peer's.
    pub(crate) fn pooled(&self, pod: &LocalPod, key: Key, peer: &MeshPeer) -> Option<Connection> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let expected = peer.expected();
        loop {
            let taken = self.pool.borrow_mut().take(key, expected, now, wall)?;
            if still_trusted(pod, taken.peer()).is_ok() {
                self.request_preconnects(key, peer);
                return Some(taken);
            }
        }
    }

    /// Asks the worker for as many connections as the pool finds missing.
    fn request_preconnects(&self, key: Key, peer: &MeshPeer) {
        let mut pool = self.pool.borrow_mut();
        for _ in 0..pool.preconnects_due(key, Instant::now()) {
            let peer = peer.clone();
            if self.preconnects.try_send(Preconnect { key, peer }).is_err() {
                // The worker has enough to do.
                pool.preconnect_ended(key);
            }
        }
    }

    /// A stream has to wait: it, and the next ones, for a handshake, when it is its turn.
    pub(crate) async fn wait_for(
        &self,
        pod: &LocalPod,
        key: Key,
        peer: &MeshPeer,
    ) -> Result<Connection, Refused> {
        let _waiting = Waiting::begin(self, key);
        self.request_preconnects(key, peer);
        let connection = self.gate.in_turn(key, self.reach(pod, peer)).await?;
        self.metrics.connects.inc();
        Ok(connection)
    }

    /// A new connection for a stream that was not taken, when it is its turn: all that shared
    /// one may have to begin again at once.
    pub(crate) async fn reach_anew(
        &self,
        pod: &LocalPod,
        key: Key,
        peer: &MeshPeer,
    ) -> Result<Connection, Refused> {
        self.gate.in_turn(key, self.reach(pod, peer)).await
    }

    /// A new connection to the other agent. One that is not there is given the
    /// time of a connect to be back, unless it has been away for longer than a
    /// restart takes: its application's refusal is a RESET in the stream, so this one
    /// is the agent's absence, and nothing was sent to it. A listener that closes
    /// also drops who waited for it: once that is forgiven.
    async fn reach(&self, pod: &LocalPod, peer: &MeshPeer) -> Result<Connection, Refused> {
        self.reach_by(peer, || self.connect(pod, peer)).await
    }

    async fn reach_by<T, F>(&self, peer: &MeshPeer, connect: impl Fn() -> F) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, Refused>>,
    {
        let until = Instant::now() + self.config.connect_timeout;
        let (mut pause, mut dropped) = (FIRST_PAUSE, false);
        let agent = peer.to().ip();
        loop {
            let result = connect().await;
            let away = match result.as_ref().map_err(|refused| refused.reason) {
                Err(RefuseReason::ConnectRefused) => true,
                Err(RefuseReason::Tls(TlsFailure::Closed)) => {
                    !std::mem::replace(&mut dropped, true)
                }
                _ => false,
            };
            if !away {
                self.away.borrow_mut().is_back(agent);
                return result;
            }
            let now = Instant::now();
            let back = self.away.borrow_mut().missed(agent, now);
            if now + pause > until.min(back) {
                return result;
            }
            tokio::time::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
    }

    /// Counts what is wished for as under way until it is there, or given up.
    pub(crate) fn under_way(&self, request: &Preconnect) -> UnderWay<'_> {
        UnderWay {
            peers: self,
            key: request.key,
        }
    }

    /// As for a stream: same certificate, same expected identity, same checks.
    /// One that fails costs nobody anything: the next stream tells why.
    pub(crate) async fn preconnect(
        &self,
        pod: &LocalPod,
        request: &Preconnect,
    ) -> Option<Connection> {
        tokio::time::sleep(LATER).await;
        let now = Instant::now();
        if !self
            .pool
            .borrow_mut()
            .is_preconnect_wanted(request.key, now)
        {
            return None;
        }
        let connection = Box::pin(self.connect(pod, &request.peer)).await.ok()?;
        still_trusted(pod, connection.peer()).ok()?;
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Arc;

    use super::*;
    use crate::identity::Handle;
    use crate::io::Limits;
    use crate::model::{Enrolment, OnAgentDown, PodIps, UpstreamAddr, Workload, WorkloadKey};
    use crate::observe::{AccessLogTarget, Observe};
    use crate::peer::{Config, Metrics};
    use crate::sys::netns::Netns;
    use crate::tls::tests::support::{credentials, id, root};
    use crate::tls::warm;
    use crate::tunnel::PoolConfig;

    /// Of one handshake at once with each peer.
    fn peers() -> Peers {
        let config = Config {
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_millis(200),
            handshakes_at_once: 1,
            same_node_tls: false,
            limits: Limits::of(1 << 20, 1),
            pool: PoolConfig::default(),
        };
        let recorder = Observe::new("n1", AccessLogTarget::Off).worker();
        let (preconnects, _) = tokio::sync::mpsc::channel(1);
        Peers::new(
            config,
            recorder,
            Metrics::default(),
            Arc::default(),
            preconnects,
        )
    }

    /// In the test's own network namespace.
    fn pod(netns: Netns) -> LocalPod {
        let ips = PodIps::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));
        let workload = Workload {
            key: WorkloadKey::new("shop", "web"),
            uid: "".into(),
            ips,
            node: "n1".into(),
            service_account: "web".into(),
            app: "web".into(),
            labels: [].into(),
            enrolment: Enrolment::Yes(OnAgentDown::Closed),
            on_node: Arc::default(),
            ports: [].into(),
        };
        LocalPod {
            workload: Arc::new(workload),
            netns: Arc::new(netns),
            ips,
            spiffe_id: id("web"),
            identity: Handle::holding(id("web"), credentials(&root("root"), "web")),
            dial_ports: None,
            active: Arc::default(),
            requests: Arc::default(),
            account: Arc::default(),
        }
    }

    /// All that shared a connection may have to begin again at once.
    #[tokio::test(flavor = "local")]
    async fn streams_that_begin_again_have_turns_and_a_silent_peer_is_dialled_once() {
        let netns = Netns::current().expect("its own");
        if netns.run(|| ()).is_err() {
            return; // not privileged
        }
        warm();
        let (peers, pod) = (peers(), pod(netns));
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let to = UpstreamAddr::new(silent.local_addr().expect("its address"));
        let peer = MeshPeer::decided(to, id("db"));
        let key = Peers::key(&pod, &peer);
        let again = || peers.reach_anew(&pod, key, &peer);
        let (one, other) = tokio::join!(again(), again());
        let late = RefuseReason::Tls(TlsFailure::Timeout);
        for made in [one, other] {
            assert_eq!(made.expect_err("nobody answers").reason, late);
        }
        silent.set_nonblocking(true).expect("a socket");
        assert!(silent.accept().is_ok());
        let second = silent.accept().expect_err("it was told of the first one");
        assert_eq!(second.kind(), ErrorKind::WouldBlock);
    }
}
