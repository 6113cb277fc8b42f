//! One object: how it is given, and what came of it.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::twice::Given;
use crate::discovery::kinds::Parts;
use crate::discovery::objects::Object;
use crate::model::{Name, Workload};

/// An object as it is given, and what was made of it.
#[derive(Debug, Default)]
pub(super) struct ObjectEntry {
    /// Those that count come first.
    pub(super) given: SmallVec<[Given; 1]>,
    /// The version that the indexes stand for; `None` before the first commit.
    pub(super) effective: Option<Arc<Object>>,
    pub(super) made: Made,
    odd: Option<Box<Odd>>,
}

/// What few objects have.
#[derive(Debug, Default)]
struct Odd {
    /// It is given twice, and differently.
    doubtful: bool,
    /// What two versions say differently of it.
    contradicted: Parts,
    /// Addresses that it claims and does not get.
    left_out: Vec<IpAddr>,
}

impl ObjectEntry {
    pub(super) fn is_doubtful(&self) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.doubtful)
    }

    pub(super) fn contradicted(&self) -> Parts {
        let odd = self.odd.as_ref();
        odd.map(|odd| odd.contradicted).unwrap_or_default()
    }

    /// What several versions of it come to.
    pub(super) fn resolve(&mut self, doubtful: bool, contradicted: Parts) {
        self.change(|odd| {
            odd.doubtful = doubtful;
            odd.contradicted = contradicted;
        });
    }

    /// Gives what it left out before.
    pub(super) fn leave_out(&mut self, now: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut before = Vec::new();
        self.change(|odd| before = std::mem::replace(&mut odd.left_out, now));
        before
    }

    fn change(&mut self, change: impl FnOnce(&mut Odd)) {
        let mut odd = self.odd.take().unwrap_or_default();
        change(&mut odd);
        let is_odd = odd.doubtful || !odd.contradicted.is_empty() || !odd.left_out.is_empty();
        self.odd = is_odd.then_some(odd);
    }
}

/// What a pod comes to, before contested addresses are taken from it.
#[derive(Debug, Default)]
pub(super) enum Made {
    #[default]
    Nothing,
    /// It has the addresses of its node: which, where it is to be enrolled.
    OnHost(Option<Name>),
    Pod(Arc<Workload>),
}
