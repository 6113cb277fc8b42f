//! A descriptor that is given up to refuse connections when there is no other.

use std::cell::RefCell;
use std::fs::File;

use socket2::SockRef;
use tokio::net::TcpListener;

use crate::sys::socket;

/// Connections that are refused in one go.
const MOST: usize = 64;

/// One for each worker.
#[derive(Debug)]
pub(super) struct Spare(RefCell<Option<File>>);

impl Spare {
    pub(super) fn new() -> Self {
        Self(RefCell::new(open()))
    }

    /// Resets connections that wait to be accepted; how many.
    pub(super) fn shed(&self, listener: &TcpListener) -> usize {
        // Another thread may take its place: then nothing is shed now.
        drop(self.0.take());
        let mut shed = 0;
        while shed < MOST
            && let Ok((client, _)) = SockRef::from(listener).accept()
        {
            socket::reset_on_close(&client);
            shed += 1;
        }
        self.0.replace(open());
        shed
    }
}

/// `None` where there is no descriptor left for it.
fn open() -> Option<File> {
    File::open("/dev/null").ok()
}
