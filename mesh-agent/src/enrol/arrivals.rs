//! Pods that the container runtime has just given a network namespace.
//!
//! Whoever hears of one (the CNI plugin, through its server) hands it over while
//! the runtime waits, and is told what became of it. An arrival says *where* a pod
//! is, better than any search, and sooner than its status names an address; whether
//! it is wanted is the configuration's word alone. What is true of a pod is its UID,
//! its sandbox and its namespace's cookie: a sandbox that is made anew under the same
//! UID takes the old one's place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::model::{PodIps, Snapshot, Workload, WorkloadKey};
use crate::sys::netns::Netns;

/// Arrivals that wait to be taken up, and of whose pods a place is remembered.
pub(crate) const MAX_ARRIVALS: usize = 64;
const MAX_PLACES: usize = mesh_common::abi::MAX_PODS as usize;

/// What the runtime says of a pod's new sandbox.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// As the runtime knows it: of a static pod the hash of its manifest.
    pub(crate) uid: String,
    /// `CNI_CONTAINERID`.
    pub(crate) sandbox: String,
    pub(crate) netns: OwnedFd,
    /// Those that the plugins before gave it; none where they do not tell.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Enrolled,
    /// It is none of the mesh's pods.
    Outside {
        why: String,
    },
    /// It is wanted, or that could not be told, and it is not enrolled.
    Refused {
        why: String,
    },
}

/// What an arrival hears: at last an admission, until then what is waited for.
#[derive(Clone, Debug)]
enum Word {
    Waits(String),
    Said(Admission),
}

/// For whoever hears of arrivals; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals(mpsc::Sender<Arrived>);

impl Arrivals {
    /// Waits until the pod is enrolled, or known to be none of the mesh's, or
    /// cannot be enrolled; what is not decided by `within` is refused, with what
    /// it waited for. May be given up at any time: an arrival that nobody waits for is forgotten.
    pub(crate) async fn arrive(&self, arrival: Arrival, within: Duration) -> Admission {
        let waits = "the agent has not looked at it yet";
        let (told, mut word) = watch::channel(Word::Waits(waits.to_owned()));
        let decided = async {
            let arrived = Arrived { arrival, told };
            if self.0.send(arrived).await.is_err() {
                return None;
            }
            let said = word.wait_for(|word| matches!(word, Word::Said(_))).await;
            said.ok().map(|word| word.clone())
        };
        let why = match tokio::time::timeout(within, decided).await {
            Ok(Some(Word::Said(admission))) => return admission,
            Ok(_) => "the agent is stopping".to_owned(),
            Err(_) => match word.borrow().clone() {
                Word::Said(admission) => return admission,
                Word::Waits(why) => why,
            },
        };
        Admission::Refused { why }
    }
}

/// Why a wanted pod is not enrolled.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) why: String,
    /// As long as the pod is what it is: nobody needs to wait.
    pub(super) lasts: bool,
}

/// One that is handed over to the reconciler.
#[derive(Debug)]
pub(crate) struct Arrived {
    arrival: Arrival,
    told: watch::Sender<Word>,
}

impl Arrived {
    /// As the runtime knows it.
    pub(super) fn uid(&self) -> &str {
        &self.arrival.uid
    }
}

/// The reconciler's end.
#[derive(Debug)]
pub(crate) struct Queue(mpsc::Receiver<Arrived>);

impl Queue {
    /// The next one; cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Arrived> {
        self.0.recv().await
    }

    /// One more that has come already: of a burst, as when a node starts, all are taken up by
    /// one pass.
    pub(crate) fn waiting(&mut self) -> Option<Arrived> {
        self.0.try_recv().ok()
    }
}

#[must_use]
pub(crate) fn arrivals() -> (Arrivals, Queue) {
    let (sender, receiver) = mpsc::channel(MAX_ARRIVALS);
    (Arrivals(sender), Queue(receiver))
}

/// Where a pod is, as its runtime said.
#[derive(Debug)]
pub(super) struct Place {
    key: WorkloadKey,
    sandbox: String,
    pub(super) netns: Arc<Netns>,
    pub(super) ips: PodIps,
    /// Whoever waits for it.
    told: Option<watch::Sender<Word>>,
    /// When it came, and then when it was told.
    since: Instant,
}

/// The places that are known, by the UID that the runtime knows.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Place>);

impl Places {
    pub(super) fn of(&self, workload: &Workload) -> Option<&Place> {
        let place = self.0.get(workload.runtime_uid().as_str())?;
        (place.key == workload.key).then_some(place)
    }

    /// A pod is where its sandbox is and has the addresses that this was given:
    /// its status names them later, and after a reboot for a while those of before.
    pub(super) fn applied(&self, workload: &Arc<Workload>) -> Arc<Workload> {
        match self.of(workload) {
            Some(place) if place.ips != workload.ips && !place.ips.is_empty() => {
                Arc::new(Workload {
                    ips: place.ips,
                    ..Workload::clone(workload)
                })
            }
            _ => workload.clone(),
        }
    }

    /// `host`: the node's own namespace.
    pub(super) fn take(&mut self, arrived: Arrived, host: &Netns) {
        let (uid, sandbox) = (&arrived.arrival.uid, &arrived.arrival.sandbox);
        tracing::debug!(uid, sandbox, "a pod has arrived");
        if let Err((told, why)) = self.place(arrived, host) {
            tracing::warn!(why, "a pod that arrived is refused");
            told.send_replace(Word::Said(Admission::Refused { why }));
        }
    }

    fn place(
        &mut self,
        arrived: Arrived,
        host: &Netns,
    ) -> Result<(), (watch::Sender<Word>, String)> {
        let Arrived { arrival, told } = arrived;
        let key = WorkloadKey::new(arrival.namespace, arrival.name);
        let ips = PodIps::first_of_each(&arrival.addresses);
        let netns = match Netns::of_pod(arrival.netns, ips) {
            Ok(netns) => netns,
            Err(error) => return Err((told, error.to_string())),
        };
        let why = if netns.cookie() == host.cookie() {
            "its network namespace is the node's own"
        } else if self.is_anothers(&arrival.uid, netns.cookie()) {
            "its network namespace is another pod's"
        } else if self.0.len() >= MAX_PLACES && !self.0.contains_key(&arrival.uid) {
            "the node has more pods than the agent can serve"
        } else {
            let place = Place {
                key,
                sandbox: arrival.sandbox,
                netns: Arc::new(netns),
                ips,
                told: Some(told),
                since: Instant::now(),
            };
            self.0.insert(arrival.uid, place);
            return Ok(());
        };
        Err((told, why.to_owned()))
    }

    /// Forgets those that are told as left; not while their runtimes wait. Was there any?
    pub(super) fn forget(
        &mut self,
        mut is_left: impl FnMut(&str, &Netns, Instant) -> bool,
    ) -> bool {
        let before = self.0.len();
        self.0.retain(|uid, place| {
            let stays = place.told.is_some() || !is_left(uid, &place.netns, place.since);
            if !stays {
                tracing::info!(pod = %place.key, sandbox = place.sandbox, "its sandbox is another one by now");
            }
            stays
        });
        self.0.len() < before
    }

    /// Is it where another pod has arrived?
    pub(super) fn is_at(&self, workload: &Workload, cookie: u64) -> bool {
        self.is_anothers(workload.runtime_uid(), cookie)
    }

    fn is_anothers(&self, uid: &str, cookie: u64) -> bool {
        let mut others = self.0.iter().filter(|(other, _)| other.as_str() != uid);
        others.any(|(_, place)| place.netns.cookie() == cookie)
    }

    /// Tells those who wait, and forgets the places of pods that are not the mesh's
    /// and that nobody waits for. `refusals`: why wanted pods are not enrolled.
    pub(super) fn answer(
        &mut self,
        snapshot: &Snapshot,
        is_enrolled: impl Fn(&WorkloadKey, u64) -> bool,
        refusals: &BTreeMap<WorkloadKey, Refusal>,
    ) {
        self.0.retain(|uid, place| {
            let known = snapshot.workloads.get(&place.key);
            let known = known.filter(|workload| **workload.runtime_uid() == **uid);
            let refusal = refusals.get(&place.key);
            let is_served = || is_enrolled(&place.key, place.netns.cookie());
            let word = match known {
                None => Word::Waits(UNKNOWN.to_owned()),
                Some(workload) if !workload.is_enrolled() => Word::Said(Admission::Outside {
                    why: OUTSIDE.to_owned(),
                }),
                Some(_) if refusal.is_none() && is_served() => Word::Said(Admission::Enrolled),
                Some(_) => match refusal.cloned() {
                    None => Word::Waits(UNKNOWN.to_owned()),
                    Some(Refusal { why, lasts: true }) => Word::Said(Admission::Refused { why }),
                    Some(Refusal { why, .. }) => Word::Waits(why),
                },
            };
            place.tell(word);
            match &place.told {
                Some(told) => !told.is_closed(),
                None => match known {
                    Some(workload) => workload.is_enrolled(),
                    // It may be it, and be wanted.
                    None => snapshot.unreadable_pods.contains(&place.key),
                },
            }
        });
    }
}

impl Place {
    fn tell(&mut self, word: Word) {
        let Some(told) = self.told.take() else { return };
        self.since = Instant::now();
        if let Word::Said(admission) = &word {
            tracing::debug!(pod = %self.key, sandbox = self.sandbox, ?admission, "told");
            told.send_replace(word);
        } else {
            told.send_replace(word);
            self.told = Some(told);
        }
    }
}

const UNKNOWN: &str = "the configuration does not name it yet";
const OUTSIDE: &str = "neither it nor its namespace is labelled mesh-agent.io/enrolled=true";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Enrolment;

    fn arrival(uid: &str, sandbox: &str) -> Arrival {
        Arrival {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
            sandbox: sandbox.to_owned(),
            netns: std::fs::File::open("/proc/thread-self/ns/net")
                .expect("a namespace")
                .into(),
            addresses: Vec::new(),
        }
    }

    /// Hands one over, and what was handed over.
    async fn hand_over(
        uid: &str,
        within: Duration,
    ) -> (tokio::task::JoinHandle<Admission>, Arrived, Queue) {
        let (arrivals, mut queue) = arrivals();
        let arrival = arrival(uid, "s1");
        let waits = tokio::spawn(async move { arrivals.arrive(arrival, within).await });
        let arrived = queue.next().await.expect("one");
        (waits, arrived, queue)
    }

    /// As [`Places::take`], without entering the namespace.
    fn placed(arrived: Arrived, cookie_of: Arc<Netns>) -> Places {
        let place = Place {
            key: WorkloadKey::new("shop", "web"),
            sandbox: arrived.arrival.sandbox,
            netns: cookie_of,
            ips: PodIps::default(),
            told: Some(arrived.told),
            since: Instant::now(),
        };
        Places(BTreeMap::from([(arrived.arrival.uid, place)]))
    }

    fn snapshot(uid: &str, enrolment: Enrolment) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut web = Workload::for_test("shop", "web");
        web.uid = uid.into();
        web.enrolment = enrolment;
        snapshot.workloads.insert(Arc::new(web));
        snapshot
    }

    const WANTED: Enrolment = Enrolment::Yes(crate::model::OnAgentDown::Closed);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_nobody_decides_is_refused_in_time_and_says_what_it_waited_for() {
        let (waits, arrived, _queue) = hand_over("u1", SECOND).await;
        arrived
            .told
            .send_replace(Word::Waits("no certificate".to_owned()));
        let refused = waits.await.expect("an answer");
        assert_eq!(
            refused,
            Admission::Refused {
                why: "no certificate".to_owned()
            }
        );
        assert!(arrived.told.is_closed(), "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_stops_refuses() {
        let (arrivals, queue) = arrivals();
        drop(queue);
        let said = arrivals.arrive(arrival("u1", "s1"), SECOND).await;
        assert!(matches!(said, Admission::Refused { why } if why.contains("stopping")));
    }

    #[tokio::test(start_paused = true)]
    async fn another_pod_of_the_same_name_is_not_the_one_that_arrived() {
        let Ok(here) = Netns::current().map(Arc::new) else {
            // Entering a namespace needs privileges.
            return;
        };
        let cookie = here.cookie();
        let none = BTreeMap::new();
        let (waits, arrived, _queue) = hand_over("u2", SECOND).await;
        let mut places = placed(arrived, here);
        let enrolled = |_: &WorkloadKey, at: u64| at == cookie;
        // Its predecessor is there still, and in the mesh or not.
        for before in [WANTED, Enrolment::No(crate::model::Outside::NotAsked)] {
            places.answer(&snapshot("u1", before), enrolled, &none);
            assert!(!waits.is_finished() && places.0.len() == 1);
        }
        // A certificate or a program is missing: it waits, and is told so at the end.
        let key = WorkloadKey::new("shop", "web");
        let refusal = |lasts| Refusal {
            why: "no room".to_owned(),
            lasts,
        };
        let refused = BTreeMap::from([(key, refusal(false))]);
        places.answer(&snapshot("u2", WANTED), enrolled, &refused);
        assert!(!waits.is_finished());
        places.answer(&snapshot("u2", WANTED), enrolled, &none);
        assert_eq!(waits.await.expect("an answer"), Admission::Enrolled);
        // Its place is known for as long as it is wanted, and it is itself.
        places.answer(&snapshot("u2", WANTED), enrolled, &refused);
        assert_eq!(places.0.len(), 1);
        places.answer(&snapshot("u3", WANTED), enrolled, &none);
        assert_eq!(places.0.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_can_never_be_enrolled_is_refused_at_once() {
        let Ok(here) = Netns::current().map(Arc::new) else {
            return;
        };
        let (waits, arrived, _queue) = hand_over("u1", SECOND).await;
        let refusal = Refusal {
            why: "a sandbox".to_owned(),
            lasts: true,
        };
        let refused = BTreeMap::from([(WorkloadKey::new("shop", "web"), refusal)]);
        placed(arrived, here).answer(&snapshot("u1", WANTED), |_, _| false, &refused);
        assert!(matches!(waits.await, Ok(Admission::Refused { why }) if why == "a sandbox"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_of_which_not_all_is_known_yet_waits_and_keeps_its_place() {
        let Ok(here) = Netns::current().map(Arc::new) else {
            return;
        };
        let cookie = here.cookie();
        let (waits, arrived, _queue) = hand_over("u1", SECOND).await;
        let mut places = placed(arrived, here);
        let enrolled = |_: &WorkloadKey, at: u64| at == cookie;
        let mut unread = Snapshot::default();
        let key = WorkloadKey::new("shop", "web");
        unread.unreadable_pods = Arc::new([key].into_iter().collect());
        places.answer(&unread, enrolled, &BTreeMap::new());
        assert!(!waits.is_finished());
        places.answer(&snapshot("u1", WANTED), enrolled, &BTreeMap::new());
        assert_eq!(waits.await.expect("an answer"), Admission::Enrolled);
        places.answer(&unread, enrolled, &BTreeMap::new());
        assert_eq!(places.0.len(), 1, "its place is not forgotten meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_not_the_meshs_is_let_go_on_and_not_held() {
        let Ok(here) = Netns::current().map(Arc::new) else {
            return;
        };
        let (waits, arrived, _queue) = hand_over("u1", SECOND).await;
        let mut places = placed(arrived, here);
        places.answer(
            &snapshot("u1", Enrolment::No(crate::model::Outside::NotAsked)),
            |_, _| false,
            &BTreeMap::new(),
        );
        assert!(matches!(waits.await, Ok(Admission::Outside { .. })));
        assert!(places.0.is_empty());
    }
}
