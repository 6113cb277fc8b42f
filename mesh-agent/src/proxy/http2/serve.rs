//! A client connection of HTTP/2: takes its requests, each as a task of its own, and
//! sees to its end.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exchange::{After, exchange};
use super::site::Site;
use super::wire::{Seen, Wire};
use crate::http::h2 as http2;
use crate::http::h2::{Reason, Server, Unsent};
use crate::io::is_scarce;
use crate::model::CloseReason;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{Side, silence};
use crate::proxy::report::Report;
use crate::proxy::turns::by_turns;

/// Whoever has sent the preface has sent its settings by then.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Exchanges that end say so within this time; then they are dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A client that does not answer a goodbye is not waited for.
const GOODBYE: Duration = Duration::from_secs(2);
/// And not longer, if it takes what is left little by little.
const FAREWELL: Duration = Duration::from_secs(20);
/// A long connection is counted and logged this often.
const PROGRESS: Duration = Duration::from_secs(10);
/// Exchanges, also those whose client has reset them already.
const MAX_EXCHANGES: usize = 2 * http2::STREAMS as usize;
/// And where there is little memory for what waits.
const MAX_SCARCE: usize = 16;
/// Of so many requests within [`LATELY`] no more than three of four may be taken back at
/// once by their client: one that hedges takes back every other one.
const ABUSE: u32 = 500;
/// What is slower costs little.
const LATELY: Duration = Duration::from_secs(30);

/// To the end of the client's connection; what does not end well is to be reset.
pub(in crate::proxy) async fn serve<S: Site>(
    client: &mut Side<'_>,
    hop: http2::Hop,
    site: Rc<S>,
    report: &mut Report,
) -> ForwardEnd {
    let seen = Rc::new(Seen::default());
    let reason = {
        let wire = Wire::new(client, seen.clone());
        let account = site.context().pod.account.clone();
        let greeting = timeout(HANDSHAKE, http2::serve(wire, hop, account));
        let cut = &site.context().entry().cut;
        let greeted = tokio::select! {
            biased; // removal and drain win
            reason = cut.wait() => Err(reason.close()),
            greeted = greeting => match greeted {
                Ok(Ok(server)) => Ok(server),
                Ok(Err(_)) | Err(_) => Err(CloseReason::ResetByClient),
            },
        };
        match greeted {
            Ok(server) => {
                let mut connection = ServerConnection {
                    site,
                    server,
                    exchanges: JoinSet::new(),
                    report,
                    seen: seen.clone(),
                    conduct: Conduct::new(Instant::now()),
                };
                connection.run().await
            }
            Err(reason) => reason,
        }
    };
    if reason == CloseReason::Finished {
        client.linger().await;
    }
    (seen.bytes(), reason)
}

struct ServerConnection<'v, 'w, 'l, S> {
    site: Rc<S>,
    server: Server<Wire<'w, 'l>>,
    exchanges: JoinSet<After>,
    report: &'v mut Report,
    seen: Rc<Seen>,
    conduct: Conduct,
}

/// What happens next.
enum Next {
    Request(Box<http2::Exchange>),
    Ended(After),
    Drain,
    News,
    Progress,
    Idle,
    /// The client's last request is over, or the connection.
    Over(CloseReason),
}

impl<S: Site> ServerConnection<'_, '_, '_, S> {
    async fn run(&mut self) -> CloseReason {
        let mut is_draining = false;
        let reason = loop {
            match self.next(is_draining).await {
                Next::Request(came) if self.exchanges.len() < most() => {
                    let share = self.site.context().pod.share.clone();
                    let serving = exchange(self.site.clone(), came);
                    // A task is moved several times; this one is large.
                    let serving = by_turns(share, Box::pin(serving));
                    self.exchanges.spawn_local(serving);
                }
                // It may come again.
                Next::Request(came) if is_scarce() => came.respond.reset(Reason::REFUSED_STREAM),
                Next::Request(came) => came.respond.reset(Reason::ENHANCE_YOUR_CALM),
                Next::Ended(after) => {
                    if self.conduct.is_abuse(after, Instant::now()) {
                        self.server.abort(Reason::ENHANCE_YOUR_CALM);
                        self.say().await;
                        break CloseReason::ProtocolError;
                    }
                }
                Next::Drain => {
                    is_draining = true;
                    self.server.drain();
                }
                Next::News => {
                    self.site.connection().tell(self.report);
                    if let Some(refused) = self.site.connection().take_failed() {
                        self.report.blame(&refused);
                        break CloseReason::Refused(refused.reason);
                    }
                }
                Next::Progress => self.show(),
                Next::Idle => {
                    self.server.drain();
                    self.say().await;
                    break CloseReason::IdleTimeout;
                }
                Next::Over(reason) => break reason,
            }
        };
        self.end().await;
        self.site.connection().tell(self.report);
        self.show();
        reason
    }

    async fn next(&mut self, is_draining: bool) -> Next {
        let context = self.site.context();
        let is_idle = self.exchanges.is_empty();
        let idle = match is_idle && !is_draining {
            true => context.worker.agent.config.idle_timeout,
            false => None,
        };
        let unsent = (is_idle && is_draining).then(|| self.server.unsent());
        let gone = async {
            match &unsent {
                Some(unsent) => has_all(unsent).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // a cut must not wait for a busy client
            reason = context.entry().cut.wait() => Next::Over(reason.close()),
            () = self.site.connection().news() => Next::News,
            () = context.worker.draining.cancelled(), if !is_draining => Next::Drain,
            Some(ended) = self.exchanges.join_next() => {
                Next::Ended(ended.unwrap_or(After::Done))
            }
            came = self.server.accept() => match came {
                Some(Ok(came)) => Next::Request(Box::new(came)),
                Some(Err(error)) => Next::Over(fault(&error, &self.seen)),
                None => Next::Over(CloseReason::Finished),
            },
            () = silence(idle) => Next::Idle,
            () = gone => Next::Over(CloseReason::Finished),
            () = tokio::time::sleep(PROGRESS), if !is_idle => Next::Progress,
        }
    }

    /// What was queued for the client goes out, if it takes it.
    async fn say(&mut self) {
        let unsent = self.server.unsent();
        let say = async {
            while let Some(Ok(late)) = self.server.accept().await {
                late.respond.reset(Reason::REFUSED_STREAM);
            }
        };
        let said = async {
            tokio::select! {
                () = say => {}
                () = no_answer(&unsent, &self.seen) => {}
            }
        };
        let _in_time = timeout(FAREWELL, said).await;
    }

    /// Each exchange tells how it ended; one that does not is dropped.
    async fn end(&mut self) {
        let _in_time = timeout(LAST_WORDS, async {
            while !self.exchanges.is_empty() {
                tokio::select! {
                    _ended = self.exchanges.join_next() => {}
                    _none = self.server.accept() => {
                        while self.exchanges.join_next().await.is_some() {}
                    }
                }
            }
        })
        .await;
        self.exchanges.shutdown().await;
    }

    fn show(&mut self) {
        let bytes = self.seen.bytes();
        if let Some(meter) = self.report.meter() {
            meter.set(bytes);
        }
        self.report.progress(bytes);
    }
}

/// Until a client that was told goodbye as its agent ends has all, but for what the kernel has: one
/// that does not answer is not waited for then. One that takes nothing for a while may go on, and
/// the end of the drain is for whoever does not.
async fn has_all<T: AsyncWrite + Unpin>(unsent: &Unsent<T>) {
    loop {
        tokio::time::sleep(GOODBYE).await;
        if unsent.is_none() {
            return;
        }
    }
}

/// Until a client that was told goodbye is not waited for any more: it has all, or takes
/// nothing of it.
async fn no_answer<T: AsyncWrite + Unpin>(unsent: &Unsent<T>, seen: &Seen) {
    loop {
        let before = seen.bytes().received;
        tokio::time::sleep(GOODBYE).await;
        if unsent.is_none() || seen.bytes().received == before {
            return;
        }
    }
}

/// Exchanges of a connection at once.
fn most() -> usize {
    match is_scarce() {
        true => MAX_SCARCE,
        false => MAX_EXCHANGES,
    }
}

/// How a connection ended that did not end in order.
fn fault(error: &http2::Error, seen: &Seen) -> CloseReason {
    match error.is_io() || seen.failed().is_some() || error.is_remote() {
        true => CloseReason::ResetByClient,
        false => CloseReason::ProtocolError,
    }
}

/// How many of its requests a client takes back at once, lately.
#[derive(Debug)]
struct Conduct {
    since: Instant,
    ended: u32,
    taken_back: u32,
}

impl Conduct {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            ended: 0,
            taken_back: 0,
        }
    }

    fn is_abuse(&mut self, after: After, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= LATELY {
            *self = Self::new(now);
        }
        self.ended += 1;
        self.taken_back += u32::from(after == After::TakenBack);
        let is_abuse = self.ended >= ABUSE && self.taken_back > self.ended / 4 * 3;
        if self.ended >= 2 * ABUSE {
            self.ended /= 2;
            self.taken_back /= 2;
        }
        is_abuse
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_a_while_is_waited_for_as_long_as_it_has_not_all() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0question";
        let (mut far, near) = duplex(256);
        far.write_all(PREFACE).await.expect("taken");
        let greeting = http2::serve(near, http2::Hop::Edge, Arc::default());
        let mut server = greeting.await.expect("greeted");
        // Their answers are more than it has room for.
        let asks = async {
            for _ in 0..50 {
                far.write_all(PING).await.expect("taken");
            }
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            _none = server.accept() => panic!("it goes on"),
            () = asks => {}
        }
        let unsent = server.unsent();
        let mut all = pin!(has_all(&unsent));
        assert!(timeout(10 * GOODBYE, all.as_mut()).await.is_err());
        let takes = async {
            let mut bytes = [0; 64];
            while timeout(GOODBYE, far.read(&mut bytes)).await.is_ok() {}
        };
        tokio::select! {
            _none = server.accept() => panic!("it goes on"),
            () = takes => {}
        }
        assert!(timeout(2 * GOODBYE, all).await.is_ok());
    }

    fn first_abuse(afters: impl IntoIterator<Item = After>, every: Duration) -> Option<usize> {
        let begin = Instant::now();
        let mut conduct = Conduct::new(begin);
        let mut now = begin;
        let mut afters = afters.into_iter();
        afters.position(|after| {
            now += every;
            conduct.is_abuse(after, now)
        })
    }

    #[test]
    fn who_takes_back_most_of_its_requests_at_once_is_sent_away() {
        const MS: Duration = Duration::from_millis(1);
        assert_eq!(first_abuse([After::TakenBack; 1000], MS), Some(499));
        let every_other = |i| match i % 2 {
            0 => After::TakenBack,
            _ => After::Done,
        };
        assert_eq!(first_abuse((0..10_000).map(every_other), MS), None);
        let late = [After::Done; 10_000]
            .into_iter()
            .chain([After::TakenBack; 1100]);
        // What it did well is forgotten by halves, each time after as many as make it known.
        let found = first_abuse(late, MS).expect("it is found");
        assert!(found <= 10_000 + 2 * ABUSE as usize, "{found}");
        let slow = Duration::from_millis(100);
        assert_eq!(first_abuse([After::TakenBack; 10_000], slow), None);
    }
}
