//! A new connection to another agent.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;

use super::peers::{PROTOCOL, Peers};
use super::proofs::Source;
use crate::enrol::LocalPod;
use crate::io::dial;
use crate::model::{PeerProtocol, RefuseReason, Refused, TlsRole};
use crate::plan::{MayDial as _, MeshPeer};
use crate::sys::socket;
use crate::tls::{self, Credentials, PeerId, Session};
use crate::tunnel::{Connection, SharedConnection};

/// A new connection that was to be shared.
pub(crate) enum Reached {
    Shared(Rc<SharedConnection>),
    /// The other agent carries one stream at a time.
    Alone(Box<Connection>),
}

impl Peers {
    /// One that carries one stream at a time.
    pub(super) async fn connect(
        &self,
        pod: &LocalPod,
        to: &MeshPeer,
    ) -> Result<Connection, Refused> {
        let (tcp, session, not_after) = self.handshake(pod, to, PROTOCOL).await?;
        Ok(Connection::new(tcp, session, not_after, Instant::now()))
    }

    /// One that is shared, where the other agent knows how to.
    pub(super) async fn connect_shared(
        &self,
        pod: &LocalPod,
        to: &MeshPeer,
    ) -> Result<Reached, Refused> {
        let handshake = self.handshake(pod, to, PeerProtocol::Shared1);
        let (tcp, session, not_after) = handshake.await?;
        Ok(match session.protocol {
            PeerProtocol::Shared1 => {
                let account = pod.account.clone();
                Reached::Shared(SharedConnection::client(tcp, session, not_after, account))
            }
            PeerProtocol::Mesh1 => {
                let connection = Connection::new(tcp, session, not_after, Instant::now());
                Reached::Alone(Box::new(connection))
            }
        })
    }

    /// Verified, and noted as a proof; with the end of the own certificate.
    async fn handshake(
        &self,
        pod: &LocalPod,
        to: &MeshPeer,
        protocol: PeerProtocol,
    ) -> Result<(TcpStream, Session, SystemTime), Refused> {
        let config = &self.config;
        let credentials = credentials(pod, config.handshake_timeout).await?;
        let from = pod.dial_from(to.to().ip(), config.same_node_tls, &config.limits)?;
        let tcp = dial::dial(to, from, config.connect_timeout).await?;
        socket::bound_unsent(&tcp);
        socket::keep_alive(&tcp).map_err(|_| RefuseReason::ConnectRefused)?;
        let expected = std::slice::from_ref(to.expected());
        let deadline = config.handshake_timeout;
        let handshake = tls::connect(&tcp, &credentials, expected, protocol, deadline);
        let session = handshake.await?;
        self.observe.handshake(TlsRole::Client, session.parameters);
        let not_after = credentials.not_after();
        let (peer, source) = (&session.peer, Source::Pod(pod.cookie()));
        let shown = (peer, not_after.min(peer.not_after()));
        self.note_proof((pod, to.to().ip()), Some(source), shown);
        Ok((tcp, session, not_after))
    }
}

/// The pod's own certificate; waits for one that is on its way.
pub(crate) async fn credentials(
    pod: &LocalPod,
    longest: Duration,
) -> Result<Arc<Credentials>, RefuseReason> {
    if let Some(credentials) = pod.identity.current() {
        return Ok(credentials);
    }
    let deadline = tokio::time::Instant::now() + longest;
    let waited = pod.identity.wait(deadline).await;
    waited.map_err(|_| RefuseReason::NoCertificate)
}

/// Once the connection is registered, so that a revocation, or the removal of a root, is
/// either seen here or cuts it: also one that came during the handshake, or in the pool.
pub(crate) fn still_trusted(pod: &LocalPod, peer: &PeerId) -> Result<(), RefuseReason> {
    match pod.identity.current() {
        None => Err(RefuseReason::NoCertificate),
        Some(own) => own.trust().still_trusts(peer).map_err(RefuseReason::Tls),
    }
}
