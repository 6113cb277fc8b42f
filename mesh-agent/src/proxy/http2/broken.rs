//! Why a try of a request of HTTP/2 does not end well, from its begin on.

use std::time::Duration;

use tokio::time::timeout;

use super::line::{Fault, Line};
use super::transfer::Stop;
use crate::http::h2 as http2;
use crate::model::Refused;
use crate::proxy::registry::CutReason;

/// Of a server that takes connections: it says what it offers first.
const GREETING: Duration = Duration::from_secs(10);

/// Why one try does not end well.
pub(super) enum Broken {
    Stopped(Stop),
    /// No line could be opened.
    NoLine(Refused),
    Cut(CutReason),
    Idle,
    /// The time of the try, or of all of it, passed.
    TimedOut {
        /// It had been given to a line: its server may have seen it.
        is_sent: bool,
    },
    /// Its server does not offer upgrades.
    NotOffered,
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

/// No part of it was seen: by the peer's word, or by that of the agent that carries
/// the line.
pub(super) fn is_untaken<K>(broken: &Broken, line: &Line<K>) -> bool {
    match broken {
        Broken::Stopped(Stop::NotTaken) => true,
        Broken::Stopped(Stop::Lost) => matches!(line.fault(), Some(Fault::NotTaken)),
        Broken::Stopped(
            Stop::Refused
            | Stop::Again(_)
            | Stop::Client(_)
            | Stop::Upstream(_)
            | Stop::Answer(_)
            | Stop::Edit,
        )
        | Broken::NoLine(_)
        | Broken::Cut(_)
        | Broken::Idle
        | Broken::TimedOut { .. }
        | Broken::NotOffered => false,
    }
}

/// Gives the request to the line's connection, if that is there `within` that time.
pub(super) async fn open<K>(
    line: &Line<K>,
    (request, within): (http2::request::Parts, Option<Duration>),
    is_bare: bool,
) -> Result<(http2::Answered, http2::Sender), Broken> {
    let mut client = line
        .opened_within(within)
        .await
        .map_err(|fault| match fault {
            Fault::NotTaken => Broken::Stopped(Stop::NotTaken),
            Fault::Refused(refused) => Broken::NoLine(*refused),
        })?;
    // What it is not given to cannot have seen it.
    let untaken = |_: http2::Error| Broken::Stopped(Stop::NotTaken);
    let is_tunnel = http2::is_tunnel(&request);
    if is_tunnel {
        let _late = timeout(GREETING, client.greeted()).await;
    }
    client.ready().await.map_err(untaken)?;
    if is_tunnel && !client.takes_extended_connect() {
        return Err(Broken::NotOffered);
    }
    client
        .send(::http::Request::from_parts(request, ()), is_bare)
        .map_err(untaken)
}
