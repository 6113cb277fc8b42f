//! What the exchanges of a client connection have in common.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::model::{Flow, Refused};
use crate::proxy::report::Report;
use crate::proxy::request_report::Base;

/// Its exchanges tell it what the connection is to be told.
pub(in crate::proxy) struct ClientConnection {
    base: RefCell<Base>,
    is_open: Cell<bool>,
    /// Whom the first one goes to.
    described: RefCell<Option<Arc<Flow>>>,
    failed: RefCell<Option<Refused>>,
    news: Notify,
}

impl ClientConnection {
    /// `describe`: of a request that goes nowhere else.
    pub(in crate::proxy) fn new(report: &Report, describe: impl FnOnce(&mut Flow)) -> Self {
        Self {
            base: RefCell::new(Base::new(report, describe)),
            is_open: Cell::new(report.is_open()),
            described: RefCell::new(None),
            failed: RefCell::new(None),
            news: Notify::new(),
        }
    }

    /// Who talks to whom, of a request that goes nowhere else.
    pub(in crate::proxy) fn base(&self, generation: Option<u64>) -> Arc<Flow> {
        self.base.borrow_mut().at(generation)
    }

    /// No exchange has got anywhere.
    pub(super) fn is_fresh(&self) -> bool {
        !self.is_open.get()
    }

    /// An exchange has got somewhere, or is answered.
    pub(super) fn describe(&self, flow: &Arc<Flow>) {
        if !self.is_open.replace(true) {
            self.described.replace(Some(flow.clone()));
            self.news.notify_one();
        }
    }

    /// The connection is to end, for this reason.
    pub(super) fn fail(&self, refused: Refused) {
        self.failed.replace(Some(refused));
        self.news.notify_one();
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn take_failed(&self) -> Option<Refused> {
        self.failed.take()
    }

    /// Tells the report, once.
    pub(super) fn tell(&self, report: &mut Report) {
        let Some(of) = self.described.take() else {
            return;
        };
        if report.is_open() {
            return;
        }
        report.takes_from(&of);
        let _shown_later = report.opened();
    }
}
