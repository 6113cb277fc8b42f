//! What was sent of a request, kept for sending it once more, within what may be held.

use super::tee::Tee;
use crate::io::{Held, spare};

/// Of a request, for sending it once more on another connection.
pub(super) const MAX_KEPT: usize = 16 * 1024;
/// And where its route asks for retries.
pub(super) const MAX_REPLAYED: usize = 64 * 1024;

/// The begin of a request.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Held,
    /// All that was sent is there.
    is_whole: bool,
    /// A request that has more is not sent twice.
    most: usize,
    /// Copies of the request are wanted.
    pub(super) tee: Option<Tee>,
}

impl Kept {
    pub(super) fn begin(most: usize) -> Self {
        Self {
            is_whole: true,
            most,
            ..Self::default()
        }
    }

    /// The first `count` bytes of `parts` were taken.
    pub(super) fn note(&mut self, parts: &[&[u8]], mut count: usize) {
        if let Some(tee) = &mut self.tee {
            tee.note(parts, count);
        }
        if !self.is_whole {
            return;
        }
        if self.bytes.len() + count > spare(self.most) {
            return self.forget();
        }
        for part in parts {
            let n = count.min(part.len());
            self.bytes.extend(&part[..n]);
            count -= n;
        }
    }

    /// It is sent no more.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
        self.is_whole = false;
    }

    /// All that was sent; `None` where that is not known any more.
    pub(super) fn sent(&self) -> Option<&[u8]> {
        self.is_whole.then_some(&*self.bytes)
    }

    /// The same, and what is sent from now on is not kept.
    pub(super) fn take(&mut self) -> Option<Held> {
        let bytes = std::mem::take(&mut self.bytes);
        std::mem::take(&mut self.is_whole).then_some(bytes)
    }
}
