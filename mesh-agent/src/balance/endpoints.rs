//! Endpoints that may be picked, and by what they are known again.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;

use crate::model::traffic::{BalanceBy, HashOn, Traffic};
use crate::model::{
    Endpoint, Name, Refused, Service, ServicePort, Snapshot, Tier, UpstreamAddr, WorkloadKey,
};

/// Who connects, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'s> {
    /// What session affinity knows it by: the pod's `uid`.
    pub(crate) pod: &'s Name,
    pub(crate) node: &'s str,
    /// `None` where nobody says it: then no hint for zones is for it.
    pub(crate) zone: Option<&'s str>,
}

/// Endpoints that one exchange has tried already.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    pub(super) tried: SmallVec<[UpstreamAddr; 1]>,
    /// What a consistent hash of requests is of.
    hash: Option<u64>,
    /// Nothing that becomes of it is told: it can show of no endpoint that it works.
    is_copy: bool,
    session: Option<Session>,
    /// The cookie that it is given, and its value.
    given: Option<(u64, Box<str>)>,
    /// Faults that policies ask for.
    injected: Injected,
    /// Where the dice stood for its first decision.
    pub(crate) luck: u64,
}

/// Whether a fault is injected is found out once, however often it is decided on.
#[derive(Debug, Default)]
enum Injected {
    #[default]
    Unknown,
    Known,
    Delayed(Box<Delayed>),
}

/// It is decided on anew behind a delay that is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delayed {
    pub(crate) lasts: Duration,
    /// What is injected then, and until when.
    pub(crate) then: Option<(Refused, SystemTime)>,
}

/// Of the requests that one client makes, by the hash of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    wanted: Option<u64>,
    got: Option<u64>,
}

impl Attempt {
    /// Of a copy, whose answer nobody looks at.
    pub(crate) fn of_copy() -> Self {
        Self {
            is_copy: true,
            ..Self::default()
        }
    }

    /// Is it to be found out now whether a fault is injected?
    pub(crate) fn draws(&mut self) -> bool {
        let is_first = self.is_new() && !self.is_copy && matches!(self.injected, Injected::Unknown);
        if is_first {
            self.injected = Injected::Known;
        }
        is_first
    }

    pub(crate) fn delay(&mut self, delayed: Delayed) {
        self.injected = Injected::Delayed(Box::new(delayed));
    }

    /// It is to wait for so long.
    pub(crate) fn delayed(&self) -> Option<Duration> {
        match &self.injected {
            Injected::Delayed(delayed) => Some(delayed.lasts),
            Injected::Unknown | Injected::Known => None,
        }
    }

    /// It has waited: what comes then.
    pub(crate) fn has_waited(&mut self) -> Option<(Refused, SystemTime)> {
        self.delayed()?;
        match std::mem::replace(&mut self.injected, Injected::Known) {
            Injected::Delayed(delayed) => delayed.then,
            Injected::Unknown | Injected::Known => None,
        }
    }

    /// It may be the one request that shows whether an ejected endpoint works again.
    pub(super) fn may_probe(&self) -> bool {
        !self.is_copy
    }

    /// A consistent hash of the request is of this.
    pub(crate) fn hash_of(&mut self, value: Option<&[u8]>) {
        self.hash = value.map(|value| foldhash::quality::FixedState::default().hash_one(value));
    }

    /// It is of a session, which goes on at that endpoint if it can.
    pub(crate) fn of_session(&mut self, endpoint: Option<u64>) {
        self.session.get_or_insert_default().wanted = endpoint;
    }

    /// Where the session goes on.
    pub(crate) fn session_at(&self) -> Option<u64> {
        self.session?.got
    }

    pub(super) fn is_wanted(&self, endpoint: &Endpoint) -> bool {
        let wanted = self.session.and_then(|session| session.wanted);
        wanted == Some(session_hash(endpoint))
    }

    pub(super) fn has_session(&self) -> bool {
        self.session.is_some_and(|session| session.wanted.is_some())
    }

    pub(super) fn picked(&mut self, endpoint: &Endpoint) {
        self.tried.push(endpoint.addr);
        if let Some(session) = &mut self.session {
            session.got = Some(session_hash(endpoint));
        }
    }

    pub(super) fn hash(&self) -> Option<u64> {
        self.hash
    }

    #[cfg(test)]
    pub(crate) fn hash_now(&self) -> Option<u64> {
        self.hash
    }

    /// The cookie that it is given has this value.
    pub(crate) fn given(&self) -> Option<u64> {
        self.given.as_ref().map(|(value, _)| *value)
    }

    /// As its answer has it.
    pub(crate) fn given_line(&self) -> Option<&str> {
        self.given.as_ref().map(|(_, line)| &**line)
    }

    pub(crate) fn give(&mut self, value: u64, line: String) {
        self.given = Some((value, line.into()));
    }

    /// Nothing was tried.
    pub(crate) fn is_new(&self) -> bool {
        self.tried.is_empty()
    }

    /// What was picked last was asked nothing.
    pub(crate) fn was_not_taken(&mut self) {
        self.tried.pop();
    }

    /// Two were tried.
    pub(crate) fn is_second(&self) -> bool {
        self.tried.len() > 1
    }

    /// What was picked last had been tried before: there is nobody else.
    pub(crate) fn is_repeated(&self) -> bool {
        let last = self.tried.split_last();
        last.is_some_and(|(last, before)| before.contains(last))
    }

    pub(super) fn has_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.contains(&endpoint.addr)
    }
}

/// The endpoint with the most is the key's: another one that comes or goes changes
/// nothing for the rest. The same in each process.
pub(super) fn weight(key: u64, endpoint: &Endpoint) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    key.hash(&mut hasher);
    match &endpoint.workload {
        Some(pod) => (&pod.key, &pod.uid, endpoint.addr.port()).hash(&mut hasher),
        None => endpoint.addr.hash(&mut hasher),
    }
    hasher.finish()
}

/// By what a client knows the endpoint of its session.
fn session_hash(endpoint: &Endpoint) -> u64 {
    weight(0, endpoint)
}

/// From where a Service's endpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// From all nodes.
    Cluster,
    /// From the client's own (`internalTrafficPolicy: Local`).
    Node,
}

/// How well an endpoint fits; only those that fit best are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// A hint is for the client's node.
    HintedNode,
    /// A hint is for its zone.
    HintedZone,
    Ready,
    Terminating,
    /// Of a pod that is not known.
    Unknown,
}

impl Fit {
    /// Of those that are as good but for the place that they are for.
    pub(super) fn tier(self) -> Self {
        match self {
            Self::HintedNode | Self::HintedZone | Self::Ready => Self::Ready,
            Self::Terminating | Self::Unknown => self,
        }
    }
}

/// The endpoints of one port of a Service, of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates<'s> {
    pub(crate) service: &'s Arc<Service>,
    pub(crate) port: &'s ServicePort,
    pub(super) client: Client<'s>,
    pub(super) is_ipv4: bool,
    reach: Reach,
}

impl<'s> Candidates<'s> {
    /// Those of the family of `called`, the address that the client calls.
    #[must_use]
    pub(crate) fn new(
        (service, port): (&'s Arc<Service>, &'s ServicePort),
        (client, called): (Client<'s>, IpAddr),
        reach: Reach,
    ) -> Self {
        Self {
            service,
            port,
            client,
            is_ipv4: called.is_ipv4(),
            reach,
        }
    }

    /// What is said of how they are used.
    pub(crate) fn traffic(&self) -> &'s Arc<Traffic> {
        self.service.traffic(self.port)
    }

    pub(crate) fn hash_on(&self) -> Option<&'s HashOn> {
        match &self.traffic().load_balancer.by {
            BalanceBy::ConsistentHash(on) => Some(on),
            BalanceBy::PeakEwma
            | BalanceBy::LeastRequest
            | BalanceBy::RoundRobin
            | BalanceBy::Random => None,
        }
    }

    /// Which of the four kinds a worker's clients have.
    pub(super) fn kind(&self) -> usize {
        usize::from(self.is_ipv4) + 2 * usize::from(self.reach == Reach::Node)
    }

    /// Of the client, the same in each process.
    pub(super) fn client_hash(&self) -> u64 {
        foldhash::quality::FixedState::default().hash_one(self.client.pod)
    }

    /// Each of them, in the configuration's order: taking a look is no pick.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'s Endpoint> + use<'s> {
        let candidates = *self;
        let best = self.fitting().map(|(_, fit)| fit).min();
        let fitting = candidates.fitting();
        fitting
            .filter(move |(_, fit)| Some(*fit) == best)
            .map(|(endpoint, _)| endpoint)
    }

    fn fitting(&self) -> impl Iterator<Item = (&'s Endpoint, Fit)> + use<'s> {
        let candidates = *self;
        let all = candidates.port.endpoints.iter();
        all.filter_map(move |endpoint| Some((endpoint, candidates.fit(endpoint)?)))
    }

    /// Which rule of the Service says that it is these, for people.
    pub(crate) fn chosen_by(&self) -> Vec<String> {
        let mut rules = Vec::new();
        let name = &self.service.key;
        if self.reach == Reach::Node {
            rules.push(format!(
                "internalTrafficPolicy of {name} is Local: only endpoints on the client's node are used"
            ));
        }
        let best = self.fitting().map(|(_, fit)| fit).min();
        rules.extend(match best {
            Some(Fit::HintedNode) => Some(format!(
                "hints of {name} keep to the client's node ({})",
                self.client.node
            )),
            Some(Fit::HintedZone) => Some(format!(
                "hints of {name} keep to the zone of the client's node ({})",
                self.client.zone.unwrap_or_default()
            )),
            Some(Fit::Terminating) => Some(format!(
                "{name} has no ready endpoint: the last that serve while they end are used"
            )),
            Some(Fit::Ready | Fit::Unknown) | None => None,
        });
        if let Some(lasts) = self.service.affinity {
            rules.push(format!(
                "sessionAffinity of {name}: a pod's connections go to one of these, until it makes none for {} s",
                lasts.as_secs()
            ));
        }
        rules
    }

    /// Are there any, were it not for the node that they are on?
    pub(crate) fn has_others(&self) -> bool {
        let anywhere = Self {
            reach: Reach::Cluster,
            ..*self
        };
        anywhere.fitting().next().is_some()
    }

    /// `None` where it may not be picked at all. As kube-proxy takes hints: those
    /// for nodes first, either kind only where each ready endpoint has one, and
    /// all endpoints where none of them is for the client.
    pub(super) fn fit(&self, endpoint: &Endpoint) -> Option<Fit> {
        if endpoint.addr.ip().is_ipv4() != self.is_ipv4 {
            return None;
        }
        let is_near = || {
            endpoint
                .node()
                .is_some_and(|node| *node == *self.client.node)
        };
        if self.reach == Reach::Node && !is_near() {
            return None;
        }
        match endpoint.tier {
            Tier::Ready if self.reach == Reach::Cluster => Some(self.hinted(endpoint)),
            Tier::Ready => Some(Fit::Ready),
            Tier::Terminating => Some(Fit::Terminating),
            Tier::Unknown => Some(Fit::Unknown),
        }
    }

    fn hinted(&self, endpoint: &Endpoint) -> Fit {
        let hints = self.port.hinted.of_family(self.is_ipv4);
        let Some(place) = endpoint.place.as_deref() else {
            return Fit::Ready;
        };
        let zone = self.client.zone;
        if hints.nodes && place.for_nodes.iter().any(|n| *n == *self.client.node) {
            Fit::HintedNode
        } else if hints.zones && place.for_zones.iter().any(|z| zone == Some(z.as_str())) {
            Fit::HintedZone
        } else {
            Fit::Ready
        }
    }
}

/// An endpoint is a port of a pod; one that no pod is behind goes by its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Pod {
        key: WorkloadKey,
        uid: String,
        port: u16,
    },
    Address(SocketAddr),
}

impl Id {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        match &endpoint.workload {
            Some(pod) => Self::Pod {
                key: pod.key.clone(),
                uid: pod.uid.to_string(),
                port: endpoint.addr.port(),
            },
            None => Self::Address(endpoint.addr.get()),
        }
    }

    pub(super) fn is(&self, endpoint: &Endpoint) -> bool {
        match (self, &endpoint.workload) {
            (Self::Pod { key, uid, port }, Some(pod)) => {
                *port == endpoint.addr.port() && *key == pod.key && pod.uid == *uid
            }
            (Self::Address(at), None) => *at == endpoint.addr.get(),
            (Self::Pod { .. }, None) | (Self::Address(_), Some(_)) => false,
        }
    }

    /// Is there still that pod? An address alone tells nothing of who has it.
    pub(super) fn is_in(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Pod { key, uid, .. } => {
                let pod = snapshot.workloads.get(key);
                pod.is_some_and(|pod| pod.uid == *uid)
            }
            Self::Address(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
