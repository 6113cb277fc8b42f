//! New connections to other agents: waited for, and made ahead.
//!
//! A stream waits out an agent that is being restarted. Where several streams of a pair waited for a handshake at once, the next
//! burst is likely: the worker makes that many in the background. How many is
//! the pool's to say.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::connection::At;
use super::outbound::{connect, still_trusted};
use crate::plan::{Leave as _, MeshPeer};
use super::worker::{Local, PodState};
use crate::model::{ClientAddr, OrigDst, RefuseReason, TlsFailure};
use crate::tunnel::{Connection, Key};

/// The burst itself goes first, and what it leaves may be enough.
const LATER: Duration = Duration::from_millis(50);

/// Between tries to reach an agent; the first one doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(160);

/// A connection that is to be made.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) key: Key,
    peer: MeshPeer,
}

/// A stream that waits for a new connection.
struct Waiting<'l> {
    local: &'l Local,
    key: Key,
}

impl<'l> Waiting<'l> {
    fn begin(local: &'l Local, key: Key) -> Self {
        local.pool.borrow_mut().missed(key, Instant::now());
        Self { local, key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.local.pool.borrow_mut().served(self.key);
    }
}

/// Asks the worker for as many connections as the pool finds missing.
pub(super) fn ask(local: &Local, key: Key, peer: &MeshPeer) {
    let mut pool = local.pool.borrow_mut();
    for _ in 0..pool.make_ahead(key, Instant::now()) {
        let peer = peer.clone();
        if local.wishes.try_send(Wish { key, peer }).is_err() {
            // The worker has enough to do.
            pool.no_longer_ahead(key);
        }
    }
}

/// A stream has to wait: it, and the next ones, for a handshake.
pub(super) async fn wait_for(
    at: &At<'_>,
    key: Key,
    peer: &MeshPeer,
) -> Result<Connection, RefuseReason> {
    let _waiting = Waiting::begin(at.local, key);
    ask(at.local, key, peer);
    let connection = reach(at, peer).await?;
    at.local.shared.metrics.connects.inc();
    Ok(connection)
}

/// A new connection to the other agent. One that is not there is given the
/// time of a connect to be back, unless it has been away for longer than a
/// restart takes: its application's refusal is a RESET in the stream, so this one
/// is the agent's absence, and nothing was sent to it. A listener that closes
/// also drops who waited for it: once that is forgiven.
pub(super) async fn reach(at: &At<'_>, peer: &MeshPeer) -> Result<Connection, RefuseReason> {
    let until = Instant::now() + at.local.shared.config.connect_timeout;
    let (mut pause, mut dropped) = (FIRST_PAUSE, false);
    let agent = peer.to().ip();
    loop {
        let result = connect(at, peer).await;
        let away = match result {
            Err(RefuseReason::ConnectRefused) => true,
            Err(RefuseReason::Tls(TlsFailure::Closed)) => !std::mem::replace(&mut dropped, true),
            _ => false,
        };
        if !away {
            at.local.away.borrow_mut().is_back(agent);
            return result;
        }
        let now = Instant::now();
        let back = at.local.away.borrow_mut().missed(agent, now);
        if now + pause > until.min(back) {
            return result;
        }
        tokio::select! {
            biased; // removal and drain win
            reason = at.entry.cut.wait() => return Err(reason.refuse()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = LAST_PAUSE.min(pause * 2);
    }
}

/// One of those that the pool counts as under way.
struct UnderWay<'l> {
    local: &'l Local,
    key: Key,
}

impl UnderWay<'_> {
    fn made(self, pod: &PodState, connection: Connection) {
        self.local.keep(pod, self.key, connection);
        self.local.shared.metrics.connects_ahead.inc();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.local.pool.borrow_mut().no_longer_ahead(self.key);
    }
}

pub(super) async fn make(local: Rc<Local>, pod: Rc<PodState>, wish: Wish) {
    let key = wish.key;
    let local = &*local;
    let under_way = UnderWay { local, key };
    let making = async {
        tokio::time::sleep(LATER).await;
        if !local.pool.borrow_mut().is_wanted(key, Instant::now()) {
            return None;
        }
        Box::pin(connected(local, &pod, &wish)).await
    };
    let made = tokio::select! {
        biased; // a pod that goes keeps nothing
        () = pod.stop.cancelled() => None,
        made = making => made,
    };
    if let Some(connection) = made {
        under_way.made(&pod, connection);
    }
}

/// As for a stream: same certificate, same expected identity, same checks.
async fn connected(local: &Local, pod: &PodState, wish: &Wish) -> Option<Connection> {
    let destination = wish.peer.to();
    let source = pod.pod.workload.ips.same_family(destination.ip())?;
    let registered = local.live.register(local.next_id(), pod.cookie());
    let at = At {
        local,
        pod,
        client_addr: ClientAddr::new((source, 0).into()),
        orig_dst: OrigDst::new(destination),
        published: local.shared.published.load_full(),
        entry: &registered.entry,
    };
    // One that fails costs nobody anything: the next stream tells why.
    let connection = connect(&at, &wish.peer).await.ok()?;
    still_trusted(&at, connection.peer()).ok()?;
    Some(connection)
}
