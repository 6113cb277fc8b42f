//! A request that goes once more behind an answer that nobody has got, for its route asks
//! for it, or no application has seen it.

use std::time::Instant;

use super::site::{RequestDecision, Site};
use super::view::View;
use crate::http::h2::{Head, HeadLines, request};
use crate::proxy::http::{Held, Tries, Waited, is_safe};

/// What was tried of a request.
pub(super) struct Retries<'r, K> {
    /// Its head.
    pub(super) parts: &'r request::Parts,
    pub(super) tries: Tries,
    /// Where it goes now, which the budget allows.
    pub(super) next: Option<Next<K>>,
}

/// It was decided on behind the wait for it.
pub(super) struct Next<K>(pub(super) RequestDecision<K>);

impl<K> Retries<'_, K> {
    /// Whether it goes once more; else it is to have the answer. `ends`: when all of it has
    /// to be over.
    pub(super) async fn wait<S: Site<Kind = K>>(
        &mut self,
        site: &S,
        view: &View,
        (held, ends): (Held, Option<Instant>),
    ) -> bool {
        if let Some(at) = view.take_rivals() {
            self.tries.attempt.was_tried_beside(at);
        }
        let context = site.context();
        let random = |limit| context.worker.dice.below(limit);
        let mut next = Some(self.tries.first(held));
        while let Some(to) = next {
            let leave = || site.leave(&self.tries.attempt);
            let by = (random, leave, &context.entry().cut);
            // Whoever runs the exchange watches for a cut as well.
            let waited = self.tries.wait((held, to), ends, by).await;
            let Ok(Some(waited)) = waited else {
                return false;
            };
            if !view.is_kept() {
                return false;
            }
            self.next = self.decided(site, waited);
            if self.next.is_some() {
                self.tries.count += 1;
                return true;
            }
            next = self.tries.next(to);
        }
        false
    }

    /// The time of one try is over; `is_sent`: its server may have seen it.
    pub(super) fn late(&self, is_sent: bool) -> Option<Held> {
        let may_be_seen_twice = !is_sent || is_safe(self.parts.method.as_str());
        self.tries.late(may_be_seen_twice)
    }

    fn decided<S: Site<Kind = K>>(&mut self, site: &S, waited: Waited) -> Option<Next<K>> {
        let (mut lines, attempt) = (HeadLines::default(), &mut self.tries.attempt);
        let head = Head::of(self.parts, &mut lines).ok()?.head;
        let mut decided = site.decide(&head, self.parts, attempt);
        // Copies were sent with the first.
        decided.forward.as_mut().ok()?.copies = None;
        let load = decided.load.as_ref()?;
        let may = site.may_again(load, waited, attempt);
        may.then_some(Next(decided))
    }
}
