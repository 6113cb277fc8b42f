//! One channel's state at this end.

use std::sync::Arc;
use std::task::Waker;

use crate::io::{Account, Held, Share};
use crate::tunnel::ProtocolError;

/// What may come on a channel before its reader has taken any.
pub(in crate::tunnel) const WINDOW: u32 = 8 * 1024;
/// The most that may come for a reader that keeps up; reserved of its pod's part of what is
/// free.
pub(in crate::tunnel) const MAX_WINDOW: u32 = 64 * 1024;
/// Its reader's progress is told once it is one part of so many of the window.
pub(in crate::tunnel) const PARTS: u32 = 2;

#[derive(Debug)]
pub(super) struct Pipe {
    inbox: Held,
    inbox_at: usize,
    /// What the peer may have on its way, or unread here.
    window: u32,
    /// What of that is beyond what each channel has.
    reserved: Share,
    /// What the peer may still send.
    to_come: u32,
    /// What was read, and the peer has not been told of.
    untold: u32,
    /// What may still be sent.
    to_go: u32,
    /// The peer takes no more, and sends no more.
    pub(super) is_closed: bool,
    /// It ended with what carries it, and not by the peer's word.
    pub(super) was_cut: bool,
    /// Its writer waits for room in the outbox.
    pub(super) is_blocked: bool,
    /// Bytes that its writer had to send and that could not go.
    pub(super) wants: usize,
    /// Something of it may be with the peer.
    pub(super) was_sent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// `account`: its pod's, of what waits unread.
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self {
            window: WINDOW,
            reserved: Share::new(account.clone()),
            was_sent: false,
            inbox: Held::default(),
            inbox_at: 0,
            to_come: WINDOW,
            untold: 0,
            to_go: WINDOW,
            is_closed: false,
            was_cut: false,
            is_blocked: false,
            wants: 0,
            reader: None,
            writer: None,
        }
    }

    /// Bytes of the peer.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<Waker>, ProtocolError> {
        if self.is_closed {
            return Err(ProtocolError::AfterEnd);
        }
        // A record's plaintext has at most 16,384 bytes, so the length fits.
        let left = self.to_come.checked_sub(bytes.len() as u32);
        self.to_come = left.ok_or(ProtocolError::Window)?;
        if self.inbox_at > 0 && self.inbox_at >= self.inbox.len() / 2 {
            // Who never reads all of it takes no more memory for that.
            self.inbox.drop_front(self.inbox_at);
            self.inbox_at = 0;
        }
        self.inbox.extend(bytes);
        Ok(self.reader.take())
    }

    /// The peer's reader has taken so much.
    pub(super) fn grant(&mut self, bytes: u32) -> Result<Option<Waker>, ProtocolError> {
        if self.is_closed {
            return Err(ProtocolError::AfterEnd);
        }
        let to_go = self.to_go.checked_add(bytes);
        let to_go = to_go.filter(|to_go| bytes > 0 && *to_go <= MAX_WINDOW);
        self.to_go = to_go.ok_or(ProtocolError::Window)?;
        Ok(self.writer.take())
    }

    /// Nothing more comes or goes; whoever waits is to know.
    pub(super) fn close(&mut self) -> [Option<Waker>; 2] {
        self.is_closed = true;
        [self.reader.take(), self.writer.take()]
    }

    pub(super) fn is_readable(&self) -> bool {
        self.is_closed || !self.inbox.is_empty()
    }

    /// How much was read, and what the peer is to be told now, if anything.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> (usize, Option<u32>) {
        let came = &self.inbox[self.inbox_at..];
        let n = came.len().min(buffer.len());
        buffer[..n].copy_from_slice(&came[..n]);
        self.inbox_at += n;
        if self.inbox_at == self.inbox.len() {
            self.inbox.clear();
            self.inbox_at = 0;
        }
        // No more than the window.
        self.untold += n as u32;
        let is_due = self.untold >= self.window / PARTS && !self.is_closed;
        let told = is_due.then(|| std::mem::take(&mut self.untold) + self.widen());
        self.to_come += told.unwrap_or(0);
        (n, told)
    }

    /// Twice the window for who reads all that comes, as far as there is budget; how much more.
    fn widen(&mut self) -> u32 {
        let most = self.window.min(MAX_WINDOW - self.window);
        if !self.inbox.is_empty() || most == 0 {
            return 0;
        }
        let before = self.reserved.bytes();
        let wanted = self.reserved.leisure(most as usize);
        self.reserved.grow(before + wanted);
        // No more than was wanted.
        let more = (self.reserved.bytes() - before) as u32;
        self.window += more;
        more
    }

    /// What may be sent now.
    pub(super) fn to_go(&self) -> usize {
        self.to_go as usize
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        // No more than may be sent.
        self.to_go -= bytes as u32;
    }

    pub(super) fn read_by(&mut self, waker: &Waker) {
        renew(&mut self.reader, waker);
    }

    pub(super) fn written_by(&mut self, waker: &Waker) {
        renew(&mut self.writer, waker);
    }

    /// Memory of what its reader has not taken.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.inbox.capacity()
    }

    /// There is room.
    pub(super) fn unblock(&mut self) -> Option<Waker> {
        self.is_blocked = false;
        self.writer.take()
    }
}

fn renew(known: &mut Option<Waker>, waker: &Waker) {
    match known {
        Some(known) => known.clone_from(waker),
        None => *known = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: usize = WINDOW as usize;
    const HALF: usize = WHOLE / 2;

    /// One that has no budget for more than each channel has.
    fn narrow() -> Pipe {
        let (account, _held) = Account::alone(0, 0);
        Pipe::new(&Arc::new(account))
    }

    #[test]
    fn a_reader_that_never_takes_all_takes_no_more_memory_for_that() {
        let mut pipe = Pipe::new(&Arc::default());
        let mut buffer = [0; HALF];
        pipe.take(&[7]).expect("within the window");
        for _ in 0..100 {
            pipe.take(&[7; HALF]).expect("within the window");
            let (n, told) = pipe.read(&mut buffer);
            assert_eq!((n, told), (HALF, Some(WINDOW / 2)));
            assert!(pipe.is_readable(), "one byte is left");
        }
        assert!(pipe.held() <= 2 * WHOLE, "{}", pipe.held());
    }

    #[test]
    fn the_peer_is_told_of_what_was_read_once_it_is_half_of_the_window() {
        let mut pipe = narrow();
        pipe.take(&[7; WHOLE]).expect("within the window");
        let mut buffer = [0; HALF - 1];
        assert_eq!(pipe.read(&mut buffer), (HALF - 1, None));
        assert_eq!(pipe.take(&[7]).err(), Some(ProtocolError::Window));
        let mut pipe = narrow();
        pipe.take(&[7; WHOLE]).expect("within the window");
        assert_eq!(pipe.read(&mut [0; HALF]).1, Some(WINDOW / 2));
        assert!(pipe.take(&[7; HALF]).is_ok());
        assert_eq!(pipe.take(&[7]).err(), Some(ProtocolError::Window));
    }

    #[test]
    fn a_reader_that_keeps_up_has_a_wider_window_as_far_as_there_is_budget() {
        for (limit, widest) in [(0, WINDOW), (1 << 40, MAX_WINDOW)] {
            let (account, held) = Account::alone(limit, 0);
            let mut pipe = Pipe::new(&Arc::new(account));
            let mut may_come = WINDOW;
            for _ in 0..20 {
                pipe.take(&vec![7; may_come as usize])
                    .expect("within the window");
                let (n, told) = pipe.read(&mut vec![0; MAX_WINDOW as usize]);
                assert_eq!(n, may_come as usize);
                may_come = told.expect("all was read");
            }
            assert_eq!(may_come, widest);
            let reserved = held.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(reserved, (widest - WINDOW) as usize);
            drop(pipe);
            assert_eq!(held.load(std::sync::atomic::Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn what_came_before_the_peers_close_is_read_and_nobody_is_told() {
        let mut pipe = Pipe::new(&Arc::default());
        pipe.take(&[7; WHOLE]).expect("within the window");
        pipe.close();
        let mut buffer = [0; WHOLE];
        assert_eq!(pipe.read(&mut buffer), (WHOLE, None));
        assert_eq!(pipe.read(&mut buffer), (0, None));
        assert!(pipe.is_readable());
        assert_eq!(pipe.held(), 0);
    }
}
