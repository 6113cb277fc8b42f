//! Requests to a local pod, by the version of HTTP that their connection begins with.

use std::rc::Rc;

use tokio::net::TcpStream;

use super::caller::Caller;
use super::http::Requests;
use super::http2;
use crate::proxy::context::ConnectionContext;
use crate::proxy::first::First;
use crate::proxy::forward::ForwardEnd;
use crate::proxy::http::{Side, Totals};
use crate::proxy::report::Report;
use crate::proxy::request_report::RequestReport;

/// To the end of the client's connection, by what it begins with; `application` is
/// there already. What does not end well is to be reset.
pub(super) async fn serve(
    context: &Rc<ConnectionContext>,
    client: &mut Side<'_>,
    (report, caller): (&mut Report, &Caller),
    (first, application): (First, Option<TcpStream>),
) -> ForwardEnd {
    if first == First::Http2 {
        let asked = (report, caller.clone());
        return Box::pin(http2::requests(context, client, asked, application)).await;
    }
    // Kept once: what a future takes with it is in it twice.
    let requests = &mut Requests {
        context,
        caller,
        report,
        application,
        totals: Totals::default(),
        told: RequestReport::default(),
    };
    requests.serve(client).await
}
