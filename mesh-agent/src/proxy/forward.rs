//! Carrying bytes until the connection ends, is cut, or has been silent too long.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::registry::Cut;
use super::registry::CutReason;
use super::report::Report;
use super::silence::Silence;
use crate::io;
use crate::model::{ByteCounts, ByteMeter, CloseReason, Security};
use crate::sys::socket;
use crate::tunnel::{self, Carrier, ChannelEnd, Connection};

/// A connection that lives longer is counted and logged this often.
pub(super) const PROGRESS: Duration = Duration::from_secs(10);
/// And what shows whether its endpoint works again is looked at so often; any other one for
/// the first time, and then ever later, until its endpoint has answered.
pub(super) const SOON: Duration = Duration::from_millis(100);
/// Who takes nothing for this long does not take what a side that failed had sent.
const STUCK: Duration = Duration::from_millis(50);

/// Why the carrying stopped.
pub(super) enum Stopped<E> {
    Ended(E),
    Cut(CutReason),
    Idle,
}

/// One of the two sockets that bytes are carried between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    First,
    Second,
}

/// Something that carries bytes and may be interrupted between any two.
pub(super) trait Forward {
    type End;
    /// `None`: the upstream has taken the connection, and it goes on.
    async fn run(&mut self) -> Option<Self::End>;
    fn bytes(&self) -> ByteCounts;
    /// The end that is a failure of that socket.
    fn failure_of(side: Side) -> Self::End;
    /// The upstream has taken the connection.
    fn is_accepted(&self) -> bool;
    /// Where the bytes are to be shown from now on.
    fn show(&mut self, meter: Arc<ByteMeter>);
    /// That the second one is closed may be its end in order.
    fn may_be_over(&self) -> bool;
}

/// Two plain sockets, the client's and the upstream.
pub(super) struct Plain<'s> {
    pub(super) relay: io::Relay,
    pub(super) client: &'s TcpStream,
    pub(super) upstream: &'s TcpStream,
}

impl Forward for Plain<'_> {
    type End = io::RelayEnd;

    async fn run(&mut self) -> Option<io::RelayEnd> {
        Some(self.relay.run(self.client, self.upstream).await)
    }

    fn is_accepted(&self) -> bool {
        true
    }

    fn show(&mut self, meter: Arc<ByteMeter>) {
        self.relay.show(meter);
    }

    fn bytes(&self) -> ByteCounts {
        self.relay.bytes()
    }

    fn may_be_over(&self) -> bool {
        // What is heard of a socket is that it failed.
        false
    }

    fn failure_of(side: Side) -> io::RelayEnd {
        match side {
            Side::First => io::RelayEnd::ResetByClient,
            Side::Second => io::RelayEnd::ResetByUpstream,
        }
    }
}

/// A socket of the application, and a stream of a connection between agents.
pub(super) struct Tunnelled<'s> {
    pub(super) relay: &'s mut tunnel::Relay,
    pub(super) application: &'s TcpStream,
    pub(super) connection: &'s mut Connection,
}

impl Forward for Tunnelled<'_> {
    type End = tunnel::StreamEnd;

    async fn run(&mut self) -> Option<tunnel::StreamEnd> {
        self.relay.advance(self.application, self.connection).await
    }

    fn is_accepted(&self) -> bool {
        self.relay.is_accepted()
    }

    fn show(&mut self, meter: Arc<ByteMeter>) {
        self.relay.show(meter);
    }

    fn bytes(&self) -> ByteCounts {
        self.relay.bytes()
    }

    fn may_be_over(&self) -> bool {
        // Who has both ends closes a channel at once, whoever still takes what came.
        self.connection.is_shared() && self.relay.application_has_ended()
    }

    fn failure_of(side: Side) -> tunnel::StreamEnd {
        match side {
            Side::First => tunnel::StreamEnd::ResetByApplication,
            Side::Second => tunnel::StreamEnd::Lost,
        }
    }
}

/// Tells of a connection once its upstream has taken it: what is refused
/// before that is never counted, listed or logged as opened.
fn take_up<C: Forward>(what: &mut C, report: &mut Report) {
    if what.is_accepted() && !report.is_open() {
        what.show(report.opened());
    }
}

/// The two that bytes are carried between.
pub(super) type Sockets<'s> = (&'s TcpStream, Second<'s>);

/// What may fail at the other end.
#[derive(Clone, Copy)]
pub(super) enum Second<'s> {
    Socket(&'s TcpStream),
    /// Of a connection that others have in common.
    Channel(&'s ChannelEnd),
    /// It has ended, and that was no failure.
    Over,
}

impl<'s> Second<'s> {
    pub(super) fn of(carrier: &'s Carrier) -> Self {
        match carrier {
            Carrier::Socket(socket) => Self::Socket(socket),
            Carrier::Channel(end) => Self::Channel(end),
        }
    }

    fn socket(self) -> Option<&'s TcpStream> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Channel(_) | Self::Over => None,
        }
    }
}

/// Carries between the `sockets` that `what` has; `idle`: longest silence,
/// `None` for ever.
pub(super) async fn forward<C: Forward>(
    what: &mut C,
    (first, mut second): Sockets<'_>,
    cut: &Cut,
    report: &mut Report,
    idle: Option<Duration>,
) -> Stopped<C::End> {
    if let Some(meter) = report.meter() {
        what.show(meter);
    }
    let mut silence = Silence::new(idle, what.bytes());
    let (mut lasts, mut looks) = (false, Looks::default());
    loop {
        take_up(what, report);
        let pause = looks.next(report.is_probe(), report.waits_for_endpoint());
        let left = silence.wait(pause);
        let failed = tokio::select! {
            biased; // a cut must not wait for a busy stream
            reason = cut.wait() => return Stopped::Cut(reason),
            end = what.run() => match end {
                Some(end) => {
                    // A short stream is taken and ends in one go.
                    take_up(what, report);
                    return Stopped::Ended(end);
                }
                None => continue,
            },
            side = failure((first, second)) => Some(side),
            () = sleep(left) => abandoned((first, second)),
        };
        if failed == Some(Side::Second) && what.may_be_over() {
            second = Second::Over;
            continue;
        }
        if let Some(side) = failed {
            return Box::pin(last_bytes(what, side, cut, report)).await;
        }
        let now = what.bytes();
        if silence.is_too_long(left, now) {
            return Stopped::Idle;
        }
        report.carries(now);
        if looks.passed() {
            continue;
        }
        if !std::mem::replace(&mut lasts, true) {
            for socket in [Some(first), second.socket()].into_iter().flatten() {
                // It can fail only for a socket that is already dead.
                let _dead = socket::keep_alive(socket);
            }
        }
        report.progress(now);
    }
}

/// When a connection is looked at. Failures are known at once: what others answer has to be
/// known as soon, or a few failures would seem to be all that there is.
#[derive(Default)]
struct Looks {
    /// So many until its endpoint has answered, each twice as late as the last; [`Self::OVER`]:
    /// there are no more.
    done: u8,
    is_such: bool,
}

impl Looks {
    const OVER: u8 = u8::MAX;

    fn next(&mut self, is_probe: bool, waits: bool) -> Duration {
        let (next, looked) = match self.done {
            Self::OVER => (PROGRESS, Duration::ZERO),
            done => {
                let next = SOON * (1 << done);
                (next, next - SOON)
            }
        };
        let left = PROGRESS.saturating_sub(looked);
        self.is_such = waits && next < left;
        match self.is_such {
            _ if is_probe => SOON,
            true => next,
            false => left,
        }
    }

    /// It was no more than such a one.
    fn passed(&mut self) -> bool {
        self.done = if self.is_such {
            self.done + 1
        } else {
            Self::OVER
        };
        self.is_such
    }
}

/// The socket that fails, also one that nobody reads from or writes to now, for
/// its bytes wait for the other one. The error is left for whoever does.
async fn failure((first, second): Sockets<'_>) -> Side {
    let second = async {
        match second {
            Second::Socket(second) => {
                let _ready = second.ready(Interest::ERROR).await;
            }
            Second::Channel(second) => second.closed().await,
            Second::Over => std::future::pending().await,
        }
    };
    tokio::select! {
        _ready = first.ready(Interest::ERROR) => Side::First,
        () = second => Side::Second,
    }
}

fn abandoned((first, second): Sockets<'_>) -> Option<Side> {
    let second = || {
        let socket = second.socket();
        socket
            .is_some_and(socket::is_abandoned)
            .then_some(Side::Second)
    };
    let first = socket::is_abandoned(first).then_some(Side::First);
    first.or_else(second)
}

/// One side has failed. What it had sent before still goes, as long as the other
/// side takes it; then both end.
async fn last_bytes<C: Forward>(
    what: &mut C,
    side: Side,
    cut: &Cut,
    report: &mut Report,
) -> Stopped<C::End> {
    loop {
        let before = what.bytes();
        tokio::select! {
            biased; // as above
            reason = cut.wait() => return Stopped::Cut(reason),
            end = what.run() => {
                take_up(what, report);
                match end {
                    Some(end) => return Stopped::Ended(end),
                    None => continue,
                }
            }
            () = sleep(STUCK) => {}
        }
        if what.bytes() == before {
            return Stopped::Ended(C::failure_of(side));
        }
    }
}

/// How a carried connection ended.
pub(super) type ForwardEnd = (ByteCounts, CloseReason);

/// Carries between two plain sockets; a failure of one resets both.
pub(super) async fn forward_plain(
    client: &TcpStream,
    upstream: &TcpStream,
    cut: &Cut,
    report: &mut Report,
    idle: Option<Duration>,
) -> ForwardEnd {
    if report.flow.security == Security::Unknown {
        report.flow().security = Security::None;
    }
    let mut plain = Plain {
        relay: io::Relay::default(),
        client,
        upstream,
    };
    let sockets = (client, Second::Socket(upstream));
    let reason = match forward(&mut plain, sockets, cut, report, idle).await {
        Stopped::Ended(io::RelayEnd::Finished) => CloseReason::Finished,
        Stopped::Ended(io::RelayEnd::ResetByClient) => CloseReason::ResetByClient,
        Stopped::Ended(io::RelayEnd::ResetByUpstream) => CloseReason::ResetByUpstream,
        Stopped::Idle => CloseReason::IdleTimeout,
        Stopped::Cut(reason) => reason.close(),
    };
    if reason == CloseReason::ResetByUpstream && plain.relay.client_has_ended() {
        report.reset_behind_end(plain.bytes());
    }
    if reason != CloseReason::Finished {
        socket::reset_on_close(upstream);
    }
    (plain.bytes(), reason)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::IoSlice;
    use std::rc::Rc;
    use std::task::Poll;

    use tokio::io::AsyncWriteExt as _;
    use tokio::task::spawn_local;
    use tokio::time::timeout;

    use super::*;
    use crate::proxy::http::ByteStream;
    use crate::tls::tests::support::{DEADLINE, sockets};
    use crate::tunnel::SharedConnection;
    use crate::tunnel::tests::support::{open, shared_connections};

    /// Nobody reads the channel meanwhile.
    #[tokio::test(flavor = "local")]
    async fn a_channels_end_is_noticed_while_its_application_takes_nothing() {
        for has_ended in [false, true] {
            let side = timeout(DEADLINE, close_behind_a_full_application(has_ended));
            let (side, may_be_over) = side.await.expect("it is noticed");
            assert_eq!(side, Side::Second);
            assert_eq!(may_be_over, has_ended, "in order only behind both ends");
        }
    }

    /// The client closes its channel, and what came on it waits; `has_ended`: the application has
    /// said all, and the client knows.
    async fn close_behind_a_full_application(has_ended: bool) -> (Side, bool) {
        let (near, far) = shared_connections().await;
        let (mut reads_nothing, application) = sockets().await;
        while application.writable().await.is_ok()
            && application.try_write(&[0; 64 * 1024]).is_ok_and(|n| n > 0)
        {}
        let mut connection = Connection::on(near.open().expect("room"));
        let mut relay = connection.open(&open());
        let mut client = ByteStream::Stream {
            relay: &mut relay,
            connection: &mut connection,
        };
        spawn_local(drive(near));
        let part = [IoSlice::new(b"hello")];
        let written = poll_fn(|cx| client.poll_write(&part, cx)).await;
        assert_eq!(written, Ok(5));
        let channel = far.next().await.expect("a channel");
        spawn_local(drive(far));
        let mut taken = Connection::on(channel);
        let stream = taken.accept().await.expect("a stream");
        let mut stream = stream.expect("a stream");
        stream.relay.accept();
        let carrier = taken.carrier();
        let mut what = Tunnelled {
            relay: &mut stream.relay,
            application: &application,
            connection: &mut taken,
        };
        if has_ended {
            reads_nothing.shutdown().await.expect("an end");
        }
        // Behind that nothing more is written to the channel.
        let told = poll_fn(|cx| match client.poll_read(&mut [0], cx) {
            Poll::Pending if client.is_accepted() && !has_ended => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                assert_eq!((read, has_ended), (Ok(0), true));
                Poll::Ready(())
            }
        });
        tokio::select! {
            end = what.run() => panic!("{end:?}"),
            () = told => {}
        }
        drop(connection);
        let side = tokio::select! {
            biased; // as who forwards does
            end = what.run() => panic!("{end:?}"),
            side = failure((&application, Second::of(&carrier))) => side,
        };
        (side, what.may_be_over())
    }

    async fn drive(shared: Rc<SharedConnection>) {
        while shared.next().await.is_some() {}
    }

    #[test]
    fn what_has_not_answered_is_looked_at_soon_and_ever_later_and_counted_every_ten_seconds() {
        let mut looks = Looks::default();
        let mut pause = |waits| {
            let next = looks.next(false, waits).as_millis();
            (next, looks.passed())
        };
        let such = [100, 200, 400, 800, 1_600, 3_200].map(|ms| (ms, true));
        assert_eq!([(); 6].map(|()| pause(true)), such);
        assert_eq!(pause(true), (3_700, false), "ten seconds in all");
        assert_eq!([pause(true), pause(false)], [(10_000, false); 2]);
        let mut looks = Looks::default();
        assert_eq!(looks.next(false, true), SOON);
        assert!(looks.passed());
        assert_eq!(looks.next(false, false), PROGRESS - SOON, "it has answered");
        assert!(!looks.passed());
        assert_eq!(Looks::default().next(true, true), SOON);
        assert_eq!(Looks::default().next(false, false), PROGRESS);
    }
}
