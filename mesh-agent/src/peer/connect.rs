//! A new connection to another agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::peers::{PROTOCOL, Peers};
use super::proofs::Source;
use crate::enrol::LocalPod;
use crate::io::dial;
use crate::model::{RefuseReason, Refused, TlsRole};
use crate::plan::{MayDial as _, MeshPeer};
use crate::sys::socket;
use crate::tls::{self, Credentials, PeerId};
use crate::tunnel::Connection;

impl Peers {
    /// Verified, and noted as a proof.
    pub(super) async fn connect(
        &self,
        pod: &LocalPod,
        to: &MeshPeer,
    ) -> Result<Connection, Refused> {
        let config = &self.config;
        let credentials = credentials(pod, config.handshake_timeout).await?;
        let from = pod.dial_from(to.to().ip(), config.same_node_tls, &config.limits)?;
        let tcp = dial::dial(to, from, config.connect_timeout).await?;
        socket::bound_unsent(&tcp);
        socket::keep_alive(&tcp).map_err(|_| RefuseReason::ConnectRefused)?;
        let expected = std::slice::from_ref(to.expected());
        let deadline = config.handshake_timeout;
        let handshake = tls::connect(&tcp, &credentials, expected, PROTOCOL, deadline);
        let session = handshake.await?;
        self.observe.handshake(TlsRole::Client, session.parameters);
        let connection = Connection::new(tcp, session, credentials.not_after(), Instant::now());
        let source = Source::Pod(pod.cookie());
        self.note_proof((pod, to.to().ip()), Some(source), &connection);
        Ok(connection)
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
