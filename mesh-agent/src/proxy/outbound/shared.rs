//! A stream on a connection that others have in common, and the task that drives one.

use std::rc::Rc;
use std::time::Duration;

use crate::model::Refused;
use crate::peer::{Found, Making, Peers, Reached, Sharer, still_trusted};
use crate::plan::{MayDial as _, MeshPeer};
use crate::proxy::context::ConnectionContext;
use crate::proxy::shared::is_over;
use crate::tunnel::{Channel, Connection, SharedConnection};

/// A shared connection is closed when it had no channel for this long.
const IDLE: Duration = Duration::from_secs(20);
/// Each may have ended, or be full, when it is there.
const TRIES: u8 = 3;

/// A stream's connection on a shared one; `None`: it is to have one to itself.
pub(super) async fn connect(
    context: &ConnectionContext,
    peer: &MeshPeer,
    sharer: &Sharer,
) -> Result<Option<Connection>, Refused> {
    for _ in 0..TRIES {
        if context.worker.draining.is_cancelled() || context.pod.is_retired() {
            return Ok(None);
        }
        let pending = match sharer.found() {
            Found::Unknown(_) => return Ok(None),
            Found::Pending(pending) => pending,
            Found::Open(shared) => match channel(context, peer, &shared) {
                Some(channel) => {
                    context.worker.agent.peers.channels.inc();
                    return Ok(Some(Connection::on(channel)));
                }
                None if shared.is_full() => return Ok(None),
                None => {
                    shared.close_when_empty();
                    sharer.forget(&shared);
                    continue;
                }
            },
            Found::Nothing => {
                let (pending, making) = sharer.begin();
                let (beside, peer) = (context.beside(), peer.clone());
                beside.spawn(|context| make(context, peer, making));
                pending
            }
        };
        let waiting = pending.wait();
        Box::pin(context.unless_cut(waiting)).await?;
    }
    Ok(None)
}

/// Another channel of it, where it still proves who is expected.
fn channel(
    context: &ConnectionContext,
    peer: &MeshPeer,
    shared: &Rc<SharedConnection>,
) -> Option<Channel> {
    let (shown, peers) = (shared.peer(), &context.worker.peers);
    let is_good = shown.spiffe_id() == peer.expected()
        && still_trusted(&context.pod, shown).is_ok()
        && peers.may_take_more(shared);
    is_good.then(|| shared.open()).flatten()
}

async fn make(context: Rc<ConnectionContext>, peer: MeshPeer, making: Making) {
    let peers = &context.worker.peers;
    let reached = tokio::select! {
        biased; // removal and drain win over a connection just made
        _reason = context.entry().cut.wait() => return making.given_up(),
        reached = peers.wait_for_shared(&context.pod, &peer) => reached,
    };
    let shared = match reached {
        Err(refused) => return making.failed(refused),
        Ok(Reached::Alone(connection)) => {
            // Whoever takes it first has one to itself.
            let key = Peers::key(&context.pod, &peer);
            context.worker.keep(&context.pod, key, *connection);
            return making.unknown();
        }
        Ok(Reached::Shared(shared)) => shared,
    };
    let _ends_with_this = shared.driven();
    let session = peers.session(&context.pod, peer.to(), shared.shown());
    context.entry().set_session(session);
    if let Err(reason) = still_trusted(&context.pod, shared.peer()) {
        return making.failed(reason.into());
    }
    let sharer = making.made(shared.clone());
    Box::pin(drive(&context, &shared)).await;
    sharer.forget(&shared);
}

/// Until it has ended, is cut, or is not used any more.
async fn drive(context: &ConnectionContext, shared: &Rc<SharedConnection>) {
    tokio::select! {
        biased; // a cut must not wait for busy channels
        () = is_over(context, shared) => return,
        never = shared.look_after(IDLE) => match never {},
        _ended = shared.next() => {}
    }
    // Its streams tell why they ended, each by itself; this is what they have in common.
    let peer = shared.peer().spiffe_id();
    if let Some(error) = shared.error() {
        tracing::debug!(%error, %peer, "protocol error");
    } else if shared.is_refused() {
        tracing::debug!(%peer, "the peer ended TLS with an alert");
    }
    shared.flush().await;
}
