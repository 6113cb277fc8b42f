//! What agents tell beside asking for certificates: what they have in force, and which
//! of their pods they cannot take in. For the conditions and events that the authority's
//! replicas write in a cluster; an authority that does not know the method is not asked
//! again for a while.
//!
//! One of the replicas takes reports, and a Service leads to any of them: an agent calls
//! anew until it meets that one. No connection is held between two reports, and the one
//! that takes them says how often they are wanted: the cost for it does not grow with
//! the number of nodes.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::client::Client;
use super::source::SourceError;

pub(crate) const SERVICE: &str = "mesh_agent.v1.StatusService";
pub(crate) const METHOD: &str = "/mesh_agent.v1.StatusService/Report";

/// Troubles of pods in one report.
pub(crate) const MAX_PODS: usize = 64;
/// Kinds in one report.
pub(crate) const MAX_KINDS: usize = 64;
/// Longer ones are refused whole.
pub(crate) const MAX_MESSAGE: usize = 128 * 1024;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Report {
    #[prost(message, repeated, tag = "1")]
    pub(crate) in_force: Vec<InForce>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) pods: Vec<PodTrouble>,
    /// Pods of which a later report tells: one has room for so many.
    #[prost(uint32, tag = "3")]
    pub(crate) left_out: u32,
}

impl Report {
    /// As much of it as one report has room for, of its pods from that one on, and where
    /// the next one is to go on.
    fn part(&self, from: usize) -> (Self, usize) {
        /// In front of each.
        const HEAD: usize = 8;
        let mut part = Self::default();
        let mut size = HEAD;
        // A kind that is left out is in force nowhere, which is never too much.
        for kind in self.in_force.iter().take(MAX_KINDS) {
            let with_it = size + kind.encoded_len() + HEAD;
            if with_it <= MAX_MESSAGE / 2 {
                size = with_it;
                part.in_force.push(kind.clone());
            }
        }
        let mut size = part.encoded_len() + HEAD;
        let from = if from < self.pods.len() { from } else { 0 };
        let turned = self.pods[from..].iter().chain(&self.pods[..from]);
        for pod in turned.take(MAX_PODS) {
            size += pod.encoded_len() + HEAD;
            if size > MAX_MESSAGE {
                break;
            }
            part.pods.push(pod.clone());
        }
        let left_out = self.pods.len() - part.pods.len();
        part.left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
        let next = (from + part.pods.len()) % self.pods.len().max(1);
        (part, next)
    }
}

/// All objects of a kind are in force as they were at a version of the API server, but
/// for those that are held back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InForce {
    /// As `PLURAL.GROUP`.
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(uint64, tag = "2")]
    pub(crate) version: u64,
    /// As `NAMESPACE/NAME`: what they say now is not understood, and an older version of
    /// theirs is in force, or none.
    #[prost(string, repeated, tag = "3")]
    pub(crate) held_back: Vec<String>,
}

/// A pod of the node that is to be in the mesh, and is not.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PodTrouble {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) uid: String,
    /// In one word that stays the same.
    #[prost(string, tag = "4")]
    pub(crate) reason: String,
    #[prost(string, tag = "5")]
    pub(crate) message: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Answer {
    /// False: another replica takes reports.
    #[prost(bool, tag = "1")]
    pub(crate) is_taken: bool,
    /// Over how long the reports of all nodes about one change are to be spread.
    #[prost(uint32, tag = "2")]
    pub(crate) spread_ms: u32,
    /// When it is to be heard again of a node where nothing changes.
    #[prost(uint32, tag = "3")]
    pub(crate) again_ms: u32,
}

const CALL: Duration = Duration::from_secs(5);
/// Calls until the right replica is met: of two it is missed once in 64 times.
const TRIES: usize = 6;
const SPREAD: Duration = Duration::from_millis(300);
const MAX_SPREAD: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(30);
const MAX_AGAIN: Duration = Duration::from_secs(600);
/// Between two reports of changes.
const SPACING: Duration = Duration::from_secs(1);
/// After one that nobody took.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Where no replica of the authority has such a method: it may be about to be replaced.
const NOT_SERVED: Duration = Duration::from_secs(30);
const LAST_NOT_SERVED: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken(Answer),
    /// None of those that answered.
    NotTaken,
    /// None has the method.
    NotServed,
}

/// Before the next try of what nobody took: longer each time.
struct Pauses {
    not_taken: Duration,
    not_served: Duration,
}

impl Pauses {
    const FIRST: Self = Self {
        not_taken: FIRST_PAUSE,
        not_served: NOT_SERVED,
    };

    /// `None`: it was taken, and later ones begin anew.
    fn after<E>(&mut self, sent: &Result<Sent, E>) -> Option<Duration> {
        let (pause, most) = match sent {
            Ok(Sent::Taken(_)) => {
                *self = Self::FIRST;
                return None;
            }
            Ok(Sent::NotServed) => (&mut self.not_served, LAST_NOT_SERVED),
            Ok(Sent::NotTaken) | Err(_) => (&mut self.not_taken, LAST_PAUSE),
        };
        let now = *pause;
        *pause = (now * 2).min(most);
        Some(now)
    }
}

/// Tells each report, and again from time to time, until cancelled.
pub(super) async fn run(
    client: Arc<Client>,
    mut reports: watch::Receiver<Report>,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tell(&client, &mut reports) => {}
    }
}

/// Ends when nobody makes reports any more.
async fn tell(client: &Client, reports: &mut watch::Receiver<Report>) {
    let mut pauses = Pauses::FIRST;
    let mut from = 0;
    loop {
        let (report, next) = reports.borrow_and_update().part(from);
        // Nothing is in force: there is nothing to be counted yet.
        if report.in_force.is_empty() && report.pods.is_empty() {
            match reports.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        let told = Instant::now();
        let sent = send(client, &report).await;
        if let Err(error) = &sent {
            tracing::debug!(%error, "the authority is not told what is in force");
        }
        if let Some(pause) = pauses.after(&sent) {
            sleep(jittered(pause)).await;
        }
        let Ok(Sent::Taken(answer)) = sent else {
            continue;
        };
        from = next;
        let (spread, again) = wanted(&answer);
        match timeout(jittered(again), reports.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => continue,
        }
        let earliest = told + SPACING.max(spread);
        let own = spread.mul_f64(rand::random_range(0.0..1.0));
        tokio::time::sleep_until(earliest.max(Instant::now() + own)).await;
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.0))
}

/// What it asks for, within bounds.
fn wanted(answer: &Answer) -> (Duration, Duration) {
    let spread = Duration::from_millis(answer.spread_ms.into());
    let again = Duration::from_millis(answer.again_ms.into());
    (
        spread.clamp(SPREAD, MAX_SPREAD),
        again.clamp(AGAIN, MAX_AGAIN),
    )
}

pub(super) async fn send(client: &Client, report: &Report) -> Result<Sent, SourceError> {
    let (mut is_served, mut unavailable) = (false, None);
    for _ in 0..TRIES {
        let mut request = tonic::Request::new(report.clone());
        client.prove(request.metadata_mut()).await?;
        let mut grpc = tonic::client::Grpc::new(client.own_channel().await?);
        let call = async {
            grpc.ready().await?;
            let codec = ProstCodec::<Report, Answer>::default();
            let path = PathAndQuery::from_static(METHOD);
            Ok::<_, SourceError>(grpc.unary(request, path, codec).await)
        };
        let answer = timeout(CALL, call).await;
        let answer = answer.map_err(|_| SourceError::Timeout(client.address().to_owned()))??;
        match answer {
            Ok(answer) if answer.get_ref().is_taken => {
                return Ok(Sent::Taken(answer.into_inner()));
            }
            Ok(_) => is_served = true,
            // An older replica: the next one may be another.
            Err(status) if status.code() == tonic::Code::Unimplemented => {}
            // One that cannot ask about the token now, which another may know.
            Err(status) if status.code() == tonic::Code::Unavailable => unavailable = Some(status),
            Err(status) => return Err(client.refused(&status)),
        }
    }
    if let Some(status) = unavailable.filter(|_| !is_served) {
        return Err(client.refused(&status));
    }
    Ok(match is_served {
        true => Sent::NotTaken,
        false => Sent::NotServed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(n: usize, message: &str) -> PodTrouble {
        PodTrouble {
            namespace: "n".repeat(63),
            name: format!("pod-{n}"),
            uid: format!("uid-{n}"),
            reason: "AnotherMesh".to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_report_is_never_longer_than_is_taken_and_all_pods_are_told_of_in_turn() {
        for message in [String::new(), "\u{1f600}".repeat(500)] {
            let all = Report {
                in_force: vec![InForce {
                    kind: "a.x".to_owned(),
                    version: 7,
                    held_back: vec!["n".repeat(300); 16],
                }],
                pods: (0..200).map(|n| trouble(n, &message)).collect(),
                left_out: 0,
            };
            let (mut from, mut told) = (0, std::collections::BTreeSet::new());
            for _ in 0..5 {
                let (part, next) = all.part(from);
                assert!(part.encoded_len() <= MAX_MESSAGE && part.pods.len() <= MAX_PODS);
                assert_eq!(part.left_out as usize + part.pods.len(), 200);
                assert_eq!(part.in_force, all.in_force);
                told.extend(part.pods.into_iter().map(|pod| pod.name));
                from = next;
            }
            assert_eq!(told.len(), 200);
        }
        let large = |kind: &str, held_back| InForce {
            kind: kind.to_owned(),
            version: 7,
            held_back: vec!["n".repeat(317); held_back],
        };
        let kinds = [large("a.x", 128), large("b.x", 128), large("c.x", 1)];
        let large = Report {
            in_force: kinds.to_vec(),
            ..Report::default()
        };
        let (part, _) = large.part(0);
        assert_eq!(
            part.in_force,
            [kinds[0].clone(), kinds[2].clone()],
            "no room for one"
        );
        let few = Report {
            pods: vec![trouble(0, "")],
            ..Report::default()
        };
        assert_eq!(few.part(9), (few.clone(), 0));
    }

    #[test]
    fn an_authority_without_the_method_is_asked_far_less_often_than_one_that_is_away() {
        let mut pauses = Pauses::FIRST;
        let mut after = |sent: Result<Sent, ()>| {
            let seconds = |pause: Duration| pause.as_secs();
            let all = (0..7).map(|_| pauses.after(&sent).map_or(0, seconds));
            all.collect::<Vec<_>>()
        };
        assert_eq!(after(Err(())), [1, 2, 4, 8, 16, 30, 30]);
        let not_served = [30, 60, 120, 240, 480, 600, 600];
        assert_eq!(after(Ok(Sent::NotServed)), not_served);
        assert_eq!(after(Ok(Sent::NotTaken)), [30; 7]);
        assert_eq!(after(Ok(Sent::Taken(Answer::default()))), [0; 7]);
        assert_eq!(after(Ok(Sent::NotServed)), not_served, "it begins anew");
    }

    #[test]
    fn what_the_authority_asks_for_is_kept_within_bounds() {
        let answer = |spread_ms, again_ms| Answer {
            is_taken: true,
            spread_ms,
            again_ms,
        };
        assert_eq!(wanted(&answer(0, 0)), (SPREAD, AGAIN));
        let seconds = Duration::from_secs;
        assert_eq!(wanted(&answer(2_000, 100_000)), (seconds(2), seconds(100)));
        let most = wanted(&answer(u32::MAX, u32::MAX));
        assert_eq!(most, (MAX_SPREAD, MAX_AGAIN));
    }
}
