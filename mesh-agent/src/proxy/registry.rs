//! The worker's live connections: who may cut them, and why.
//!
//! A connection is registered before its policy check, so that a change in
//! between is not missed; the guard takes it out again, whatever ends it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::model::{CloseReason, RefuseReason, Refused, TlsFailure};
use crate::peer::PeerSession;
use crate::plan::AuthzInput;

/// Why a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutReason {
    PodRemoved,
    DrainDeadline,
    PolicyChanged,
    Revoked,
    CertificateExpired,
    PeerCertificateExpired,
    /// It had not shown who its client is when too many others came.
    Displaced,
}

impl CutReason {
    /// For a connection that was being carried.
    pub(super) fn close(self) -> CloseReason {
        match self {
            Self::PodRemoved => CloseReason::PodRemoved,
            Self::DrainDeadline => CloseReason::DrainDeadline,
            Self::PolicyChanged => CloseReason::PolicyChanged,
            Self::Revoked => CloseReason::Revoked,
            Self::CertificateExpired => CloseReason::CertificateExpired,
            Self::PeerCertificateExpired => CloseReason::PeerCertificateExpired,
            Self::Displaced => CloseReason::Refused(RefuseReason::Displaced),
        }
    }

    /// The other agent is still who it was, and may be told what it has to know.
    pub(super) fn may_be_told(self) -> bool {
        match self {
            Self::PodRemoved | Self::DrainDeadline | Self::PolicyChanged | Self::Displaced => true,
            Self::Revoked | Self::CertificateExpired | Self::PeerCertificateExpired => false,
        }
    }

    /// For one that had not reached its upstream.
    pub(super) fn refuse(self) -> Refused {
        self.refuse_reason().into()
    }

    pub(super) fn refuse_reason(self) -> RefuseReason {
        match self {
            Self::PodRemoved => RefuseReason::PodRemoved,
            Self::DrainDeadline => RefuseReason::Draining,
            Self::PolicyChanged => RefuseReason::Denied,
            Self::Revoked => RefuseReason::Tls(TlsFailure::Revoked),
            Self::CertificateExpired => RefuseReason::NoCertificate,
            Self::PeerCertificateExpired => RefuseReason::Tls(TlsFailure::Expired),
            Self::Displaced => RefuseReason::Displaced,
        }
    }
}

/// Told once; whatever waits for it ends.
#[derive(Debug, Default)]
pub(super) struct Cut {
    reason: Cell<Option<CutReason>>,
    notify: Notify,
}

impl Cut {
    pub(super) fn now(&self, reason: CutReason) {
        if self.reason.get().is_none() {
            self.reason.set(Some(reason));
            self.notify.notify_waiters();
        }
    }

    pub(super) fn is_told(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Cancel-safe: a reason that was told stays.
    pub(super) async fn wait(&self) -> CutReason {
        loop {
            if let Some(reason) = self.reason.get() {
                return reason;
            }
            self.notify.notified().await;
        }
    }
}

/// One live connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionEntry {
    netns: u64,
    pub(super) cut: Cut,
    /// What it was allowed by, each with its number.
    checks: RefCell<Vec<Check>>,
    next_check: Cell<u32>,
    /// Of a connection between agents. On the heap: those of plaintext have none.
    session: RefCell<Option<Box<PeerSession>>>,
    /// Such a one has carried a stream that was permitted.
    pub(super) had_stream: Cell<bool>,
}

#[derive(Debug)]
struct Check {
    number: u32,
    asked: AuthzInput,
    /// What ends instead of the connection: one exchange of many.
    alone: Option<Rc<Cut>>,
}

impl ConnectionEntry {
    pub(super) fn set_session(&self, session: PeerSession) {
        self.session.replace(Some(Box::new(session)));
    }
}

/// A check that is made again whenever the configuration changes, as long as this
/// lives: where it fails, the connection is cut. A connection may have several.
#[derive(Debug)]
pub(super) struct Watched {
    entry: Rc<ConnectionEntry>,
    number: u32,
}

impl Watched {
    pub(super) fn begin(entry: &Rc<ConnectionEntry>, check: AuthzInput) -> Self {
        let number = entry.next_check.get();
        entry.next_check.set(number.wrapping_add(1));
        let mut checks = entry.checks.borrow_mut();
        // Most have one, and a list grows by four.
        checks.reserve_exact(1);
        checks.push(Check {
            number,
            asked: check,
            alone: None,
        });
        drop(checks);
        Self {
            entry: entry.clone(),
            number,
        }
    }

    /// From now on only what waits for this cut ends where the check fails.
    pub(super) fn alone(&self) -> Rc<Cut> {
        let cut = Rc::<Cut>::default();
        let mut checks = self.entry.checks.borrow_mut();
        let mut own = checks
            .iter_mut()
            .filter(|check| check.number == self.number);
        if let Some(check) = own.next() {
            check.alone = Some(cut.clone());
        }
        cut
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut checks = self.entry.checks.borrow_mut();
        checks.retain(|check| check.number != self.number);
    }
}

/// All of a worker.
#[derive(Debug, Default)]
pub(super) struct ConnectionRegistry {
    entries: RefCell<HashMap<u64, Rc<ConnectionEntry>, foldhash::fast::RandomState>>,
}

/// Takes the connection out when it ends.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Rc<ConnectionRegistry>,
    id: u64,
    pub(super) entry: Rc<ConnectionEntry>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.entries.borrow_mut().remove(&self.id);
    }
}

impl ConnectionRegistry {
    pub(super) fn register(connections: &Rc<Self>, id: u64, netns: u64) -> Registration {
        let entry = Rc::new(ConnectionEntry {
            netns,
            ..ConnectionEntry::default()
        });
        connections.entries.borrow_mut().insert(id, entry.clone());
        Registration {
            connections: connections.clone(),
            id,
            entry,
        }
    }

    /// Cuts so many of those that are not cut yet, at most; gives how many are left.
    pub(super) fn cut_some(&self, most: usize, reason: CutReason) -> usize {
        let entries = self.entries.borrow();
        let mut live = entries.values().filter(|entry| !entry.cut.is_told());
        for entry in live.by_ref().take(most) {
            entry.cut.now(reason);
        }
        live.count()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub(super) fn cut_pod(&self, netns: u64, reason: CutReason) {
        for entry in self.entries.borrow().values() {
            if entry.netns == netns {
                entry.cut.now(reason);
            }
        }
    }

    /// Cuts what the policy that holds now does not allow.
    pub(super) fn recheck(&self, allowed: impl Fn(&AuthzInput) -> bool) {
        for entry in self.entries.borrow().values() {
            let checks = entry.checks.borrow();
            for check in checks.iter().filter(|check| !allowed(&check.asked)) {
                let cut = check.alone.as_deref().unwrap_or(&entry.cut);
                cut.now(CutReason::PolicyChanged);
            }
        }
    }

    /// Cuts the connections between agents that `renewal_action` gives a reason for.
    pub(super) fn recheck_sessions(
        &self,
        mut renewal_action: impl FnMut(&mut PeerSession) -> Option<CutReason>,
    ) {
        for entry in self.entries.borrow().values() {
            let mut session = entry.session.borrow_mut();
            if let Some(reason) = session.as_deref_mut().and_then(&mut renewal_action) {
                entry.cut.now(reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_cut_reaches_its_connections_only_and_the_first_reason_stays() {
        let connections = Rc::new(ConnectionRegistry::default());
        let a = ConnectionRegistry::register(&connections, 1, 10);
        let b = ConnectionRegistry::register(&connections, 2, 20);
        connections.cut_pod(10, CutReason::PodRemoved);
        assert_eq!(connections.cut_some(1, CutReason::DrainDeadline), 0);
        assert_eq!(a.entry.cut.wait().await, CutReason::PodRemoved);
        assert_eq!(b.entry.cut.wait().await, CutReason::DrainDeadline);
        drop((a, b));
        assert!(connections.entries.borrow().is_empty());
    }

    #[test]
    fn a_check_is_made_again_as_long_as_its_guard_lives_and_each_by_itself() {
        let connections = Rc::new(ConnectionRegistry::default());
        let check = |last: u8| {
            let (from, to) = ([10, 0, 0, last].into(), ([10, 0, 0, 9], 80).into());
            let web = Arc::new(crate::model::Workload::for_test("shop", "web"));
            AuthzInput::plaintext(from, web, to)
        };
        let ask = |allows: bool| {
            let asked = Cell::new(0);
            connections.recheck(|_| {
                asked.set(asked.get() + 1);
                allows
            });
            asked.get()
        };
        let one = ConnectionRegistry::register(&connections, 1, 10);
        let first = Watched::begin(&one.entry, check(1));
        let second = Watched::begin(&one.entry, check(2));
        assert_eq!(ask(true), 2);
        drop(first);
        assert_eq!(ask(true), 1, "the other one is still looked at");
        assert!(!one.entry.cut.is_told());
        assert_eq!(ask(false), 1);
        assert!(one.entry.cut.is_told());
        drop(second);
        let many = ConnectionRegistry::register(&connections, 3, 10);
        let third = Watched::begin(&many.entry, check(4));
        let alone = third.alone();
        assert_eq!(ask(false), 1);
        assert!(alone.is_told() && !many.entry.cut.is_told());
        drop(third);
        let other = ConnectionRegistry::register(&connections, 2, 10);
        drop(Watched::begin(&other.entry, check(3)));
        assert_eq!(ask(false), 0);
        assert!(
            !other.entry.cut.is_told(),
            "between streams nothing is judged"
        );
    }
}
