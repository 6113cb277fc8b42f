//! How much may be there at once.

use std::sync::atomic::{AtomicU32, Ordering};

/// Of one destination, for all workers of the node.
#[derive(Debug, Default)]
pub(crate) struct Cap(AtomicU32);

impl Cap {
    /// One more; false where that is more than there may be. It counts until it leaves
    /// in either case: so never more than may be are there that were told they may.
    #[must_use]
    pub(crate) fn enter(&self, most: u32) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < most
    }

    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_may_be_whoever_asks() {
        let (cap, inside) = (Cap::default(), AtomicU32::new(0));
        let asking = || {
            for _ in 0..10_000 {
                if cap.enter(3) {
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                    std::hint::spin_loop();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
                cap.leave();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(asking);
            }
        });
        assert_eq!(cap.count(), 0);
        assert_eq!([(); 3].map(|()| cap.enter(2)), [true, true, false]);
        cap.leave();
        cap.leave();
        assert!(cap.enter(2));
    }
}
