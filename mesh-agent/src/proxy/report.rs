//! A connection's record: filled stage by stage, told once at its end.

use std::time::{Duration, Instant, SystemTime};

use super::worker::{Local, PodState};
use crate::model::{
    ByteCounts, ClientAddr, CloseReason, Direction, Opening, OrigDst, Outcome, RefuseReason,
    Security, UnknownPeer,
};
use crate::observe;

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
            id: local.next_id(),
            direction: Direction::Inbound,
            client,
            orig_dst,
            upstream: None,
            source: Err(UnknownPeer),
            destination: Err(UnknownPeer),
            service: None,
            source_principal: None,
            destination_principal: None,
            security: Security::None,
            tls: None,
            rule: None,
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

    /// The upstream answered.
    pub(super) fn opened(&mut self) {
        self.connect_time = Some(self.started.elapsed());
        self.open = Some(self.local.observe.opened(&self.opening));
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
