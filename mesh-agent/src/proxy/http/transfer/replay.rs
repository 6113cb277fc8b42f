//! A request that goes once more: what was sent of it, and what is still to come.

use super::{Edits, Fail, Held, Hold, Kept, Planned, Scan, Side, Transfer};
use crate::io;
use crate::proxy::http::kept::{MAX_KEPT, MAX_REPLAYED};

impl Transfer {
    /// All of the request that was sent, for another upstream: only where this one
    /// said nothing. What was not sent yet is still to come.
    pub(in crate::proxy) fn begin_again(&mut self, upstream: &Side<'_>) -> Option<io::Held> {
        if !self.is_waited_for() || !upstream.inbox.is_empty() {
            return None;
        }
        let sent = self.kept.take()?;
        self.begins_anew();
        Some(sent)
    }

    /// What was sent to another upstream goes first.
    pub(in crate::proxy) fn resend(&mut self, sent: io::Held) {
        if let Some(tee) = &mut self.kept.tee {
            tee.begin_again(None);
        }
        self.request.resend(sent);
    }

    /// Which answers are not passed on at once.
    pub(in crate::proxy) fn hold(&mut self, hold: Hold) {
        let most = match hold.codes.is_empty() {
            true => MAX_KEPT,
            false => MAX_REPLAYED,
        };
        self.kept = Kept::begin(most);
        self.hold = Some(hold);
    }

    /// It goes to another upstream than that which it was decided on for.
    pub(in crate::proxy) fn goes_elsewhere(&mut self, is_mesh: bool) {
        if let Some(hold) = &mut self.hold {
            (hold.believes, hold.is_probe) = (is_mesh, false);
        }
    }

    /// What may go elsewhere instead: an answer that is held, or none where the request
    /// may be seen twice.
    pub(in crate::proxy) fn held(&self, fail: Fail) -> Option<Held> {
        match fail {
            Fail::Held(held) => Some(held),
            Fail::Upstream(end) => {
                let may = self.hold.as_ref().is_some_and(|hold| hold.is_safe);
                may.then(|| Held::closed(end))?
            }
            Fail::Client(_) | Fail::Request(_) | Fail::Answer(_) | Fail::Edit => None,
        }
    }

    /// Whatever is held is passed on: the request goes nowhere else.
    pub(in crate::proxy) fn release(&mut self) {
        self.hold = None;
        self.kept.forget();
    }

    /// What was sent so far, whose answer is held or will not come, and how much of that
    /// is its head; `None`: it can be sent no more.
    pub(in crate::proxy) fn sent(&self) -> Option<(&[u8], usize)> {
        if !self.is_waited_for() {
            return None;
        }
        let sent = self.kept.sent()?;
        (sent.len() >= self.head_len).then_some((sent, self.head_len))
    }

    /// From its begin, with another head, for another upstream; `original`: the head that
    /// came, where it went on as another. False: what was sent is not known any more.
    pub(in crate::proxy) fn restart(
        &mut self,
        (planned, edits): (Planned, Edits),
        original: Option<&[u8]>,
    ) -> bool {
        let Some(sent) = self.kept.take() else {
            return false;
        };
        let (head, body) = sent.split_at(self.head_len.min(sent.len()));
        let came = original.unwrap_or(head);
        let head = planned.head.as_deref();
        let head = head.unwrap_or(&came[planned.skip.min(came.len())..]);
        let again = io::Held::from([head, body].concat());
        self.head_len = head.len();
        self.request.restart(again, sent.len());
        let mut tee = self.kept.tee.take();
        if let Some(tee) = &mut tee {
            tee.begin_again(Some(self.head_len));
        }
        self.kept = Kept::begin(MAX_REPLAYED);
        self.kept.tee = tee;
        (self.asked, self.edits) = (planned.asked, edits);
        self.begins_anew();
        true
    }

    /// An upstream that was told that nobody waits closes, and has not failed.
    fn is_waited_for(&self) -> bool {
        !self.client_ended && !self.has_answered() && self.status.is_none()
    }

    fn begins_anew(&mut self) {
        (self.is_stuck, self.upstream_finished) = (false, false);
        self.scan = Scan::default();
    }
}
