//! A connection's record: filled stage by stage, told once at its end.

use std::time::{Duration, Instant, SystemTime};

use super::worker::{Local, PodState};
use crate::model::{
    ByteCounts, ClientAddr, CloseReason, Direction, Opening, OrigDst, Outcome, RefuseReason,
    Security, UnknownPeer,
};

/// What is known so far; told as refused when nothing else is.
pub(super) struct Report<'l> {
    local: &'l Local,
    pub(super) opening: Opening,
    started: Instant,
    connect_time: Option<Duration>,
    open: bool,
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
            open: false,
        }
    }

    /// The upstream answered.
    pub(super) fn opened(&mut self) {
        self.connect_time = Some(self.started.elapsed());
        self.open = true;
        self.local.observe.opened(&self.opening);
    }

    pub(super) fn progress(&self, _bytes: ByteCounts) {}

    pub(super) fn refused(self, reason: RefuseReason) {
        self.ended(ByteCounts::default(), CloseReason::Refused(reason));
    }

    pub(super) fn ended(self, bytes: ByteCounts, reason: CloseReason) {
        let outcome = Outcome {
            opening: self.opening,
            bytes,
            connect_time: self.connect_time,
            duration: self.started.elapsed(),
            reason,
        };
        self.local.observe.closed(&outcome);
    }
}
