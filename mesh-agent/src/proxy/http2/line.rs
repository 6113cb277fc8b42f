//! Connections of HTTP/2 to where requests go. Each is one client connection's alone:
//! no other client's exchange can stall it, or end with it.
//!
//! A task does a line's I/O, from the dial to its end. It ends in order when nobody
//! holds the line any more.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{Seen, Wire};
use crate::http::h2 as http2;
use crate::http::h2::Client;
use crate::io::Account;
use crate::model::{Flow, PeerRule, RefuseReason, Refused, TlsParameters};
use crate::proxy::http::Side;
use crate::proxy::registry::{Cut, CutReason};
use crate::proxy::times::connected;
use crate::tls::PeerId;
use crate::tunnel::StreamEnd;

/// Lines that nobody uses; the one used longest ago goes first.
const MAX_IDLE: usize = 16;
/// Lines to one endpoint; beyond, requests wait for room on them.
const MAX_TO_ONE: usize = 16;
/// Requests that wait for one line, before it is known how many its peer takes at once:
/// most take that many.
const MAX_WAITING: usize = 100;
/// A peer that does not let an end in order end is not waited for.
const LAST: Duration = Duration::from_secs(5);

/// One line, `K`: what makes it fit for a request.
pub(in crate::proxy) struct Line<K> {
    to: SocketAddr,
    pub(in crate::proxy) kind: K,
    state: RefCell<State>,
    news: Notify,
    /// Requests that wait until it is open.
    waiting: Cell<usize>,
    /// Beyond this it takes no more requests.
    until: Cell<Option<Instant>>,
    is_retired: Cell<bool>,
    session: RefCell<Option<(TlsParameters, PeerId)>>,
    /// The rule of the peer's policy by which it refused the line.
    pub(in crate::proxy) denied_by: RefCell<Option<Box<PeerRule>>>,
    /// Who talks to whom, of the last request on it.
    pub(in crate::proxy) flow: RefCell<Option<Arc<Flow>>>,
    /// Tells its task that nobody holds it any more.
    _held: DropGuard,
}

enum State {
    Opening,
    Open(Client),
    Over(Fault),
}

/// Why a line ended.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum Fault {
    /// The other agent has provably taken nothing of it.
    NotTaken,
    Refused(Box<Refused>),
}

/// How a line's I/O ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum LineEnd {
    /// Nobody needs it, or the peer said goodbye.
    Finished,
    /// `None`: by a fault in its HTTP/2.
    Failed(Option<StreamEnd>),
    Cut(CutReason),
}

impl<K> Line<K> {
    fn opening(to: SocketAddr, kind: K, held: DropGuard) -> Self {
        Self {
            to,
            kind,
            state: RefCell::new(State::Opening),
            news: Notify::new(),
            waiting: Cell::new(0),
            until: Cell::new(None),
            is_retired: Cell::new(false),
            session: RefCell::new(None),
            denied_by: RefCell::new(None),
            flow: RefCell::new(None),
            _held: held,
        }
    }

    /// When it is there. The handle is for one request.
    async fn opened(&self) -> Result<Client, Fault> {
        let _waiting = Waiting::of(&self.waiting);
        loop {
            match &*self.state.borrow() {
                State::Opening => {}
                State::Open(client) => return Ok(client.clone()),
                State::Over(fault) => return Err(fault.clone()),
            }
            // Nothing happens on this thread between the look and the wait.
            self.news.notified().await;
        }
    }

    /// The same, for who waits no longer than that while it is dialled; others may.
    pub(in crate::proxy) async fn opened_within(
        &self,
        longest: Option<Duration>,
    ) -> Result<Client, Fault> {
        let opened = async { Ok(self.opened().await) };
        match connected(longest, opened).await {
            Ok(opened) => opened,
            Err(late) => {
                if self.waiting.get() == 0 {
                    // Who comes next has one that is dialled then.
                    self.retire();
                }
                Err(Fault::Refused(Box::new(late)))
            }
        }
    }

    /// Why it ended, if it has.
    pub(in crate::proxy) fn fault(&self) -> Option<Fault> {
        match &*self.state.borrow() {
            State::Over(fault) => Some(fault.clone()),
            State::Opening | State::Open(_) => None,
        }
    }

    /// What its handshake agreed on, and with whom.
    pub(in crate::proxy) fn session(&self) -> Option<(TlsParameters, PeerId)> {
        self.session.borrow().clone()
    }

    /// It takes no more requests; those that it has go on.
    pub(in crate::proxy) fn retire(&self) {
        self.is_retired.set(true);
    }

    fn is_over(&self) -> bool {
        matches!(&*self.state.borrow(), State::Over(_))
    }

    fn takes_requests(&self) -> bool {
        let is_late = || {
            self.until
                .get()
                .is_some_and(|until| Instant::now() >= until)
        };
        !self.is_retired.get() && !self.is_over() && !is_late()
    }

    /// Requests that it has, or that wait for it.
    fn requests(&self) -> usize {
        match &*self.state.borrow() {
            State::Open(client) => client.streams(),
            State::Opening | State::Over(_) => self.waiting.get(),
        }
    }

    /// One more stream would not wait in a queue.
    fn has_room(&self) -> bool {
        match &*self.state.borrow() {
            State::Opening => self.waiting.get() < MAX_WAITING,
            State::Open(client) => client.streams() < client.max_streams(),
            State::Over(_) => false,
        }
    }

    fn set(&self, state: State) {
        self.state.replace(state);
        self.news.notify_waiters();
    }
}

/// One more waits, until this is dropped.
struct Waiting<'l>(&'l Cell<usize>);

impl<'l> Waiting<'l> {
    fn of(count: &'l Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A line's task's own end: gone is gone, whoever waits is told.
pub(in crate::proxy) struct Opener<K> {
    line: Weak<Line<K>>,
    /// Nobody holds the line any more.
    left: CancellationToken,
}

impl<K> Opener<K> {
    /// It is known who the peer is.
    pub(in crate::proxy) fn secured(
        &self,
        session: Option<(TlsParameters, PeerId)>,
        until: Option<Instant>,
    ) {
        if let Some(line) = self.line.upgrade() {
            line.session.replace(session);
            line.until.set(until);
        }
    }

    pub(in crate::proxy) fn line(&self) -> Option<Rc<Line<K>>> {
        self.line.upgrade()
    }

    pub(in crate::proxy) fn over(&self, fault: Fault) {
        if let Some(line) = self.line.upgrade() {
            line.set(State::Over(fault));
        }
    }

    /// HTTP/2 on the connection, to its end, or to soon after nobody holds the line.
    pub(in crate::proxy) async fn drive(
        &self,
        side: &mut Side<'_>,
        (hop, account): (http2::Hop, Arc<Account>),
        cut: &Cut,
    ) -> LineEnd {
        let seen = Rc::new(Seen::default());
        let driving = async {
            let wire = Wire::new(side, seen.clone());
            let (client, driver) = http2::connect(wire, hop, account).await?;
            match self.line.upgrade() {
                Some(line) => line.set(State::Open(client)),
                None => drop(client),
            }
            driver.await
        };
        let left = async {
            self.left.cancelled().await;
            sleep(LAST).await;
        };
        let ended = tokio::select! {
            biased; // removal and drain win
            reason = cut.wait() => return LineEnd::Cut(reason),
            ended = driving => ended,
            () = left => return LineEnd::Failed(None),
        };
        match (ended, seen.failed()) {
            (Ok(()), None) => LineEnd::Finished,
            (_, failed) => LineEnd::Failed(failed),
        }
    }
}

impl<K> Drop for Opener<K> {
    fn drop(&mut self) {
        // Its task has ended before it could say why.
        if let Some(line) = self.line.upgrade()
            && !line.is_over()
        {
            line.set(State::Over(Fault::Refused(Box::new(
                RefuseReason::UpstreamClosed.into(),
            ))));
        }
    }
}

/// The lines of one client connection.
pub(in crate::proxy) struct Lines<K> {
    /// The one used last is the last.
    all: RefCell<Vec<Rc<Line<K>>>>,
}

impl<K> Default for Lines<K> {
    fn default() -> Self {
        Self {
            all: RefCell::default(),
        }
    }
}

impl<K> Lines<K> {
    /// A new one, that `open` has a task run for.
    pub(in crate::proxy) fn open(
        &self,
        to: SocketAddr,
        open: impl FnOnce(Opener<K>) -> K,
    ) -> Rc<Line<K>> {
        let line = Rc::new_cyclic(|weak| {
            let left = CancellationToken::new();
            let held = left.clone().drop_guard();
            let line = weak.clone();
            let kind = open(Opener { line, left });
            Line::opening(to, kind, held)
        });
        self.all.borrow_mut().push(line.clone());
        line
    }

    /// One that takes another request to there.
    pub(in crate::proxy) fn find(
        &self,
        to: SocketAddr,
        fits: impl Fn(&Line<K>) -> bool,
    ) -> Option<Rc<Line<K>>> {
        self.tidy();
        let mut all = self.all.borrow_mut();
        let serves = |line: &Rc<Line<K>>| line.to == to && fits(line);
        let mut found = all.iter().position(|line| serves(line) && line.has_room());
        if found.is_none() {
            let full = || all.iter().enumerate().filter(|(_, line)| serves(line));
            if full().count() >= MAX_TO_ONE {
                let least = full().min_by_key(|(_, line)| line.requests());
                found = least.map(|(at, _)| at);
            }
        }
        let line = all.remove(found?);
        all.push(line.clone());
        Some(line)
    }

    /// Lets go what takes no more requests, and what too many nobody uses.
    fn tidy(&self) {
        let mut all = self.all.borrow_mut();
        all.retain(|line| line.takes_requests());
        let is_idle = |line: &Rc<Line<K>>| Rc::strong_count(line) == 1 && line.requests() == 0;
        let mut over = all.iter().filter(|line| is_idle(line)).count();
        all.retain(|line| {
            let goes = over > MAX_IDLE && is_idle(line);
            over -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use std::task::Poll;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::proxy::http::{ByteStream, Inbox};

    async fn waits(future: &mut Pin<Box<impl Future>>) -> bool {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    fn to() -> SocketAddr {
        ([10, 0, 0, 1], 80).into()
    }

    /// A line, and what its task has.
    fn line(lines: &Lines<()>) -> (Rc<Line<()>>, Opener<()>) {
        let mut opener = None;
        let line = lines.open(to(), |own| opener = Some(own));
        (line, opener.expect("its task's own end"))
    }

    #[tokio::test]
    async fn no_more_than_most_peers_take_wait_for_a_line_that_opens() {
        let lines = Lines::default();
        let (first, _opener) = line(&lines);
        let mut waiting = Vec::new();
        for _ in 0..MAX_WAITING {
            let line = lines.find(to(), |_| true).expect("it has room");
            assert!(Rc::ptr_eq(&line, &first));
            let mut wait = Box::pin(async move { line.opened().await.map(drop) });
            assert!(waits(&mut wait).await);
            waiting.push(wait);
        }
        assert!(lines.find(to(), |_| true).is_none(), "another is opened");
        waiting.pop();
        assert!(lines.find(to(), |_| true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_longer_for_a_line_leaves_it_to_the_others() {
        let lines = Lines::default();
        let (line, opener) = line(&lines);
        let mut other = Box::pin(line.opened_within(None));
        assert!(waits(&mut other).await);
        let late = line.opened_within(Some(Duration::from_millis(100))).await;
        let Err(Fault::Refused(late)) = late else {
            panic!("it is not open");
        };
        assert_eq!(late.reason, RefuseReason::ConnectTimeout);
        assert!(waits(&mut other).await, "the line is dialled still");
        let same = lines.find(to(), |_| true).expect("for others, too");
        assert!(Rc::ptr_eq(&same, &line));
        drop((other, same));
        let late = line.opened_within(Some(Duration::from_millis(100))).await;
        assert!(matches!(late, Err(Fault::Refused(_))));
        assert!(lines.find(to(), |_| true).is_none(), "nobody waits for it");
        opener.over(Fault::NotTaken);
        assert!(matches!(line.opened().await, Err(Fault::NotTaken)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_of_a_line_that_nobody_holds_ends() {
        let lines = Lines::default();
        let (first, opener) = line(&lines);
        // The peer takes nothing, and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = listener.local_addr().expect("an address");
        let near = TcpStream::connect(to).await.expect("a socket");
        near.writable().await.expect("it is there");
        while near.try_write(&[0; 65_536]).is_ok() {}
        let mut inbox = Inbox::default();
        let side = &mut Side {
            stream: ByteStream::Socket(&near),
            inbox: &mut inbox,
        };
        let cut = Cut::default();
        let mut driving = Box::pin(opener.drive(side, (http2::Hop::Edge, Arc::default()), &cut));
        assert!(waits(&mut driving).await);
        drop((lines, first));
        let ended = tokio::time::timeout(10 * LAST, driving).await;
        assert_eq!(ended, Ok(LineEnd::Failed(None)));
    }
}
