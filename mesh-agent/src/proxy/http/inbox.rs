//! What was read of a connection and belongs to nobody yet.

use std::time::Instant;

use crate::io::Held;

/// Without memory when empty.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Inbox {
    bytes: Held,
    /// Before here it was used.
    at: usize,
    /// When the first byte of the request was seen that is looked for.
    began: Option<Instant>,
}

impl Inbox {
    pub(in crate::proxy) fn bytes(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Another request is looked for.
    pub(super) fn begin(&mut self) {
        self.began = None;
        self.seen();
    }

    pub(super) fn seen(&mut self) {
        if !self.is_empty() {
            self.began.get_or_insert_with(Instant::now);
        }
    }

    /// When the first byte of the request was seen.
    pub(in crate::proxy) fn began(&self) -> Instant {
        self.began.unwrap_or_else(Instant::now)
    }

    pub(in crate::proxy) fn extend(&mut self, more: &[u8]) {
        if more.is_empty() {
            return;
        }
        if self.at > 0 {
            self.bytes = Held::copied(&self.bytes[self.at..]);
            self.at = 0;
        }
        self.bytes.reserve_exact(more.len());
        self.bytes.extend(more);
    }

    /// The first `count` bytes are used.
    pub(in crate::proxy) fn consume(&mut self, count: usize) {
        self.at += count;
        if self.at >= self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_not_kept() {
        let mut inbox = Inbox::default();
        inbox.extend(b"one two");
        inbox.consume(4);
        assert_eq!(inbox.bytes(), b"two");
        inbox.extend(b" three");
        assert_eq!(inbox.bytes(), b"two three");
        inbox.consume(9);
        assert!(inbox.is_empty());
        inbox.extend(b"");
        assert_eq!(inbox.bytes(), b"");
    }
}
