//! A connection's record: filled stage by stage, told once at its end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::context::Exchange;
use super::load::Load;
use crate::model::traffic::Timeouts;
use crate::model::{
    ByteCounts, ByteMeter, CloseReason, Direction, Flow, Outcome, Refused, Retry, Security,
    TlsParameters, UnknownPeer,
};
use crate::observe;
use crate::tls::PeerId;

/// What is known so far; told as refused when nothing else is.
pub(super) struct Report {
    observe: observe::Recorder,
    /// Shared once it is told; what changes later is a copy's.
    pub(super) flow: Arc<Flow>,
    started: Instant,
    connect_time: Option<Duration>,
    open: Option<observe::OpenConnection>,
    /// Of the endpoint that was picked for the connection.
    load: Option<Load>,
}

impl Exchange {
    pub(super) fn report(&self) -> Report {
        let (context, pod) = (&*self.context, &*self.context.pod);
        let own = Ok(pod.workload.clone());
        let principal = Some(pod.spiffe_id.clone());
        let mut flow = Flow {
            id: context.worker.connection_id(),
            direction: Direction::Inbound,
            client: context.client_addr,
            orig_dst: context.orig_dst,
            upstream: None,
            source: Err(UnknownPeer),
            destination: Err(UnknownPeer),
            service: None,
            source_principal: None,
            destination_principal: None,
            security: Security::Unknown,
            tls: None,
            peer_certificate: None,
            errno: None,
            rule: None,
            denied_by: None,
            started: SystemTime::now(),
            generation: self.in_force.snapshot.generation,
        };
        if context.is_inbound() {
            flow.destination = own;
            flow.destination_principal = principal;
        } else {
            flow.direction = Direction::Outbound;
            flow.source = own;
            flow.source_principal = principal;
        }
        Report {
            observe: context.worker.observe.clone(),
            flow: Arc::new(flow),
            started: Instant::now(),
            connect_time: None,
            open: None,
            load: None,
        }
    }
}

impl Report {
    /// For what is found out.
    pub(super) fn flow(&mut self) -> &mut Flow {
        Arc::make_mut(&mut self.flow)
    }

    /// It is about what has taken time before: its record says how long.
    pub(super) fn began(&mut self, at: Instant) {
        self.started = at;
        self.flow().started = SystemTime::now() - at.elapsed();
    }

    /// Both agents have proved who they are: only now is it mutual TLS.
    pub(super) fn secured(&mut self, tls: TlsParameters, peer: &PeerId) {
        secured(self.flow(), tls, peer);
    }

    /// The connection's record names the target of its first exchange, and how that is secured.
    pub(super) fn takes_from(&mut self, of: &Arc<Flow>) {
        if is_of_same(&self.flow, of) {
            // Most connections have one record for both.
            self.flow = of.clone();
            return;
        }
        let flow = self.flow();
        flow.upstream = of.upstream;
        flow.service.clone_from(&of.service);
        flow.destination.clone_from(&of.destination);
        flow.destination_principal
            .clone_from(&of.destination_principal);
        flow.direction = of.direction;
        flow.security = of.security;
        flow.tls = of.tls;
        flow.peer_certificate.clone_from(&of.peer_certificate);
    }

    /// Keeps what is known of the cause.
    pub(super) fn blame(&mut self, refused: &Refused) {
        let flow = self.flow();
        flow.errno = refused.errno;
        if refused.shown.is_some() {
            flow.peer_certificate = refused.shown.clone();
        }
    }

    /// It goes to an endpoint that was picked for it; `None`: not it, or not any more.
    pub(super) fn goes_to(&mut self, load: Option<Load>) {
        let before = self.load.take();
        self.load = load.map(|load| load.behind(before));
    }

    /// Of the Service that it goes to.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.load.as_ref().map(Load::timeouts).unwrap_or_default()
    }

    /// What it tried has failed: may another endpoint help?
    pub(super) fn may_help_elsewhere(&mut self, refused: &Refused) -> bool {
        let elsewhere = refused.reason.refusal().retry == Retry::Elsewhere;
        let Some(load) = &mut self.load else {
            return false;
        };
        load.refused(refused.reason, &self.flow);
        elsewhere && self.open.is_none()
    }

    /// Somebody waits for what the connection shows of its endpoint.
    pub(super) fn is_probe(&self) -> bool {
        self.load.as_ref().is_some_and(Load::is_probe)
    }

    /// What the connection says of its endpoint is not known.
    pub(super) fn waits_for_endpoint(&self) -> bool {
        self.load.as_ref().is_some_and(|load| !load.is_told())
    }

    /// The upstream has taken the connection. Gives where its bytes are to be shown.
    pub(super) fn opened(&mut self) -> Arc<ByteMeter> {
        self.connect_time = Some(self.started.elapsed());
        if let Some(load) = &mut self.load {
            load.took(Instant::now());
        }
        let open = self.observe.opened(self.flow.clone());
        self.open.insert(open).meter()
    }

    /// Where the bytes of one that is open are shown.
    pub(super) fn meter(&self) -> Option<Arc<ByteMeter>> {
        self.open.as_ref().map(observe::OpenConnection::meter)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// So much has passed: whose endpoint has answered works.
    pub(super) fn carries(&mut self, bytes: ByteCounts) {
        if let Some(load) = &mut self.load {
            load.carries(bytes, &self.flow);
        }
    }

    /// The upstream resets what its client had ended: it may do so for that, and a server that
    /// closes over what it has not read does. What that says of its endpoint others show.
    pub(super) fn reset_behind_end(&mut self, bytes: ByteCounts) {
        if let Some(load) = &mut self.load {
            load.reset_behind_end(bytes, &self.flow);
        }
    }

    /// Totals so far, of a connection that lives longer.
    pub(super) fn progress(&mut self, bytes: ByteCounts) {
        self.carries(bytes);
        if let Some(open) = &self.open {
            open.progress(bytes);
        }
    }

    pub(super) fn refused(mut self, refused: impl Into<Refused>) {
        let refused = refused.into();
        self.blame(&refused);
        self.ended(ByteCounts::default(), CloseReason::Refused(refused.reason));
    }

    pub(super) fn ended(mut self, bytes: ByteCounts, reason: CloseReason) {
        let open = self.open.take();
        if let Some(load) = &mut self.load {
            load.closed(bytes, reason, &self.flow);
        }
        let outcome = Outcome {
            flow: self.flow,
            bytes,
            connect_time: self.connect_time,
            duration: self.started.elapsed(),
            reason,
        };
        match open {
            Some(open) => open.closed(&outcome),
            None => self.observe.refused(&outcome),
        }
    }
}

/// What an exchange does not say of its connection is the same in both: its record was made
/// of that connection's.
fn is_of_same(connection: &Flow, exchange: &Flow) -> bool {
    let of = |flow: &Flow| (flow.id, flow.generation, flow.errno);
    of(connection) == of(exchange)
        && connection.rule == exchange.rule
        && connection.denied_by == exchange.denied_by
}

/// Both agents have proved who they are.
pub(super) fn secured(flow: &mut Flow, tls: TlsParameters, peer: &PeerId) {
    flow.security = Security::MutualTls;
    flow.tls = Some(tls);
    flow.peer_certificate = Some(peer.certificate());
}
