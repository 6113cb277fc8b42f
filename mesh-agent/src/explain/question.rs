//! From the words of a question to what the configuration has by that name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::model::{
    OrigDst, PodIps, Service, ServiceKey, Snapshot, SpiffeError, SpiffeId, TrustDomain, Workload,
    WorkloadKey,
};
use crate::observe::explanation::Side;

/// Longest name that is looked at; a SPIFFE id is the longest.
const MAX_NAME: usize = 2048;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswerable {
    #[error("'{0}' is no address, no SPIFFE id, and not of the form NAMESPACE/NAME")]
    Malformed(String),
    #[error("a name is at most {MAX_NAME} bytes long")]
    TooLong,
    #[error("'{0}' is no identity of a workload: {1}")]
    Spiffe(String, SpiffeError),
    #[error("{0} is of another trust domain than this mesh, {1}: nobody can prove to be it here")]
    ForeignTrustDomain(SpiffeId, String),
    #[error("this is no request that an agent would take: {0}")]
    Request(String),
    #[error(
        "'{0}' is no name of a host: a hello that asks for it is refused where a rule or a route goes by names"
    )]
    ServerName(String),
    #[error(
        "a request is read in the open, and no hello with it: ask by METHOD URL, or by the name"
    )]
    NameOfRequest,
    #[error("the port must be 1 to 65535")]
    Port,
    #[error("the configuration has no pod {0}")]
    NoPod(String),
    #[error("the configuration has no Service {0}")]
    NoService(String),
    #[error("the configuration has neither a pod nor a Service {0}")]
    Nothing(String),
    #[error("{0} is a pod and a Service: say pod/{0} or service/{0}")]
    Ambiguous(String),
    #[error("{0} is a virtual address of a Service: nobody connects from it")]
    FromService(IpAddr),
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("{0} and {1} have no address of one family")]
    NoCommonFamily(String, String),
    #[error(
        "{0} looks at the caller's address, and no pod has that identity: ask with a pod or an address"
    )]
    NeedsAddress(String),
}

/// Who connects.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// `None` for an address that no pod has, or an identity that none has.
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) address: IpAddr,
    /// Asked about without a pod.
    identity: Option<SpiffeId>,
}

/// Whom to.
pub(super) enum Goal {
    Pod(Arc<Workload>, [OrigDst; 1]),
    Service(Arc<Service>, Vec<OrigDst>),
    Address([OrigDst; 1]),
}

pub(super) struct Question {
    pub(super) caller: Caller,
    pub(super) goal: Goal,
    pub(super) notes: Vec<String>,
}

impl Question {
    pub(super) fn parse(
        (snapshot, trust_domain): (&Snapshot, &TrustDomain),
        from: &str,
        to: &str,
        port: u16,
    ) -> Result<Self, Unanswerable> {
        if from.len() > MAX_NAME || to.len() > MAX_NAME {
            return Err(Unanswerable::TooLong);
        }
        if port == 0 {
            return Err(Unanswerable::Port);
        }
        let mut notes = Vec::new();
        let caller = caller(snapshot, from, &mut notes)?;
        if let Some(id) = &caller.identity
            && id.trust_domain() != trust_domain.as_str()
        {
            let own = trust_domain.to_string();
            return Err(Unanswerable::ForeignTrustDomain(id.clone(), own));
        }
        let (caller, goal) = meet(snapshot, caller, to, port)?;
        Ok(Self {
            caller,
            goal,
            notes,
        })
    }
}

fn caller(
    snapshot: &Snapshot,
    from: &str,
    notes: &mut Vec<String>,
) -> Result<Caller, Unanswerable> {
    if from.contains("://") {
        let id =
            SpiffeId::parse(from).map_err(|error| Unanswerable::Spiffe(from.to_owned(), error))?;
        return Ok(of_identity(snapshot, id, notes));
    }
    if let Ok(address) = from.parse::<IpAddr>() {
        let address = address.to_canonical();
        if snapshot.by_vip.contains_key(&address) {
            return Err(Unanswerable::FromService(address));
        }
        return Ok(Caller {
            workload: snapshot.by_ip.get(&address).cloned(),
            address,
            identity: None,
        });
    }
    let name = from.strip_prefix("pod/").unwrap_or(from);
    of_pod(pod(snapshot, name)?)
}

/// The first pod that runs as it stands for all.
fn of_identity(snapshot: &Snapshot, id: SpiffeId, notes: &mut Vec<String>) -> Caller {
    let runs_as = |w: &&Arc<Workload>| {
        w.is_enrolled() && w.service_account == id.service_account() && !w.ips.is_empty()
    };
    let mut pods = snapshot
        .workloads
        .in_namespace(id.namespace())
        .filter(runs_as);
    let first = pods.next();
    match first.cloned().map(of_pod) {
        Some(Ok(caller)) => {
            let others = pods.count();
            let name = first.map(|w| w.key.to_string()).unwrap_or_default();
            let also = match others {
                0 => String::new(),
                1 => "; one other has it, too".to_owned(),
                more => format!("; {more} others have it, too"),
            };
            notes.push(format!("as pod {name}, which has this identity{also}"));
            caller.with_identity(id)
        }
        _ => {
            notes.push(
                "no enrolled pod has this identity: it is judged as one on another node".to_owned(),
            );
            Caller {
                workload: None,
                address: Ipv4Addr::UNSPECIFIED.into(),
                identity: Some(id),
            }
        }
    }
}

fn of_pod(workload: Arc<Workload>) -> Result<Caller, Unanswerable> {
    let address = workload.ips.iter().next();
    Ok(Caller {
        address: address.ok_or_else(|| Unanswerable::NoAddress(workload.key.to_string()))?,
        workload: Some(workload),
        identity: None,
    })
}

fn split(name: &str) -> Result<(String, String), Unanswerable> {
    match name.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(Unanswerable::Malformed(name.to_owned())),
    }
}

fn pod(snapshot: &Snapshot, text: &str) -> Result<Arc<Workload>, Unanswerable> {
    let (namespace, name) = split(text)?;
    let found = snapshot.workloads.get(&WorkloadKey::new(namespace, name));
    found
        .cloned()
        .ok_or_else(|| Unanswerable::NoPod(text.to_owned()))
}

fn service(snapshot: &Snapshot, text: &str) -> Result<Arc<Service>, Unanswerable> {
    let (namespace, name) = split(text)?;
    let found = snapshot.services.get(&ServiceKey::new(namespace, name));
    found
        .cloned()
        .ok_or_else(|| Unanswerable::NoService(text.to_owned()))
}

/// The goal, and the caller with an address of a family that both have.
fn meet(
    snapshot: &Snapshot,
    mut caller: Caller,
    to: &str,
    port: u16,
) -> Result<(Caller, Goal), Unanswerable> {
    if let Ok(address) = to.parse::<IpAddr>() {
        let at = OrigDst::new(SocketAddr::new(address, port));
        if !caller.turn_to(&[at.ip()]) {
            return Err(no_common(&caller, to));
        }
        return Ok((caller, Goal::Address([at])));
    }
    if let Some(name) = to.strip_prefix("pod/") {
        return to_pod(caller, pod(snapshot, name)?, port);
    }
    let named = to
        .strip_prefix("service/")
        .or_else(|| to.strip_prefix("svc/"));
    if let Some(name) = named {
        return to_service(caller, service(snapshot, name)?, port);
    }
    match (pod(snapshot, to), service(snapshot, to)) {
        (Ok(_), Ok(_)) => Err(Unanswerable::Ambiguous(to.to_owned())),
        (Ok(pod), Err(_)) => to_pod(caller, pod, port),
        (Err(_), Ok(service)) => to_service(caller, service, port),
        (Err(malformed @ Unanswerable::Malformed(_)), Err(_)) => Err(malformed),
        (Err(_), Err(_)) => Err(Unanswerable::Nothing(to.to_owned())),
    }
}

fn to_pod(
    mut caller: Caller,
    pod: Arc<Workload>,
    port: u16,
) -> Result<(Caller, Goal), Unanswerable> {
    let ips: Vec<IpAddr> = pod.ips.iter().collect();
    let name = pod.key.to_string();
    if ips.is_empty() {
        return Err(Unanswerable::NoAddress(name));
    }
    if !caller.turn_to(&ips) {
        return Err(no_common(&caller, &name));
    }
    let ip = pod.ips.same_family(caller.address);
    let ip = ip.ok_or(Unanswerable::NoAddress(name))?;
    let at = OrigDst::new(SocketAddr::new(ip, port));
    Ok((caller, Goal::Pod(pod, [at])))
}

/// By its virtual address; a headless one by those of its pods.
fn to_service(
    mut caller: Caller,
    service: Arc<Service>,
    port: u16,
) -> Result<(Caller, Goal), Unanswerable> {
    let name = service.key.to_string();
    let mut ips = service.vips.clone();
    if service.is_headless() {
        let endpoints = service.ports.iter().flat_map(|p| p.endpoints.iter());
        ips = endpoints.map(|e| e.addr.ip()).collect();
        ips.sort_unstable();
        ips.dedup();
    }
    if ips.is_empty() {
        return Err(Unanswerable::NoAddress(name));
    }
    if !caller.turn_to(&ips) {
        return Err(no_common(&caller, &name));
    }
    ips.retain(|ip| ip.is_ipv4() == caller.address.is_ipv4());
    if !service.is_headless() {
        ips.truncate(1);
    }
    let at = ips
        .into_iter()
        .map(|ip| OrigDst::new(SocketAddr::new(ip, port)));
    Ok((caller, Goal::Service(service, at.collect())))
}

fn no_common(caller: &Caller, to: &str) -> Unanswerable {
    let from = match &caller.workload {
        Some(workload) => workload.key.to_string(),
        None => caller.address.to_string(),
    };
    Unanswerable::NoCommonFamily(from, to.to_owned())
}

impl Caller {
    fn with_identity(self, id: SpiffeId) -> Self {
        Self {
            identity: Some(id),
            ..self
        }
    }

    /// Takes an address of the family of one of `others`, IPv4 first.
    fn turn_to(&mut self, others: &[IpAddr]) -> bool {
        if self.has_no_address() {
            if others.iter().all(IpAddr::is_ipv6) {
                self.address = Ipv6Addr::UNSPECIFIED.into();
            }
            return true;
        }
        let own = match &self.workload {
            Some(workload) => workload.ips,
            None => PodIps::from(self.address),
        };
        let fits = |ip: &IpAddr| others.iter().any(|o| o.is_ipv4() == ip.is_ipv4());
        // An address that was asked about stays, where it can.
        let found = [self.address].into_iter().chain(own.iter()).find(fits);
        self.address = found.unwrap_or(self.address);
        found.is_some()
    }

    pub(super) fn in_mesh(&self) -> bool {
        let pod = self.workload.as_ref().is_some_and(|w| w.is_enrolled());
        pod || self.has_no_address()
    }

    /// An identity without a pod.
    pub(super) fn has_no_address(&self) -> bool {
        self.workload.is_none() && self.identity.is_some()
    }

    /// What its agent proves; `None` outside of the mesh.
    pub(super) fn identity(&self, trust_domain: &TrustDomain) -> Option<SpiffeId> {
        let workload = self.workload.as_ref().filter(|w| w.is_enrolled());
        let of_pod = || workload?.spiffe_id(trust_domain).ok();
        self.identity.clone().or_else(of_pod)
    }

    /// Its address that dials an endpoint.
    pub(super) fn address_for(&self, to: IpAddr) -> IpAddr {
        let ips: Option<PodIps> = self.workload.as_ref().map(|w| w.ips);
        let same = ips.filter(|_| self.address.is_ipv4() != to.is_ipv4());
        same.and_then(|ips| ips.same_family(to))
            .unwrap_or(self.address)
    }

    pub(super) fn side(&self, trust_domain: &TrustDomain) -> Side {
        Side {
            kind: match &self.workload {
                Some(_) => "pod",
                None if self.has_no_address() => "identity",
                None => "address",
            }
            .to_owned(),
            name: self.workload.as_ref().map(|w| w.key.to_string()),
            address: (!self.has_no_address()).then(|| self.address.to_string()),
            node: self.workload.as_ref().map(|w| w.node.to_string()),
            in_mesh: self.in_mesh(),
            identity: self.identity(trust_domain).map(|id| id.to_string()),
        }
    }
}

impl Goal {
    /// As a client would name it.
    pub(super) fn host(&self, port: u16) -> String {
        let address = || match self.addresses().first().map(|a| a.ip()) {
            Some(IpAddr::V6(ip)) => format!("[{ip}]"),
            Some(IpAddr::V4(ip)) => ip.to_string(),
            None => String::new(),
        };
        let name = match self {
            Self::Service(service, _) => {
                format!("{}.{}", service.key.name, service.key.namespace)
            }
            Self::Pod(..) | Self::Address(_) => address(),
        };
        match port {
            80 => name,
            port => format!("{name}:{port}"),
        }
    }

    pub(super) fn addresses(&self) -> &[OrigDst] {
        match self {
            Self::Pod(_, one) | Self::Address(one) => one,
            Self::Service(_, all) => all,
        }
    }

    pub(super) fn side(&self, trust_domain: &TrustDomain) -> Side {
        let first = self.addresses().first();
        let address = first.map(|a| a.ip().to_string());
        match self {
            Self::Pod(pod, _) => Side {
                kind: "pod".to_owned(),
                name: Some(pod.key.to_string()),
                address,
                node: Some(pod.node.to_string()),
                in_mesh: pod.is_enrolled(),
                identity: pod
                    .is_enrolled()
                    .then(|| pod.spiffe_id(trust_domain).ok())
                    .flatten()
                    .map(|id| id.to_string()),
            },
            Self::Service(service, _) => Side {
                kind: "service".to_owned(),
                name: Some(service.key.to_string()),
                address: address.filter(|_| !service.is_headless()),
                ..Side::default()
            },
            Self::Address(_) => Side {
                kind: "address".to_owned(),
                address,
                ..Side::default()
            },
        }
    }
}
