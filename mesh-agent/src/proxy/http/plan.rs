//! What is kept of a request's head when its bytes go on.

use crate::http::h1::{
    Asked, Bad, Framing, InvalidEdit, Lines, Parsed, Request, Scan, request_head,
};
use crate::http::hygiene;
use crate::model::{Edits, RequestHead};

/// A request that may go.
#[derive(Debug)]
pub(in crate::proxy) struct Planned {
    pub(super) asked: Asked,
    /// Written anew, where something changes.
    pub(super) head: Option<Vec<u8>>,
    /// Of the inbox, not passed on.
    pub(super) skip: usize,
    /// Of the inbox, passed on as it came.
    pub(super) checked: usize,
    pub(super) framing: Framing,
    /// The client speaks gRPC.
    pub(super) is_grpc: bool,
}

impl Planned {
    /// `bytes`: the head as it came; `more`: what is to change beside what always does.
    pub(in crate::proxy) fn of(
        request: &Request<'_>,
        bytes: &[u8],
        more: Option<&Edits>,
    ) -> Result<Self, InvalidEdit> {
        let mut planned = Self {
            asked: request.asked(),
            head: None,
            skip: request.start,
            checked: bytes.len() - request.start,
            framing: request.framing,
            is_grpc: false,
        };
        if let Some(head) = hygiene::rewritten(request, bytes, more)? {
            planned.head = Some(head);
            (planned.skip, planned.checked) = (bytes.len(), 0);
        }
        Ok(planned)
    }

    /// What `judge` says of the head that goes on, which is not always the one that came.
    pub(in crate::proxy) fn judged<T>(
        &self,
        came: &RequestHead<'_>,
        judge: impl FnOnce(&RequestHead<'_>) -> T,
    ) -> Result<T, Bad> {
        let Some(head) = &self.head else {
            return Ok(judge(came));
        };
        let mut lines = Lines::new();
        match request_head(head, &mut Scan::default(), &mut lines)? {
            Parsed::Head { head, .. } => Ok(judge(&head.head)),
            Parsed::NeedMore => Err(Bad::TooLong),
        }
    }

    /// It is known to be no longer than so many bytes, behind its head, and to be followed by
    /// no other protocol.
    pub(in crate::proxy) fn is_small(&self, most: u64) -> bool {
        let is_short = match self.framing {
            Framing::None => true,
            Framing::Length(bytes) => bytes <= most,
            Framing::Chunked | Framing::UntilClose | Framing::Tunnel => false,
        };
        is_short && !self.asked.may_become_another()
    }

    /// Its head goes on as another.
    pub(in crate::proxy) fn is_rewritten(&self) -> bool {
        self.head.is_some()
    }

    /// Does the client speak it? Its status is looked for then.
    pub(in crate::proxy) fn of_grpc(self, is_grpc: bool) -> Self {
        Self { is_grpc, ..self }
    }
}
