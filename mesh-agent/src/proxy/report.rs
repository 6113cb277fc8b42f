//! A connection's record: filled stage by stage, told once at its end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::worker::{Local, PodState};
use crate::model::{
    ByteCounts, ByteMeter, ClientAddr, CloseReason, Direction, Opening, OrigDst, Outcome,
    PeerCertificate, RefuseReason, Security, TlsParameters, UnknownPeer,
};
use crate::observe;
use crate::tls::PeerId;

/// What is known so far; told as refused when nothing else is.
pub(super) struct Report<'l> {
    local: &'l Local,
    pub(super) opening: Opening,
    started: Instant,
    connect_time: Option<Duration>,
    open: Option<observe::Open>,
}

impl<'l> Report<'l> {
    pub(super) fn new(
        local: &'l Local,
        pod: &PodState,
        client: ClientAddr,
        orig_dst: OrigDst,
        generation: u64,
    ) -> Self {
        let own = Ok(pod.pod.workload.clone());
        let principal = Some(pod.pod.spiffe_id.clone());
        let inbound = pod.pod.workload.ips.contains(orig_dst.ip());
        let mut opening = Opening {
            id: local.connection_id(),
            direction: Direction::Inbound,
            client,
            orig_dst,
            upstream: None,
            source: Err(UnknownPeer),
            destination: Err(UnknownPeer),
            service: None,
            source_principal: None,
            destination_principal: None,
            security: Security::Unknown,
            tls: None,
            peer_certificate: None,
            rule: None,
            denied_by: None,
            started: SystemTime::now(),
            generation,
        };
        if inbound {
            opening.destination = own;
            opening.destination_principal = principal;
        } else {
            opening.direction = Direction::Outbound;
            opening.source = own;
            opening.source_principal = principal;
        }
        Self {
            local,
            opening,
            started: Instant::now(),
            connect_time: None,
            open: None,
        }
    }

    /// Both agents have proved who they are: only now is it mutual TLS.
    pub(super) fn secured(&mut self, tls: TlsParameters, peer: &PeerId) {
        self.opening.security = Security::MutualTls;
        self.opening.tls = Some(tls);
        self.opening.peer_certificate = Some(peer.certificate());
    }

    /// What a peer showed in a handshake that failed: a claim.
    pub(super) fn shown(&mut self, certificate: Option<Arc<PeerCertificate>>) {
        if certificate.is_some() {
            self.opening.peer_certificate = certificate;
        }
    }

    /// The upstream has taken the connection. Gives where its bytes are to be shown.
    pub(super) fn opened(&mut self) -> Arc<ByteMeter> {
        self.connect_time = Some(self.started.elapsed());
        let open = self.local.observe.opened(&self.opening);
        self.open.insert(open).meter()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Totals so far, of a connection that lives longer.
    pub(super) fn progress(&self, bytes: ByteCounts) {
        if let Some(open) = &self.open {
            open.progress(bytes);
        }
    }

    pub(super) fn refused(self, reason: RefuseReason) {
        self.ended(ByteCounts::default(), CloseReason::Refused(reason));
    }

    pub(super) fn ended(mut self, bytes: ByteCounts, reason: CloseReason) {
        let open = self.open.take();
        let outcome = Outcome {
            opening: self.opening,
            bytes,
            connect_time: self.connect_time,
            duration: self.started.elapsed(),
            reason,
        };
        match open {
            Some(open) => open.closed(&outcome),
            None => self.local.observe.refused(&outcome),
        }
    }
}
