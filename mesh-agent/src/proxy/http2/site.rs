//! Who decides of a client connection's requests, and what is decided of one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client_connection::ClientConnection;
use super::line::Line;
use crate::balance::{Attempt, InFlight, Leave};
use crate::http::answer::Answer;
use crate::http::h2 as http2;
use crate::model::http_route::Retry;
use crate::model::{Edits, Flow, RequestEnd, RequestHead, RouteRef, RuleRef};
use crate::proxy::context::ConnectionContext;
use crate::proxy::http::{Hold, SendCopies, Waited};
use crate::proxy::registry::Watched;
use crate::proxy::times::Times;

/// Where requests of a client connection go, and by what leave.
pub(in crate::proxy) trait Site: 'static {
    /// What makes a line fit for a request.
    type Kind: 'static;

    fn context(&self) -> &Rc<ConnectionContext>;

    fn connection(&self) -> &ClientConnection;

    /// Is the client in the mesh?
    fn is_meshed(&self) -> bool;

    /// Is the time that its callers give their requests this agent's to keep? At their
    /// side it is, where it counts from.
    fn keeps_deadlines(&self) -> bool;

    /// By the configuration that holds now.
    /// `attempt`: what was tried of it already.
    fn decide(
        &self,
        head: &RequestHead<'_>,
        parts: &http2::request::Parts,
        attempt: &mut Attempt,
    ) -> RequestDecision<Self::Kind>;

    /// May it be tried again, wherever? Asked before the wait for it.
    fn leave(&self, attempt: &Attempt) -> Option<Leave>;

    /// Where the last try got no answer that is passed on, may it go to this one?
    fn may_again(&self, load: &InFlight, waited: Waited, attempt: &Attempt) -> bool;

    /// Where the server of the last try had no room for it, may it go to this one, or
    /// once more to the same?
    fn may_repeat(&self, load: Option<&InFlight>) -> bool;
}

/// Where a request goes; or the agent's own answer, and what it is to log and metrics.
/// Boxed: a large one is moved several times.
pub(super) type Choice<K> = Result<Box<UpstreamRequest<K>>, (Answer, RequestEnd)>;

/// What was decided of a request by its head.
pub(in crate::proxy) struct RequestDecision<K> {
    pub(in crate::proxy) forward: Choice<K>,
    /// Of the endpoint that was picked for it.
    pub(in crate::proxy) load: Option<InFlight>,
    pub(in crate::proxy) flow: Arc<Flow>,
    pub(in crate::proxy) route: Option<RouteRef>,
    /// The rule of a policy that said yes or no.
    pub(in crate::proxy) rule: Option<RuleRef>,
}

/// A request that goes on.
pub(in crate::proxy) struct UpstreamRequest<K> {
    pub(in crate::proxy) line: Rc<Line<K>>,
    pub(in crate::proxy) request: http2::request::Parts,
    /// Of the answer.
    pub(in crate::proxy) response: Edits,
    pub(in crate::proxy) times: Times,
    /// Of the first decision alone.
    pub(in crate::proxy) copies: Option<SendCopies>,
    /// Its route asks for no retry of any kind.
    pub(in crate::proxy) is_off: bool,
    /// Answers behind which it may go once more.
    pub(in crate::proxy) hold: Hold,
    /// Of its route.
    pub(in crate::proxy) retry: Option<Retry>,
    /// When it is not answered by then another endpoint is asked as well.
    pub(in crate::proxy) hedging: Option<Duration>,
    /// Its leave, that may be taken back.
    pub(in crate::proxy) watched: Option<Watched>,
    /// Where a line that cannot be opened looks as it would without the mesh.
    pub(in crate::proxy) is_outside: bool,
}
