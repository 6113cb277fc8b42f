//! Another agent's connection: one handshake, and then what both speak.

use std::time::{Instant, SystemTime};

use tokio::net::TcpStream;

use super::{shared, tunnelled};
use crate::model::{PeerProtocol, Refused, TlsRole};
use crate::peer::{credentials, still_trusted};
use crate::proxy::accepted::Accepted;
use crate::proxy::context::ConnectionContext;
use crate::sys::socket;
use crate::tls::{self, Session};

pub(in crate::proxy) async fn serve(accepted: Box<Accepted>) {
    let exchange = accepted.exchange();
    accepted.is_decided();
    let context = exchange.context.clone();
    let client = accepted.client;
    // Not kept while there are streams.
    let timed = async { (Instant::now(), handshake(&context, &client).await) };
    let (begun, shaken) = Box::pin(timed).await;
    match shaken {
        Ok((session, not_after)) => {
            tunnelled::stand_on(&context, &session.peer);
            if let Err(reason) = still_trusted(&context.pod, &session.peer) {
                let mut report = exchange.report();
                report.began(begun);
                report.secured(session.parameters, &session.peer);
                tunnelled::come_from(&exchange, &mut report, &session.peer);
                return report.refused(reason);
            }
            // Each stream sees the configuration that holds when it comes; between
            // two of them none is kept.
            drop(exchange);
            match session.protocol {
                PeerProtocol::Mesh1 => {
                    let connection = tunnelled::begin(&context, client, session, not_after);
                    tunnelled::streams(&context, connection).await;
                }
                PeerProtocol::Shared1 => {
                    Box::pin(shared::serve(&context, client, session, not_after)).await;
                }
            }
        }
        Err(refused) => {
            let mut report = exchange.report();
            report.began(begun);
            // Nothing is proven: whose address it is, and what it claimed to be.
            report.flow().source = exchange.workload_of_client();
            // No RST: it could overtake the alert that says why.
            report.refused(refused);
        }
    }
}

async fn handshake(
    context: &ConnectionContext,
    client: &TcpStream,
) -> Result<(Session, SystemTime), Refused> {
    let _slot = context.pre_auth();
    let deadline = context.worker.agent.config.handshake_timeout;
    let accepting = async {
        let credentials = credentials(&context.pod, deadline).await?;
        socket::bound_unsent(client);
        let accepted = tls::accept(client, &credentials, deadline).await;
        let session = accepted?;
        Ok::<_, Refused>((session, credentials.not_after()))
    };
    let (session, not_after) = tokio::select! {
        biased; // removal and drain win
        reason = context.entry().cut.wait() => return Err(reason.refuse()),
        accepted = accepting => accepted?,
    };
    let observe = &context.worker.observe;
    observe.handshake(TlsRole::Server, session.parameters);
    Ok((session, not_after))
}
