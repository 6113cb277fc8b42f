//! What is written of a connection's streams and waits for its socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::io::{Reserved, spare};

/// So much may wait for the socket of a connection, whatever is held elsewhere.
const BASE: usize = 64 * 1024;
/// And so much more where there is budget.
const MORE: usize = 4 * 1024 * 1024;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: AtomicUsize,
    shorter: Notify,
}

impl Queue {
    /// To be written next of a stream.
    pub(super) fn piece(self: &Arc<Self>, bytes: Bytes) -> Piece {
        let length = bytes.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        Piece {
            bytes,
            // The first ones are as what a relay holds at least.
            _counted: (before >= BASE).then(|| Reserved::of(length)),
            _waits: Some(Waits {
                in_queue: self.clone(),
                length,
            }),
        }
    }

    pub(super) fn is_long(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes >= BASE && bytes - BASE >= spare(MORE)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// When a piece was written; for one of those who wait.
    pub(super) fn shorter(&self) -> Notified<'_> {
        self.shorter.notified()
    }
}

/// Bytes of a stream, until they are written or thrown away.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Bytes,
    _counted: Option<Reserved>,
    _waits: Option<Waits>,
}

#[derive(Debug)]
struct Waits {
    in_queue: Arc<Queue>,
    length: usize,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let queue = &self.in_queue;
        queue.bytes.fetch_sub(self.length, Ordering::Relaxed);
        // Each takes the place of one; who leaves gives its turn to the next.
        queue.shorter.notify_one();
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
