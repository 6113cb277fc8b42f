//! A second try beside the first, at another endpoint, where the first takes long: the
//! first answer that will do is the client's, and the other try is cancelled.
//!
//! Both run within the request's task. The first is an attempt like any other; the second
//! brings the head of its answer and no more, as long as nothing of an answer has reached
//! the client. Whichever is dropped has its stream reset.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Running, show};
use crate::balance::{Attempt, Failure, Outcome};
use crate::http::h1::MAX_INFORMATIONAL;
use crate::http::h2::{Answered, Head, HeadLines, Informed, Receiver, Sender, request, response};
use crate::model::Edits;
use crate::proxy::hedge::{self, Beside, Patience};
use crate::proxy::http::Hold;
use crate::proxy::http2::broken::{Broken, open};
use crate::proxy::http2::deadline;
use crate::proxy::http2::line::Line;
use crate::proxy::http2::retry::Retries;
use crate::proxy::http2::site::{Site, UpstreamRequest};
use crate::proxy::http2::transfer::{Stop, held, said};
use crate::proxy::http2::view::{View, Whole};
use crate::proxy::http2::watch::{Watch, code, cut, until};
use crate::proxy::load::Load;
use crate::proxy::registry::{Cut, Watched};
use crate::proxy::request_report::{Begun, Heard, of_answer};

/// The second try.
struct Second<'r, S> {
    site: Rc<S>,
    view: Rc<View>,
    parts: &'r request::Parts,
    attempt: Attempt,
    /// Of the request.
    began: Instant,
    timed: Instant,
    head: usize,
    is_grpc: bool,
    /// Of its caller; and from when on that is as good as over.
    deadline: Option<Instant>,
    due: Option<Instant>,
    is_sent: &'r Cell<bool>,
}

/// One that goes.
struct Going<K> {
    upstream: Box<UpstreamRequest<K>>,
    begun: Begun,
    beside: Beside,
    rest: Box<Whole>,
}

type AnswerHead = (response::Parts, Receiver);

/// Its answer will do.
struct Won<K> {
    line: Rc<Line<K>>,
    up: Sender,
    answer: AnswerHead,
    response: Edits,
    begun: Begun,
    beside: Beside,
    /// Its leave may be taken back.
    watched: Option<(Watched, Rc<Cut>)>,
    idle: Option<Duration>,
    ends: Option<Instant>,
}

/// What is known first of two tries.
enum Raced<T> {
    First(Result<(), Broken>),
    Second(T),
}

/// `None`: it is over.
type Runs<F> = Option<Pin<Box<F>>>;

impl<S: Site> Running<S> {
    /// One try, and another one where that has no answer `delay` later. `line`: of the first,
    /// and of the second where that wins.
    pub(super) async fn hedged(
        &mut self,
        upstream: Box<UpstreamRequest<S::Kind>>,
        (delay, retries): (Duration, &mut Retries<'_, S::Kind>),
        line: &mut Rc<Line<S::Kind>>,
    ) -> Result<(), Broken> {
        let (view, is_sent) = (self.transfer.view(), Cell::new(false));
        let whole = self.by(upstream.times.whole(self.timed));
        let due = self.deadline.map(|ends| deadline::due(self.began, ends));
        let second = Second {
            site: self.site.clone(),
            view: view.clone(),
            parts: retries.parts,
            attempt: retries.tries.attempt.beside(),
            began: self.began,
            timed: self.timed,
            head: self.head,
            is_grpc: self.client.is_grpc,
            deadline: self.deadline,
            due,
            is_sent: &is_sent,
        };
        let mut second = Some(Box::pin(second.run(delay)));
        let patience = Patience::new(delay, whole);
        view.wants_rival(Some(patience));
        let raced = {
            let first = pin!(self.attempt(upstream, retries));
            race(first, &mut second, &view).await
        };
        view.wants_rival(None);
        let (won, ended) = match raced {
            Raced::Second(won) => {
                let unfit = view.take_failed();
                let failed = unfit.map(|said| of_answer(said, due, Instant::now()));
                (Some((won, failed)), Ok(()))
            }
            // What has begun for the client ends as it does.
            Raced::First(Err(broken))
                if view.has_rival() && !view.has_begun() && may_be_mended(&broken) =>
            {
                match self.second_alone(&mut second, patience).await {
                    Ok(Some(won)) => (Some((won, Some(outcome(&broken)))), Ok(())),
                    Ok(None) => (None, Err(broken)),
                    Err(other) => (None, Err(other)),
                }
            }
            Raced::First(ended) => (None, ended),
        };
        // Before anything is told: it is cancelled at once.
        drop(second);
        view.set_rival(false);
        if is_sent.get() {
            self.told.hedged();
        }
        match won {
            Some((won, failed)) => {
                line.clone_from(&won.line);
                self.pass_won(*won, failed).await
            }
            None => ended,
        }
    }

    /// The first try is over, and has nothing for the client. `None`: nor has the second, in
    /// time.
    async fn second_alone<T>(
        &mut self,
        second: &mut Runs<impl Future<Output = Option<T>>>,
        patience: Patience,
    ) -> Result<Option<T>, Broken> {
        let Some(second) = second else {
            return Ok(None);
        };
        let site = self.site.clone();
        tokio::select! {
            biased; // removal and drain win
            reason = site.context().entry().cut.wait() => Err(Broken::Cut(reason)),
            left = self.transfer.left() => Err(left.into()),
            () = tokio::time::sleep(patience.left(Instant::now())) => Ok(None),
            won = second.as_mut() => Ok(won),
        }
    }

    /// The request is the second try now. `failed`: how the first ended; else it is
    /// cancelled.
    async fn pass_won(&mut self, won: Won<S::Kind>, failed: Option<Outcome>) -> Result<(), Broken> {
        let site = self.site.clone();
        let context = site.context();
        self.told.hedge_won(failed);
        self.told.begin(&context.worker.observe, won.begun);
        self.told.goes_to(won.beside.won());
        let Self { told, transfer, .. } = self;
        show(told, &won.line, site.connection());
        let (view, waits_behind) = (transfer.view(), Cell::new(None));
        let alone = won.watched.as_ref().map(|(_, cut)| &**cut);
        let watch = Watch {
            cuts: (&context.entry().cut, alone),
            idle: won.idle,
            ends: won.ends,
            whole: None,
            waits_behind: &waits_behind,
        };
        let ended = {
            let running = pin!(transfer.pass(won.answer, &won.response));
            watch.run(running, (told, &view)).await
        };
        let Some(broken) = ended else {
            return Ok(());
        };
        let mut up = won.up;
        up.reset(code(&broken));
        Err(broken)
    }
}

/// Until one of them has something for the client, or the first is over.
async fn race<T>(
    mut first: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    second: &mut Runs<impl Future<Output = Option<T>>>,
    view: &View,
) -> Raced<T> {
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = first.as_mut().poll(cx) {
                return Poll::Ready(Raced::First(ended));
            }
            let Some(other) = second else {
                return Poll::Pending;
            };
            if view.is_rival_wanted() {
                match other.as_mut().poll(cx) {
                    Poll::Ready(Some(won)) => return Poll::Ready(Raced::Second(won)),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            // The first may wait for that.
            *second = None;
            view.set_rival(false);
            view.wants_rival(None);
        }
    })
    .await
}

impl<S: Site> Second<'_, S> {
    /// `None`: it is not sent, or has no answer that will do.
    async fn run(mut self, delay: Duration) -> Option<Box<Won<S::Kind>>> {
        tokio::time::sleep(delay).await;
        let Going {
            mut upstream,
            begun,
            mut beside,
            rest,
        } = self.decide()?;
        self.is_sent.set(true);
        self.view.rival_goes(self.attempt.last());
        let (now, config) = (Instant::now(), &self.site.context().worker.agent.config);
        let idle = upstream.times.idle.or(config.idle_timeout);
        let ends = upstream.times.ends(self.timed, now);
        let ends = [ends, self.deadline].into_iter().flatten().min();
        if self.is_grpc {
            deadline::shorten(&mut upstream.request.headers, ends, now);
        }
        let silent = idle.map(|idle| now + idle);
        let watched = upstream.watched.map(|watched| {
            let alone = watched.alone();
            (watched, alone)
        });
        let request = (upstream.request, upstream.times.connect);
        let sent = (request, *rest, self.view.is_bare.get());
        let ended = tokio::select! {
            biased; // a leave that is taken back wins
            _reason = cut(watched.as_ref().map(|(_, cut)| &**cut)) => Err(Outcome::Neutral),
            () = until([ends, silent].into_iter().flatten().min()) => {
                Err(Outcome::Failure(Failure::Timeout))
            }
            answered = answered((&*upstream.line, &upstream.hold, self.due), sent, &mut beside) => {
                answered
            }
        };
        match ended {
            Ok((up, answer)) => Some(Box::new(Won {
                line: upstream.line,
                up,
                answer,
                response: upstream.response,
                begun,
                beside,
                watched,
                idle,
                ends,
            })),
            Err(outcome) => {
                beside.failed(outcome);
                None
            }
        }
    }

    /// Where it goes, if it may.
    fn decide(&mut self) -> Option<Going<S::Kind>> {
        let context = self.site.context();
        // Of a request that is not whole nobody knows how long it is.
        let rest = self.view.take_whole()?;
        let leave = hedge::ask(context, &mut self.attempt)?;
        let mut lines = HeadLines::default();
        let head = Head::of(self.parts, &mut lines).ok()?.head;
        let decided = self.site.decide(&head, self.parts, &mut self.attempt);
        let upstream = decided.forward.ok();
        let load = decided.load.filter(|_| upstream.is_some());
        if !hedge::may_go(context, load.as_ref(), (leave, &self.attempt)) {
            return None;
        }
        let beside = Beside::new(Load::new(load?, context.clone()), decided.flow.clone());
        let begun = Begun {
            flow: decided.flow,
            heard: Heard::of(&head, self.is_grpc, &context.worker.observe),
            route: decided.route,
            rule: decided.rule,
            began: self.began,
            head: self.head,
        };
        let upstream = upstream?;
        Some(Going {
            upstream,
            begun,
            beside,
            rest,
        })
    }
}

/// The answer to the second try, if it will do; what is none says so much of its endpoint.
async fn answered<K>(
    (line, hold, due): (&Line<K>, &Hold, Option<Instant>),
    (request, rest, is_bare): ((request::Parts, Option<Duration>), Whole, bool),
    beside: &mut Beside,
) -> Result<(Sender, AnswerHead), Outcome> {
    let opened = open(line, request, is_bare).await;
    let (mut answered, mut up) = opened.map_err(|broken| outcome(&broken))?;
    beside.connected(Instant::now());
    let sending = async {
        if !is_bare {
            send(&mut up, rest).await;
        }
    };
    // Where the peer wants no more of the request its answer may still come.
    let ((), head) = tokio::join!(sending, head(&mut answered));
    let (head, body) = head?;
    let said = said(Some(hold), &head, body.is_end());
    let outcome = of_answer(said, due, Instant::now());
    if !matches!(outcome, Outcome::Success | Outcome::Shed) {
        return Err(outcome);
    }
    match held(hold, &head, body.is_end()) {
        Some(_) => Err(Outcome::Neutral),
        None => Ok((up, (head, body))),
    }
}

async fn send(up: &mut Sender, rest: Whole) {
    let Whole { data, trailers } = rest;
    let data = Bytes::copy_from_slice(&data);
    if up.send(data).await.is_err() {
        return;
    }
    let _told_by_the_answer = match trailers {
        Some(trailers) => up.trailers(trailers),
        None => up.finish(),
    };
}

/// What comes before it is for nobody.
async fn head(answered: &mut Answered) -> Result<AnswerHead, Outcome> {
    for _ in 0..=MAX_INFORMATIONAL {
        let informed = answered.next().await;
        match informed.map_err(|error| outcome(&Stop::of_upstream(&error).into()))? {
            Informed::Informational(_) => {}
            Informed::Final(head, body) => return Ok((head, body)),
            Informed::Bad(_) => break,
        }
    }
    Err(Outcome::Failure(Failure::Status))
}

/// Another endpoint may have an answer for all that.
fn may_be_mended(broken: &Broken) -> bool {
    match broken {
        Broken::Stopped(
            Stop::NotTaken | Stop::Refused | Stop::Upstream(_) | Stop::Lost | Stop::Answer(_),
        )
        | Broken::NoLine(_)
        | Broken::TimedOut { .. } => true,
        Broken::Stopped(Stop::Client(_) | Stop::Again(_) | Stop::Edit)
        | Broken::Cut(_)
        | Broken::Idle
        | Broken::NotOffered => false,
    }
}

/// What it says of its endpoint.
fn outcome(broken: &Broken) -> Outcome {
    let failure = match broken {
        Broken::NoLine(refused) => return Outcome::of_reason(refused.reason),
        Broken::TimedOut { .. } | Broken::Idle => Some(Failure::Timeout),
        Broken::Stopped(Stop::Upstream(_) | Stop::Lost) => Some(Failure::Reset),
        Broken::Stopped(Stop::Answer(_)) => Some(Failure::Status),
        Broken::Stopped(
            Stop::NotTaken | Stop::Refused | Stop::Again(_) | Stop::Client(_) | Stop::Edit,
        )
        | Broken::Cut(_)
        | Broken::NotOffered => None,
    };
    Outcome::of_failure(failure)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::balance::Said;
    use crate::http::h2::Reason;

    type Ended = Result<(), Broken>;

    async fn raced(
        first: impl Future<Output = Ended>,
        second: impl Future<Output = Option<u8>>,
        view: &View,
    ) -> (Option<Raced<u8>>, bool) {
        view.set_rival(true);
        view.wants_rival(Some(Patience::new(Duration::from_millis(50), None)));
        let (first, mut second) = (pin!(first), Some(Box::pin(second)));
        let within = Duration::from_secs(1);
        let raced = tokio::time::timeout(within, race(first, &mut second, view)).await;
        (raced.ok(), second.is_some())
    }

    const UNFIT: Said = Said {
        status: 503,
        grpc: None,
        is_overflow: false,
    };

    #[tokio::test(start_paused = true)]
    async fn the_first_to_have_something_for_the_client_wins() {
        let view = View::default();
        let (raced_to, goes_on) = raced(ready(Ok(())), ready(Some(2)), &view).await;
        assert!(matches!(raced_to, Some(Raced::First(Ok(())))) && goes_on);
        let (raced_to, _) = raced(pending(), ready(Some(2)), &view).await;
        assert!(matches!(raced_to, Some(Raced::Second(2))));
        // A second one that fails leaves the first alone.
        let waits = async {
            view.rival_over(UNFIT).await;
            Ok(())
        };
        let (raced_to, goes_on) = raced(waits, ready(None), &view).await;
        assert!(matches!(raced_to, Some(Raced::First(Ok(())))) && !goes_on);
        assert!(!view.has_rival() && view.has_failed().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_will_not_do_is_kept_back_a_while_and_no_longer() {
        let view = View::default();
        let began = tokio::time::Instant::now();
        let waits = async {
            view.rival_over(UNFIT).await;
            assert!(!view.is_rival_wanted() && view.has_failed().is_none());
            // And the other one is cancelled, however long this one takes.
            pending().await
        };
        let (raced_to, goes_on) = raced(waits, pending(), &view).await;
        assert!(raced_to.is_none() && !goes_on && !view.has_rival());
        let silent = async {
            view.rival_over(UNFIT).await;
            Ok(())
        };
        let before = began.elapsed();
        let (raced_to, _) = raced(silent, pending(), &view).await;
        assert!(matches!(raced_to, Some(Raced::First(Ok(())))));
        let kept_back = (began.elapsed() - before).as_millis();
        assert!((500..510).contains(&kept_back), "{kept_back}");
    }

    /// Be it an answer before the answer.
    #[tokio::test(start_paused = true)]
    async fn when_something_has_reached_the_client_the_second_is_cancelled() {
        let view = View::default();
        let begins = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            view.is_informed.set(true);
            pending().await
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some(2)
        };
        let (raced_to, goes_on) = raced(begins, late, &view).await;
        assert!(raced_to.is_none() && !goes_on && !view.has_rival());
    }

    #[test]
    fn what_the_client_and_the_mesh_decide_no_other_endpoint_mends() {
        for (broken, is_mended) in [
            (Broken::Stopped(Stop::Lost), true),
            (Broken::Stopped(Stop::NotTaken), true),
            (
                Broken::Stopped(Stop::Upstream(Reason::INTERNAL_ERROR)),
                true,
            ),
            (Broken::TimedOut { is_sent: true }, true),
            (Broken::Stopped(Stop::Client(Reason::CANCEL)), false),
            (Broken::Idle, false),
            (Broken::NotOffered, false),
        ] {
            assert_eq!(may_be_mended(&broken), is_mended);
        }
        let untaken = outcome(&Broken::Stopped(Stop::NotTaken));
        assert_eq!(untaken, Outcome::Neutral);
        let lost = outcome(&Broken::Stopped(Stop::Lost));
        assert_eq!(lost, Outcome::Failure(Failure::Reset));
    }
}
