//! A request that goes once more: what was sent of it, and what is still to come.

use super::{Edits, Fail, Held, Hold, Kept, Planned, Scan, Side, Transfer};
use crate::io;
use crate::proxy::http::inbox::Inbox;
use crate::proxy::http::kept::{MAX_KEPT, MAX_REPLAYED};

impl Transfer {
    /// Another upstream may have all of the request that was sent: only where this one said
    /// nothing.
    pub(in crate::proxy) fn may_replay(&self, upstream: &Side<'_>) -> bool {
        self.is_waited_for() && upstream.inbox.is_empty() && self.kept.sent().is_some()
    }

    /// All of the request that was sent, for another upstream. What was not sent yet is
    /// still to come.
    pub(in crate::proxy) fn replay(&mut self) -> Option<io::Held> {
        let sent = self.kept.take()?;
        self.begins_anew();
        Some(sent)
    }

    /// What was sent to another upstream goes first.
    pub(in crate::proxy) fn resend(&mut self, sent: io::Held) {
        if self.hold.is_some() {
            // Behind that one it may still go elsewhere.
            self.keeps_anew();
        }
        if let Some(tee) = &mut self.kept.tee {
            tee.rewind(None);
        }
        let len = sent.len();
        self.request.restart(sent, len);
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

    /// What becomes of it may send it elsewhere.
    pub(in crate::proxy) fn may_go_elsewhere(&self) -> bool {
        self.hold.is_some()
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

    /// From now on, or no more, another try of the request runs beside this one.
    pub(in crate::proxy) fn races(&mut self, races: bool) {
        if let Some(hold) = &mut self.hold {
            hold.races = races;
        }
    }

    /// A try beside another one: nothing of its answer is passed on.
    pub(in crate::proxy) fn second(&mut self, hold: Hold) {
        self.hold = Some(Hold {
            races: true,
            is_second: true,
            ..hold
        });
    }

    /// Its answer is the client's, which is on the other side from now on: of the request what
    /// is left in `inbox` goes on, as behind any answer that comes early, and nothing else.
    pub(in crate::proxy) fn wins(&mut self, inbox: &mut Inbox) {
        self.is_stuck |= !self.request.take_along(inbox);
        self.release();
    }

    /// The client gets that answer, whatever another try has.
    pub(in crate::proxy) fn will_do(&self, held: &Held) -> bool {
        self.hold.as_ref().is_none_or(|hold| hold.will_do(held))
    }

    /// What was sent, and how much of that is its head, where that is all of the request,
    /// and another try may run beside this one.
    pub(in crate::proxy) fn whole(&self) -> Option<(&[u8], usize)> {
        let is_whole = self.whole.is_some() && !self.is_stuck && self.request.is_over();
        self.sent().filter(|_| is_whole && self.hold.is_some())
    }

    /// Whatever is held is passed on: the request goes nowhere else.
    pub(in crate::proxy) fn release(&mut self) {
        self.hold = None;
        self.kept.forget();
    }

    /// An upstream that took not even all of its head: for another one it is as if it had. That
    /// one gets no more of it, and no other request.
    pub(in crate::proxy) fn keep_head(&mut self, client: &mut Side<'_>) {
        let sent = self.kept.sent().map(<[u8]>::len);
        let missing = sent.and_then(|sent| self.head_len.checked_sub(sent));
        if let Some(missing) = missing.filter(|_| self.is_waited_for()) {
            self.request.pass(client, &mut self.kept, missing);
            self.is_stuck |= missing > 0;
        }
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
        if self.sent().is_none() {
            return false;
        }
        let Some(sent) = self.kept.take() else {
            return false;
        };
        let (head, body) = sent.split_at(self.head_len);
        let came = original.unwrap_or(head);
        let head = planned.head.as_deref();
        let head = head.unwrap_or(&came[planned.skip.min(came.len())..]);
        let again = io::Held::from([head, body].concat());
        self.head_len = head.len();
        self.request.restart(again, sent.len());
        self.keeps_anew();
        if let Some(tee) = &mut self.kept.tee {
            tee.rewind(Some(self.head_len));
        }
        (self.asked, self.edits) = (planned.asked, edits);
        self.begins_anew();
        true
    }

    /// An upstream that was told that nobody waits closes, and has not failed.
    fn is_waited_for(&self) -> bool {
        self.client_ended.is_none() && !self.has_answered() && self.status.is_none()
    }

    fn keeps_anew(&mut self) {
        let tee = self.kept.tee.take();
        self.kept = Kept::begin(MAX_REPLAYED);
        self.kept.tee = tee;
    }

    fn begins_anew(&mut self) {
        (self.is_stuck, self.was_reset) = (false, false);
        self.upstream_finished = false;
        self.scan = Scan::default();
    }
}
