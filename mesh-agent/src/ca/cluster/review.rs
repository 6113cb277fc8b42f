//! Agents, by their service account's token: the API server says whose it is, and
//! which pod on which node it was made for.
//!
//! While the API server is away, or too much is asked of it from an agent's network,
//! what it said of a token holds on: an agent whose
//! container starts again then shows the same token, and gets its certificates.
//! For a quarter of an hour at most (`Cluster::stale`), and never past the token's end.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::claims::Claims;
use super::config::{Account, Cluster};
use super::pods::{Of, Pods};
use super::questions::Questions;
use crate::ca::errors::Refusal;
use crate::ca::token::{Caller, Denied, Entitled, Proof};
use crate::cluster::{Api, ApiError, Verb};

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Tokens of which the answer is kept.
const MAX_KEPT: usize = 20_000;
/// An answer is not asked for again for this part of `Cluster::stale`, 10 s of a
/// quarter of an hour: the API server keeps its own as long.
const FRESH: u32 = 90;
/// So long the API server is waited for: another replica may know more of the token,
/// and an agent is to have been at all of them soon. Its answer counts when it comes.
const PATIENCE: Duration = Duration::from_millis(500);
/// For a pod that the API server knows and this replica does not yet.
pub(in crate::ca) const LAG: Duration = Duration::from_secs(2);

const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Of an authenticated token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reviewed {
    account: Account,
    pod: String,
    pod_uid: String,
    node: String,
}

struct Kept {
    /// `None`: it was refused.
    reviewed: Option<Reviewed>,
    /// When it was asked about.
    at: Instant,
    /// Of the token, in seconds since 1970.
    ends: u64,
}

type Hash = [u8; 32];
/// One that is under way, for all who show the token meanwhile.
type Question = Shared<BoxFuture<'static, Result<Reviewed, Denied>>>;

pub(in crate::ca) struct Reviews {
    api: Arc<dyn Api>,
    audience: String,
    accounts: Vec<Account>,
    pods: Arc<Pods>,
    kept: Mutex<HashMap<Hash, Kept>>,
    questions: Arc<Questions>,
    /// By token. Each ends by itself, and is bounded by its permit.
    running: Mutex<HashMap<Hash, Question>>,
    fresh: Duration,
    stale: Duration,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    error: String,
    audiences: Vec<String>,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    fn one(&self, name: &str) -> Option<String> {
        match self.extra.get(name).map(Vec::as_slice) {
            Some([one]) if !one.is_empty() => Some(one.clone()),
            _ => None,
        }
    }

    fn account(&self) -> Option<Account> {
        let (namespace, name) = self
            .username
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')?;
        let plain = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
        plain.then(|| Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

fn denied(why: Refusal, said: String) -> Denied {
    Denied {
        why,
        token: None,
        said: Some(said),
    }
}

fn unreviewed() -> Denied {
    denied(
        Refusal::Unreviewed,
        "the API server cannot be asked about the token now".to_owned(),
    )
}

/// A token, and when it was shown.
#[derive(Clone, Copy)]
struct Shown {
    hash: Hash,
    ends: u64,
    now: u64,
}

/// Nobody joins a question that has ended.
struct Over<'r>(&'r Mutex<HashMap<Hash, Question>>, Hash);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Reviews {
    pub(super) fn new(api: Arc<dyn Api>, cluster: &Cluster, pods: Arc<Pods>) -> Self {
        Self {
            api,
            audience: cluster.audience.clone(),
            accounts: cluster.accounts.clone(),
            pods,
            kept: Mutex::default(),
            questions: Arc::default(),
            running: Mutex::default(),
            fresh: cluster.stale / FRESH,
            stale: cluster.stale,
        }
    }

    pub(in crate::ca) async fn check(
        self: &Arc<Self>,
        proof: &Proof<'_>,
    ) -> Result<Caller, Denied> {
        let token = proof.token.ok_or(Refusal::NoToken)?;
        let claims = Claims::read(token).ok_or(Refusal::UnknownToken)?;
        if claims.exp <= proof.now {
            return Err(Refusal::ExpiredToken.into());
        }
        if !claims.is_for(&self.audience) {
            return Err(Refusal::Audience.into());
        }
        let reviewed = self.review(proof, token, claims.exp).await?;
        if proof.node.is_some_and(|node| node != reviewed.node) {
            let said = format!("the token is of a pod on node {}", reviewed.node);
            return Err(denied(Refusal::OtherNode, said));
        }
        self.lives(&reviewed).await?;
        Ok(Caller {
            name: format!("node/{}", reviewed.node),
            node: reviewed.node,
            entitled: Entitled::PodsOfNode,
            token: None,
        })
    }

    async fn review(
        self: &Arc<Self>,
        proof: &Proof<'_>,
        token: &str,
        ends: u64,
    ) -> Result<Reviewed, Denied> {
        let (hash, now): (Hash, u64) = (Sha256::digest(token.as_bytes()).into(), proof.now);
        if let Some(reviewed) = self.kept(&hash, self.fresh, now) {
            return Ok(reviewed);
        }
        let question = self.join(proof.source, token, Shown { hash, ends, now });
        match timeout(PATIENCE, question).await {
            Ok(answer) => answer,
            // No answer is neither yes nor no. It may have come right now.
            Err(_) => self.known(&hash, now).ok_or_else(unreviewed),
        }
    }

    /// The question about the token, which goes on by itself: connections to an API
    /// server that is away may be silent, each for as long as a call may take. Who comes
    /// again meanwhile, as an agent does that hears nothing, asks no second one.
    fn join(self: &Arc<Self>, source: IpAddr, token: &str, of: Shown) -> Question {
        let mut running = self.running.lock();
        if let Some(question) = running.get(&of.hash) {
            return question.clone();
        }
        let (token, reviews) = (Zeroizing::new(token.to_owned()), self.clone());
        let task = tokio::spawn(async move {
            // Also where it panics.
            let _over = Over(&reviews.running, of.hash);
            reviews.question(source, &token, of).await
        });
        let answer = async { task.await.unwrap_or_else(|_| Err(Refusal::Internal.into())) };
        let question = answer.boxed().shared();
        running.insert(of.hash, question.clone());
        question
    }

    /// Bounded by its permit, and by the time that a call may take.
    async fn question(&self, source: IpAddr, token: &str, of: Shown) -> Result<Reviewed, Denied> {
        let Shown { hash, ends, now } = of;
        // Not asked is not answered, either: noise of others takes nobody's word back.
        let Ok(_permit) = self.questions.permit(source).await else {
            return self.known(&hash, now).ok_or_else(|| {
                let said = "too many tokens from this address, or from all, are to be reviewed; try again in a few seconds";
                // Another replica may have room, or know the token.
                denied(Refusal::Unreviewed, said.to_owned())
            });
        };
        // Asked meanwhile by another call of the same agent.
        if let Some(reviewed) = self.kept(&hash, self.fresh, now) {
            return Ok(reviewed);
        }
        let asked = Instant::now();
        match self.ask(token).await {
            Ok(answer) => {
                let reviewed = self.read(&answer.status);
                let kept = Kept {
                    reviewed: reviewed.as_ref().ok().cloned(),
                    at: asked,
                    ends,
                };
                self.keep(hash, kept, now);
                reviewed
            }
            Err(error) => {
                // No answer is neither yes nor no; to be refused is an answer.
                let is_away = matches!(error, ApiError::Away(_));
                let known = is_away.then(|| self.known(&hash, now)).flatten();
                known.ok_or_else(|| {
                    tracing::warn!(%error, "a token cannot be reviewed");
                    unreviewed()
                })
            }
        }
    }

    async fn ask(&self, token: &str) -> Result<Answer, ApiError> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.audience]},
        });
        let answer = self.api.call(PATH, Verb::Create(review)).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// What the API server says, and what of it is demanded.
    fn read(&self, status: &Status) -> Result<Reviewed, Denied> {
        if !status.authenticated || !status.error.is_empty() {
            return Err(Refusal::UnknownToken.into());
        }
        // Who does not look at audiences answers without any.
        if !status.audiences.contains(&self.audience) {
            return Err(Refusal::Audience.into());
        }
        let user = &status.user;
        let account = user.account().filter(|a| self.accounts.contains(a));
        let account = account.ok_or_else(|| {
            let said = format!(
                "{} is no account of agents (--agent-account)",
                user.username
            );
            denied(Refusal::Account, said)
        })?;
        let claims = (user.one(POD_NAME), user.one(POD_UID), user.one(NODE_NAME));
        let (Some(pod), Some(pod_uid), Some(node)) = claims else {
            let said = "the token names no pod and node: it must be a projected one, of Kubernetes 1.30 or later".to_owned();
            return Err(denied(Refusal::NoNodeClaim, said));
        };
        Ok(Reviewed {
            account,
            pod,
            pod_uid,
            node,
        })
    }

    /// The agent's own pod must be there: its token may outlive it.
    async fn lives(&self, reviewed: &Reviewed) -> Result<(), Denied> {
        let of = Of {
            node: &reviewed.node,
            namespace: &reviewed.account.namespace,
            account: &reviewed.account.name,
        };
        let is_there = || self.pods.is_known() && self.pods.is(&reviewed.pod_uid, of);
        if self.pods.wait_until(LAG, is_there).await {
            return Ok(());
        }
        Err(match self.pods.is_known() {
            true => denied(
                Refusal::NoSuchPod,
                format!(
                    "its pod {} is not on node {} any more",
                    reviewed.pod, reviewed.node
                ),
            ),
            false => denied(
                Refusal::Unreviewed,
                "the cluster's pods are not known now".to_owned(),
            ),
        })
    }

    /// What holds of it while it cannot be asked about; what is known of the pods is as
    /// old as that.
    fn known(&self, hash: &Hash, now: u64) -> Option<Reviewed> {
        let is_known = self.pods.is_known();
        is_known.then(|| self.kept(hash, self.stale, now))?
    }

    fn kept(&self, hash: &Hash, age: Duration, now: u64) -> Option<Reviewed> {
        let kept = self.kept.lock();
        let found = kept.get(hash)?;
        let good = found.at.elapsed() < age && found.ends > now;
        good.then(|| found.reviewed.clone())?
    }

    /// What was said before does not count any more, whatever is said now; but for what was
    /// asked after this. A refusal is kept of tokens only that were known: noise takes
    /// nobody's place.
    fn keep(&self, hash: Hash, one: Kept, now: u64) {
        let mut kept = self.kept.lock();
        match kept.get_mut(&hash) {
            Some(before) if before.at > one.at => return,
            Some(before) => {
                *before = one;
                return;
            }
            None if one.reviewed.is_none() => return,
            None => {}
        }
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, k| k.ends > now && k.at.elapsed() < self.stale);
        }
        if kept.len() >= MAX_KEPT {
            let oldest = kept.iter().min_by_key(|(_, k)| k.at).map(|(h, _)| *h);
            oldest.map(|hash| kept.remove(&hash));
        }
        kept.insert(hash, one);
    }
}
