//! One identity's certificate, as connections see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::model::SpiffeId;
use crate::tls::Credentials;

/// Why a connection gets no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("this agent has no source of certificates")]
    NoSource,
    #[error("the identity is not one of this node's pods")]
    NotWanted,
    #[error("no valid certificate in time: {0}")]
    Unavailable(Arc<str>),
}

/// Why the last fetch gave none.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) message: Arc<str>,
    /// What an operator can do.
    pub(super) remedy: String,
}

/// The current certificate of one identity. Kept by a pod; without a lock on
/// the way of a connection.
#[derive(Debug)]
pub(crate) struct Handle {
    id: SpiffeId,
    current: ArcSwapOption<Credentials>,
    waiting: AtomicUsize,
    last_failure: Mutex<Failure>,
    /// Changes with each new certificate; the value says whether it can come.
    changed: watch::Sender<Option<IdentityError>>,
    wake: Arc<Notify>,
}

impl Handle {
    pub(super) fn new(id: SpiffeId, wake: Arc<Notify>, ended: Option<IdentityError>) -> Self {
        Self {
            id,
            current: ArcSwapOption::empty(),
            waiting: AtomicUsize::new(0),
            last_failure: Mutex::new(Failure {
                message: "it has not been fetched yet".into(),
                remedy: String::new(),
            }),
            changed: watch::Sender::new(ended),
            wake,
        }
    }

    /// One whose certificate is there.
    #[cfg(test)]
    pub(crate) fn holding(id: SpiffeId, credentials: Arc<Credentials>) -> Arc<Self> {
        let handle = Self::new(id, Arc::default(), None);
        handle.replace(Some(credentials));
        Arc::new(handle)
    }

    #[must_use]
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// None when there is none or it has expired.
    #[must_use]
    pub(crate) fn current(&self) -> Option<Arc<Credentials>> {
        self.current
            .load_full()
            .filter(|c| SystemTime::now() < c.not_after())
    }

    /// Waits for a certificate; this identity is then fetched before others.
    pub(crate) async fn wait(&self, deadline: Instant) -> Result<Arc<Credentials>, IdentityError> {
        if let Some(credentials) = self.current() {
            return Ok(credentials);
        }
        let _waiting = Waiting::new(&self.waiting);
        let mut changed = self.changed.subscribe();
        self.wake.notify_one();
        loop {
            if let Some(ended) = changed.borrow_and_update().clone() {
                return Err(ended);
            }
            if let Some(credentials) = self.current() {
                return Ok(credentials);
            }
            let change = tokio::time::timeout_at(deadline, changed.changed()).await;
            if !matches!(change, Ok(Ok(()))) {
                return Err(IdentityError::Unavailable(self.last_failure().message));
            }
        }
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Also an expired one.
    pub(super) fn held(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    pub(super) fn replace(&self, credentials: Option<Arc<Credentials>>) {
        if credentials.is_some() {
            // Until a fetch fails, nothing else can take it away.
            self.failed(Failure {
                message: "it has expired, and its source gives no newer one".into(),
                remedy: String::new(),
            });
        }
        self.current.store(credentials);
        self.changed.send_modify(|_| ());
    }

    pub(super) fn failed(&self, failure: Failure) {
        *self.last_failure.lock() = failure;
    }

    pub(super) fn last_failure(&self) -> Failure {
        self.last_failure.lock().clone()
    }

    /// The last pod of the identity left.
    pub(super) fn close(&self) {
        self.current.store(None);
        self.changed.send_replace(Some(IdentityError::NotWanted));
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
