//! What one worker has of other agents.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::away::Away;
use super::gate::Gate;
use super::metrics::Metrics;
use super::proofs::{self, Pair, PeerSession, PeerValidity, Proof, Proofs, RenewalAction, Source};
use super::sharing::Sharing;
use crate::enrol::LocalPod;
use crate::io::Limits;
use crate::model::PeerProtocol;
use crate::observe;
use crate::plan::MeshPeer;
use crate::tls::{Credentials, PeerId, Trust};
use crate::tunnel::{Connection, Key, Pool, PoolConfig, SharedConnection};

/// What streams are carried by, where they have a connection to themselves.
pub(super) const PROTOCOL: PeerProtocol = PeerProtocol::Mesh1;

/// What a handshake has shown: who the peer is, and when either certificate ends.
pub(crate) type Shown<'c> = (&'c PeerId, SystemTime);

/// A connection that is to be made.
#[derive(Debug)]
pub(crate) struct Preconnect {
    pub(crate) key: Key,
    pub(super) peer: MeshPeer,
}

/// Settings of the sessions with other agents.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    /// Of one worker's streams of one pair.
    pub(crate) handshakes_at_once: usize,
    /// Mutual TLS also between pods of this node.
    pub(crate) same_node_tls: bool,
    pub(crate) limits: Limits,
    pub(crate) pool: PoolConfig,
}

/// One worker's.
pub(crate) struct Peers {
    pub(super) config: Config,
    pub(super) observe: observe::Recorder,
    pub(super) metrics: Metrics,
    /// Those of all workers.
    pub(super) proofs: Arc<Proofs>,
    /// Idle connections.
    pub(super) pool: RefCell<Pool>,
    /// Streams that wait for a handshake.
    pub(super) gate: Gate,
    /// Agents that were not there.
    pub(super) away: RefCell<Away>,
    /// Connections that streams share.
    pub(crate) sharing: Rc<Sharing>,
    /// Connections to be made ahead.
    pub(super) preconnects: mpsc::Sender<Preconnect>,
    /// Parts the renewals of what began together.
    spread: Cell<u64>,
}

impl Peers {
    pub(crate) fn new(
        config: Config,
        observe: observe::Recorder,
        metrics: Metrics,
        proofs: Arc<Proofs>,
        preconnects: mpsc::Sender<Preconnect>,
    ) -> Self {
        let silence = config.connect_timeout.min(config.handshake_timeout) / 2;
        Self {
            gate: Gate::new(config.handshakes_at_once, silence),
            pool: RefCell::new(Pool::new(config.pool.clone())),
            config,
            observe,
            metrics,
            proofs,
            away: RefCell::default(),
            sharing: Rc::default(),
            preconnects,
            spread: Cell::new(0),
        }
    }

    /// Keeps a connection for the pod's next stream.
    pub(crate) fn keep(&self, key: Key, connection: Connection) {
        self.pool.borrow_mut().put(key, connection, Instant::now());
    }

    /// May a stream on it carry another message? As for one from the pool: neither
    /// certificate is over, and a NetworkPolicy that now forbids the pair takes effect.
    pub(crate) fn may_go_on(&self, connection: &Connection) -> bool {
        !self.may_go_on_for(connection).is_zero()
    }

    /// How long it may carry more messages.
    pub(crate) fn may_go_on_for(&self, connection: &Connection) -> Duration {
        self.left_of(connection.age(Instant::now()), connection.expires())
    }

    /// The same of one that is shared, for a new channel.
    pub(crate) fn may_take_more(&self, shared: &SharedConnection) -> bool {
        let left = self.left_of(shared.age(Instant::now()), shared.expires());
        !left.is_zero()
    }

    fn left_of(&self, age: Duration, expires: SystemTime) -> Duration {
        let valid = expires.duration_since(SystemTime::now());
        let left = self.config.pool.max_age.saturating_sub(age);
        left.min(valid.unwrap_or_default())
    }

    /// Closes all idle connections of a pod.
    pub(crate) fn remove_pod(&self, netns: u64) {
        self.pool.borrow_mut().remove_pod(netns);
        self.sharing.remove_pod(netns);
    }

    pub(crate) fn clear(&self) {
        self.pool.borrow_mut().clear();
        self.sharing.clear();
    }

    /// Closes idle connections that are of no use any more.
    pub(crate) fn sweep(&self, now: Instant, wall: SystemTime) {
        self.pool.borrow_mut().sweep(now, wall);
    }

    /// Closes idle connections to peers that are not trusted any more.
    pub(crate) fn distrust(&self, trust: &Trust) {
        let mut pool = self.pool.borrow_mut();
        pool.retain_peers(|peer| trust.still_trusts(peer).is_ok());
    }

    /// Is what the connection's peer showed, here and lately elsewhere, still believed?
    pub(crate) fn is_trusted(&self, session: &PeerSession, trust: &Trust) -> bool {
        let newest = self.proofs.get(&session.validity.pair);
        let shown = newest.iter().map(|proof| &proof.peer);
        let mut shown = shown.chain([&session.peer]);
        shown.all(|peer| trust.still_trusts(peer).is_ok())
    }

    /// `may_renew`: there is room for another handshake now.
    pub(crate) fn renewal_action(
        &self,
        session: &mut PeerSession,
        now: SystemTime,
        may_renew: bool,
    ) -> RenewalAction {
        let own = session.own.current();
        let trusted = |peer: &PeerId| is_trusted_by(own.as_deref(), peer);
        let by = (&*self.proofs, &trusted as &dyn Fn(&PeerId) -> bool);
        session.validity.renewal_action(by, now, may_renew)
    }

    /// What a stream to the other agent is judged by while it lives.
    pub(crate) fn session(&self, pod: &LocalPod, to: SocketAddr, with: Shown<'_>) -> PeerSession {
        let (peer, expires) = with;
        let peer = peer.clone();
        let pair = pair(pod, to.ip(), &peer);
        let due = self.due(SystemTime::now(), expires);
        PeerSession {
            own: pod.identity.clone(),
            validity: PeerValidity::client(pair, peer.not_after(), to, due),
            peer,
        }
    }

    /// What the streams of another agent are judged by while they live.
    pub(crate) fn session_of(&self, pod: &LocalPod, from: IpAddr, peer: &PeerId) -> PeerSession {
        let peer = peer.clone();
        let pair = pair(pod, from, &peer);
        PeerSession {
            own: pod.identity.clone(),
            validity: PeerValidity::server(pair, peer.not_after()),
            peer,
        }
    }

    /// A handshake that was verified proves the peer's identity for all streams of the
    /// pair. `source`: where nothing was known of the pair, it is from now on.
    pub(crate) fn note_proof(
        &self,
        (pod, peer_ip): (&LocalPod, IpAddr),
        source: Option<Source>,
        (peer, expires): Shown<'_>,
    ) {
        let now = SystemTime::now();
        let proof = Proof {
            peer: peer.clone(),
            due: self.due(now, expires),
        };
        let own = pod.identity.current();
        let trusted = |peer: &PeerId| is_trusted_by(own.as_deref(), peer);
        let pair = pair(pod, peer_ip, peer);
        self.proofs
            .note_proof((pair, source), proof, (now, &trusted));
    }

    /// When a handshake that was made now is to be followed by another.
    fn due(&self, now: SystemTime, expires: SystemTime) -> SystemTime {
        let spread = self.spread.get();
        self.spread.set(spread.wrapping_add(1));
        proofs::due(now, expires, spread)
    }
}

fn is_trusted_by(own: Option<&Credentials>, peer: &PeerId) -> bool {
    own.is_some_and(|own| own.trust().still_trusts(peer).is_ok())
}

fn pair(pod: &LocalPod, peer_ip: IpAddr, peer: &PeerId) -> Pair {
    Pair {
        netns: pod.cookie(),
        peer_ip,
        peer: peer.spiffe_id().clone(),
    }
}
