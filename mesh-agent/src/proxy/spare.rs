//! A descriptor that is given up to refuse connections when there is no other.

use std::cell::RefCell;

use socket2::SockRef;
use tokio::net::TcpListener;

use crate::io::SpareFile;
use crate::sys::socket;

/// Connections that are refused in one go.
const MOST: usize = 64;

/// One for each worker.
#[derive(Debug)]
pub(super) struct Spare(RefCell<SpareFile>);

impl Spare {
    pub(super) fn new() -> Self {
        Self(RefCell::new(SpareFile::new()))
    }

    /// One that others took is there again, if there is one.
    pub(super) fn restore(&self) {
        self.0.borrow_mut().take_back();
    }

    /// Resets connections that wait to be accepted; how many.
    pub(super) fn shed(&self, listener: &TcpListener) -> usize {
        // Another thread may take its place: then nothing is shed now.
        let mut spare = self.0.borrow_mut();
        spare.give_up();
        let mut shed = 0;
        while shed < MOST
            && let Ok((client, _)) = SockRef::from(listener).accept()
        {
            socket::reset_on_close(&client);
            shed += 1;
        }
        spare.take_back();
        shed
    }
}
