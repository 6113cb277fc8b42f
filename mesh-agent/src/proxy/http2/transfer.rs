//! One exchange between two streams: both bodies at once, each no faster than it is
//! taken, with trailers, answers before the answer, and codes of resets.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::view::{View, grpc_status, is_overflow};
use crate::balance::{Failure, Said};
use crate::http::grpc;
use crate::http::h1::{Bad, InvalidEdit, MAX_INFORMATIONAL};
use crate::http::h2 as http2;
use crate::http::h2::{
    Answered, Cut, Fate, HeaderMap, Informed, Reason, Receiver, Respond, Sender, fate,
};
use crate::io::{self, spare};
use crate::model::Edits;
use crate::proxy::http::{Carried, Held, Hold, SendCopies, Tee};

/// Of a request's body, until its answer begins: as much as goes before the first word
/// of the peer, so that one which did not take it can be left for another.
const KEPT: usize = 64 * 1024;

/// Of a request whose answer is over.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Why an exchange does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client reset it, or has gone.
    Client(Reason),
    /// The upstream took nothing of it.
    NotTaken,
    /// The same, but it takes others.
    Refused,
    /// Its answer is not passed on: it goes once more.
    Again(Held),
    /// The upstream reset it.
    Upstream(Reason),
    /// The upstream's connection failed.
    Lost,
    /// The upstream's answer is none.
    Answer(Bad),
    /// An edit that cannot be made.
    Edit,
}

impl Stop {
    /// What its client said as it left.
    pub(super) fn client_code(&self) -> Option<Reason> {
        match self {
            Self::Client(code) => Some(*code),
            Self::NotTaken
            | Self::Refused
            | Self::Again(_)
            | Self::Upstream(_)
            | Self::Lost
            | Self::Answer(_)
            | Self::Edit => None,
        }
    }

    pub(super) fn of_upstream(error: &http2::Error) -> Self {
        match fate(error) {
            Fate::NotTaken => Self::NotTaken,
            Fate::Refused => Self::Refused,
            Fate::ResetByPeer(code) => Self::Upstream(code),
            Fate::Unknown => Self::Lost,
        }
    }

    fn of_client(error: &http2::Error) -> Self {
        match fate(error) {
            Fate::ResetByPeer(code) => Self::Client(code),
            Fate::NotTaken | Fate::Refused | Fate::Unknown => Self::Client(Reason::CANCEL),
        }
    }

    fn of_client_cut(cut: Cut) -> Self {
        match cut {
            Cut::Reset(code) => Self::Client(code),
            Cut::Error(error) => Self::of_client(&error),
        }
    }
}

impl From<InvalidEdit> for Stop {
    fn from(_: InvalidEdit) -> Self {
        Self::Edit
    }
}

/// The client's side of an exchange.
pub(super) struct Transfer {
    body: Receiver,
    down: Down,
    kept: Kept,
    /// It has no body.
    is_bare: bool,
    view: Rc<View>,
}

/// Where the answer goes.
enum Down {
    Waiting(Respond),
    Passing(Sender),
    /// It has been told all.
    Over,
}

/// What was passed on of a request, as long as it may have to go once more.
struct Kept {
    /// `None`: more than can be kept.
    data: Option<io::Held>,
    trailers: Option<HeaderMap>,
    is_whole: bool,
    /// Bytes that the client may not replace yet.
    owed: usize,
    /// Copies of the request are wanted.
    tee: Option<Tee>,
}

impl Transfer {
    /// `head`: bytes of the request's.
    pub(super) fn new(body: Receiver, respond: Respond, head: usize) -> Self {
        let view = Rc::<View>::default();
        view.sent(head);
        let is_bare = body.is_end();
        if is_bare {
            view.is_bare.set(true);
            view.is_whole(None, None);
        }
        Self {
            body,
            down: Down::Waiting(respond),
            kept: Kept {
                data: Some(io::Held::default()),
                trailers: None,
                is_whole: false,
                owed: 0,
                tee: None,
            },
            is_bare,
            view,
        }
    }

    /// Copies go when all of the request has gone. Before any of it goes.
    pub(super) fn copy_to(&mut self, then: SendCopies) {
        self.kept.tee = Some(Tee::new(0, then));
    }

    /// The request is a head and no more.
    pub(super) fn is_bare(&self) -> bool {
        self.is_bare
    }

    pub(super) fn has_answered(&self) -> bool {
        self.view.answered.get().is_some()
    }

    /// The request is there to be sent to another place, and nothing of an answer has reached
    /// the client.
    pub(super) fn may_replay(&self) -> bool {
        !self.view.has_begun() && self.kept.data.is_some()
    }

    /// Its client speaks gRPC.
    pub(super) fn is_grpc(&self) {
        self.view.is_grpc.set(true);
    }

    /// What is seen of it while it runs.
    pub(super) fn view(&self) -> Rc<View> {
        self.view.clone()
    }

    pub(super) fn carried(&self) -> Carried {
        self.view.carried()
    }

    /// Until the client leaves.
    pub(super) async fn left(&mut self) -> Stop {
        self.down.left().await
    }

    /// The agent's own answer, if none has begun.
    pub(super) async fn answer(&mut self, head: Option<::http::Response<()>>, body: Vec<u8>) {
        let down = std::mem::replace(&mut self.down, Down::Over);
        let (Down::Waiting(respond), Some(head)) = (down, head) else {
            return;
        };
        let Ok(mut sender) = respond.answer(head, body.is_empty()) else {
            return;
        };
        if body.is_empty() {
            return;
        }
        let told = {
            let mut telling = pin!(sender.send(Bytes::from(body)));
            tokio::select! {
                biased; // who has it is done
                told = &mut telling => told,
                // What the client sends meanwhile nobody keeps.
                () = drain(&mut self.body) => telling.await,
            }
        };
        if told.is_ok() {
            // Who has gone meanwhile is told nothing.
            let _gone = sender.finish();
        }
    }

    /// Ends an answer that cannot become whole, with the agent's own word of it.
    pub(super) fn end_with(&mut self, trailers: HeaderMap) {
        if let Down::Passing(sender) = &mut self.down {
            self.view.breaks_off_with(&trailers);
            let _gone = sender.trailers(trailers);
        }
    }

    /// Resets the client's stream. What is queued for it would be thrown away: so the
    /// connection's task has its turn before.
    pub(super) async fn reset(&mut self, code: Reason) {
        if let Down::Passing(_) = &self.down {
            tokio::task::yield_now().await;
        }
        match std::mem::replace(&mut self.down, Down::Over) {
            Down::Waiting(respond) => respond.reset(code),
            Down::Passing(mut sender) => sender.reset(code),
            Down::Over => {}
        }
    }

    /// Behind an answer that was whole before its request: who still sends has a while
    /// to end by itself, for some take the reset that follows for a failure.
    pub(super) async fn linger(&mut self) {
        if self.is_bare || self.kept.is_whole {
            return;
        }
        // Who goes on is reset.
        let _in_time = timeout(LINGER, drain(&mut self.body)).await;
    }

    /// To the end of an answer whose request is whole, and was sent elsewhere.
    pub(super) async fn pass(
        &mut self,
        answer: (http2::response::Parts, Receiver),
        edits: &Edits,
    ) -> Result<(), Stop> {
        pass(answer, (&mut self.down, edits), &self.view).await
    }

    /// To the end of both messages. Where it is dropped the upstream is to be reset.
    pub(super) async fn run(
        &mut self,
        (up, is_bare): (&mut Sender, bool),
        (answered, edits): (&mut Answered, &Edits),
        judge: (Option<&Hold>, impl AsyncFnOnce(Held) -> bool),
    ) -> Result<(), Stop> {
        let Self {
            body,
            down,
            kept,
            view,
            ..
        } = self;
        if is_bare {
            kept.copied();
        }
        let (mut is_sent, mut is_answered) = (is_bare, false);
        let mut upload = pin!(upload(body, kept, up, view));
        let mut download = pin!(download((answered, judge), down, edits, view));
        while !(is_sent && is_answered) {
            tokio::select! {
                biased; // the answer ends what the request may still wait for
                passed = &mut download, if !is_answered => {
                    passed?;
                    is_answered = true;
                }
                passed = &mut upload, if !is_sent => {
                    passed?;
                    is_sent = true;
                }
            }
        }
        Ok(())
    }
}

impl Kept {
    /// The request has gone.
    fn copied(&mut self) {
        if let Some(tee) = self.tee.take() {
            tee.finish(self.trailers.clone());
        }
    }

    /// `answered`: it goes nowhere else.
    fn keep(&mut self, data: &[u8], answered: bool) {
        self.owed += data.len();
        if let Some(tee) = &mut self.tee {
            tee.note(&[data], data.len());
        }
        let has_room = |kept: &io::Held| !answered && kept.len() + data.len() <= spare(KEPT);
        self.data = self.data.take().filter(has_room);
        if let Some(kept) = &mut self.data {
            kept.extend(data);
        }
    }
}

impl Down {
    /// Until the client leaves.
    async fn left(&mut self) -> Stop {
        let left = poll_fn(|cx| match self {
            Self::Waiting(respond) => respond.poll_reset(cx),
            Self::Passing(sender) => sender.poll_reset(cx),
            Self::Over => std::task::Poll::Pending,
        });
        match left.await {
            Ok(code) => Stop::Client(code),
            Err(error) => Stop::of_client(&error),
        }
    }
}

/// Reads what nobody wants, to its end or for as long as that is not much.
async fn drain(body: &mut Receiver) {
    let mut left = LINGER_BYTES;
    while left > 0 {
        match body.data().await {
            Some(Ok(data)) if body.written(data.len()).is_ok() => {
                left = left.saturating_sub(data.len());
            }
            Some(Ok(_) | Err(_)) => return,
            None => break,
        }
    }
    if left > 0 {
        let _nobody_looks = body.trailers().await;
    }
}

/// What the upstream does not want it does not get: how that ends is the answer's
/// to find out.
async fn upload(
    body: &mut Receiver,
    kept: &mut Kept,
    up: &mut Sender,
    view: &View,
) -> Result<(), Stop> {
    if let Some(again) = kept.data.as_ref().filter(|data| !data.is_empty()) {
        if up.send(Bytes::copy_from_slice(again)).await.is_err() {
            return Ok(());
        }
        settle(kept, body)?;
    }
    while !kept.is_whole {
        let data = tokio::select! {
            biased; // no more is read for who has had enough
            _code = poll_fn(|cx| up.poll_reset(cx)) => return Ok(()),
            data = body.data() => data,
        };
        match data {
            Some(Ok(data)) => {
                kept.keep(&data, view.answered.get().is_some());
                view.is_past_keeping.set(kept.data.is_none());
                let passed = data.clone();
                if up.send(data).await.is_err() {
                    return Ok(());
                }
                view.sent_data(&passed);
                settle(kept, body)?;
            }
            Some(Err(error)) => return Err(Stop::of_client(&error)),
            None => {
                let trailers = body.trailers().await;
                let trailers = trailers.map_err(|error| Stop::of_client(&error))?;
                kept.trailers = trailers.map(http2::request_trailers);
                kept.is_whole = true;
                kept.copied();
                view.is_whole(kept.data.as_deref(), kept.trailers.as_ref());
            }
        }
    }
    // Its answer tells whether it was taken.
    let _told_by_the_answer = match kept.trailers.clone() {
        Some(trailers) => {
            view.sent(http2::size(&trailers));
            up.trailers(trailers)
        }
        None => up.finish(),
    };
    Ok(())
}

/// What was passed on the client may send as much again.
fn settle(kept: &mut Kept, body: &mut Receiver) -> Result<(), Stop> {
    let passed = std::mem::take(&mut kept.owed);
    body.written(passed)
        .map_err(|error| Stop::of_client(&error))
}

async fn download(
    (answered, (hold, again)): (
        &mut Answered,
        (Option<&Hold>, impl AsyncFnOnce(Held) -> bool),
    ),
    down: &mut Down,
    edits: &Edits,
    view: &View,
) -> Result<(), Stop> {
    let mut before = 0;
    let (head, body) = loop {
        let informed = tokio::select! {
            biased; // nobody waits for an answer any more
            left = down.left() => return Err(left),
            informed = answered.next() => informed,
        };
        match informed.map_err(|error| Stop::of_upstream(&error))? {
            Informed::Informational(_) if before == MAX_INFORMATIONAL => {
                return Err(Stop::Answer(Bad::Informational));
            }
            Informed::Informational(head) => {
                before += 1;
                let head = http2::passed_back(head, &Edits::default())?;
                if let Down::Waiting(respond) = down {
                    respond
                        .inform(head)
                        .map_err(|error| Stop::of_client(&error))?;
                    view.is_informed.set(true);
                }
            }
            Informed::Final(head, body) => break (head, body),
            Informed::Bad(bad) => return Err(Stop::Answer(bad)),
        }
    };
    let is_end = body.is_end();
    let said = said(hold, &head, is_end);
    let hold = hold.filter(|_| before == 0 && view.is_kept());
    let held = hold.and_then(|hold| held(hold, &head, is_end));
    // An agent's word is no application's answer either.
    let is_failure = said.is_overflow || Failure::of_answer(said.status, said.grpc).is_some();
    if view.has_rival() && (held.is_some() || is_failure) {
        tokio::select! {
            biased; // nobody waits for an answer any more
            left = down.left() => return Err(left),
            // A better one would be the client's.
            () = view.rival_over(said) => {}
        }
    }
    if let Some(held) = held {
        // It may go once more by itself.
        view.wants_rival(None);
        let goes = tokio::select! {
            biased; // nobody waits for an answer any more
            left = down.left() => return Err(left),
            goes = again(held) => goes,
        };
        if goes {
            return Err(Stop::Again(held));
        }
    }
    pass((head, body), (down, edits), view).await
}

/// An answer, to its end.
async fn pass(
    (head, mut body): (http2::response::Parts, Receiver),
    (down, edits): (&mut Down, &Edits),
    view: &View,
) -> Result<(), Stop> {
    let is_end = body.is_end();
    view.begins_with(&head);
    view.received(http2::size(&head.headers) + "HTTP/2 200\r\n\r\n".len());
    let head = http2::passed_back(head, edits)?;
    let Down::Waiting(respond) = std::mem::replace(down, Down::Over) else {
        return Err(Stop::Client(Reason::CANCEL));
    };
    let sender = respond.answer(head, is_end);
    *down = Down::Passing(sender.map_err(|error| Stop::of_client(&error))?);
    if is_end {
        return Ok(());
    }
    loop {
        let data = tokio::select! {
            biased; // nobody reads it any more
            left = down.left() => return Err(left),
            data = body.data() => data,
        };
        let Down::Passing(sender) = down else {
            return Err(Stop::Client(Reason::CANCEL));
        };
        match data {
            Some(Ok(data)) => {
                let passed = data.clone();
                sender.send(data).await.map_err(Stop::of_client_cut)?;
                view.received_data(&passed);
                // The peer may be gone; its data is not.
                let _gone = body.written(passed.len());
            }
            Some(Err(error)) => return Err(stopped_midway(&error)),
            None => {
                let trailers = body.trailers().await;
                let ended = match trailers.map_err(|error| stopped_midway(&error))? {
                    Some(trailers) => {
                        view.ends_with(&trailers);
                        view.received(http2::size(&trailers));
                        sender.trailers(http2::answer_trailers(trailers))
                    }
                    None => sender.finish(),
                };
                return ended.map_err(Stop::of_client_cut);
            }
        }
    }
}

/// What a breaker goes by, as far as it is known with the head.
pub(super) fn said(hold: Option<&Hold>, head: &http2::response::Parts, is_end: bool) -> Said {
    Said {
        status: head.status.as_u16(),
        grpc: grpc_status(&head.headers).filter(|_| is_end),
        is_overflow: hold.is_some_and(|hold| hold.believes) && is_overflow(head),
    }
}

/// An answer of gRPC that is a head alone counts as what its status is in HTTP.
pub(super) fn held(hold: &Hold, head: &http2::response::Parts, is_end: bool) -> Option<Held> {
    let value = |name: &str| head.headers.get(name).map(|value| value.as_bytes());
    let status = head.status.as_u16();
    let of_grpc = grpc_status(&head.headers).filter(|_| is_end && status == 200);
    let in_http = of_grpc.map_or(status, grpc::http_status);
    hold.held((in_http, of_grpc), value)
}

/// Behind the begin of an answer nothing is untaken.
fn stopped_midway(error: &http2::Error) -> Stop {
    match Stop::of_upstream(error) {
        Stop::NotTaken | Stop::Refused => Stop::Upstream(Reason::REFUSED_STREAM),
        stop @ (Stop::Client(_)
        | Stop::Again(_)
        | Stop::Upstream(_)
        | Stop::Lost
        | Stop::Answer(_)
        | Stop::Edit) => stop,
    }
}
