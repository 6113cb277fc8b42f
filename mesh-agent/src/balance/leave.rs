//! Leave to try a request or a connection once more, which the budget of its
//! destination gives.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::in_flight::{Here, InFlight};

/// It counts as a retry from when it was asked for; given back where there is none.
#[derive(Debug)]
pub(crate) struct Leave {
    /// `None`: it goes.
    of: Option<(Rc<Here>, Instant)>,
}

impl Leave {
    pub(super) fn of(here: &Rc<Here>, now: Instant) -> Option<Self> {
        let may = here
            .destination
            .budget
            .retry(&here.traffic.retry_budget, now);
        may.then(|| Self {
            of: Some((here.clone(), now)),
        })
    }

    /// It goes: false where that is to another destination, whose budget was not asked.
    pub(crate) fn goes_to(mut self, load: &InFlight) -> bool {
        let to = load.destination();
        self.of
            .take_if(|(here, _)| std::ptr::eq(Arc::as_ptr(&here.destination), to))
            .is_some()
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some((here, then)) = self.of.take() {
            let of = &here.traffic.retry_budget;
            here.destination.budget.give_back(of, then);
        }
    }
}
