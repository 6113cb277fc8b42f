//! Channels of another agent's shared connection: each is served as a connection of its own,
//! judged, counted and cut by itself.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;

use super::tunnelled::{self, stand_on};
use crate::peer::still_trusted;
use crate::proxy::context::{ConnectionContext, Exchange};
use crate::proxy::shared::is_over;
use crate::tls::Session;
use crate::tunnel::{Channel, Connection, SharedConnection};

/// The peer closes sooner what it does not use: this is for peers that vanished.
const IDLE: Duration = Duration::from_secs(60);

/// To the connection's end. What its handshake proved is noted.
pub(super) async fn serve(
    context: &Rc<ConnectionContext>,
    client: TcpStream,
    session: Session,
    not_after: SystemTime,
) {
    let account = context.pod.account.clone();
    let shared = SharedConnection::server(client, session, not_after, account);
    let _ends_with_this = shared.driven();
    let from = (&*context.pod, context.client_addr.ip());
    let peers = &context.worker.peers;
    peers.note_proof((from.0, from.1), None, shared.shown());
    let is_over = drive(context, &shared).await;
    if let Some(error) = shared.error() {
        tunnelled::broke_protocol(context, error, (shared.tls(), shared.peer()));
    } else if is_over {
        Box::pin(shared.farewell()).await;
    }
}

/// True when its last channel has ended, and there is no more to say.
async fn drive(context: &Rc<ConnectionContext>, shared: &Rc<SharedConnection>) -> bool {
    let mut is_cut = pin!(is_over(context, shared));
    let mut looks = pin!(shared.look_after(IDLE));
    loop {
        let channel = tokio::select! {
            biased; // a cut must not wait for the next channel
            () = &mut is_cut => return false,
            never = &mut looks => match never {},
            channel = shared.next() => channel,
        };
        let Some(channel) = channel else {
            return shared.is_closing();
        };
        let beside = context.beside();
        beside.spawn(|context| serve_channel(context, channel));
        // Those that a peer opens at once are not all taken before others run.
        tokio::task::coop::consume_budget().await;
    }
}

async fn serve_channel(context: Rc<ConnectionContext>, channel: Channel) {
    let peer = channel.connection().peer().clone();
    stand_on(&context, &peer);
    if context.pod.is_retired() || still_trusted(&context.pod, &peer).is_err() {
        // Taken before, and registered after.
        return channel.refuse();
    }
    let agent = &context.worker.agent;
    let source = Exchange::begin(&context).source();
    let _place = match agent.places.enter(context.pod.places(), Some(source)) {
        Ok(place) => place,
        Err(full) => {
            // Its client tries once more, on a connection of its own, and is told there.
            agent.metrics.over_share(full);
            return channel.refuse();
        }
    };
    let connection = Box::new(Connection::on(channel));
    Box::pin(tunnelled::streams(&context, connection)).await;
}
