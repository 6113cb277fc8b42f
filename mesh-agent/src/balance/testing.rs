//! Services of pods, and clients that pick of them.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Affinity, Attempt, Balancer, Candidates, Client, Draw, Health, InFlight, Kind, Outcome, Reach,
};
use crate::model::{
    Endpoint, Hinted, Name, Place, Service, ServiceKey, ServicePort, Snapshot, TargetPort, Tier,
    UpstreamAddr, Workload,
};

pub(super) const CALLED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

/// The pod 10.0.0.`last` on node `n`.
pub(super) fn endpoint(last: u8, uid: &str, node: &str) -> Endpoint {
    let mut pod = Workload::for_test("shop", &format!("web-{last}"));
    pod.uid = uid.into();
    pod.ips = IpAddr::from([10, 0, 0, last]).into();
    pod.node = node.into();
    Endpoint {
        addr: UpstreamAddr::new(([10, 0, 0, last], 80).into()),
        workload: Some(Arc::new(pod)),
        tier: Tier::Ready,
        place: None,
    }
}

/// Of one pod of many, at a port of its own.
pub(super) fn endpoint_at(number: usize) -> Endpoint {
    let port = u16::try_from(number).expect("a port");
    Endpoint {
        addr: UpstreamAddr::new(([10, 0, 0, 1], port).into()),
        ..endpoint(1, &format!("uid-{number}"), "n2")
    }
}

pub(super) fn hinted(endpoint: Endpoint, nodes: &[&str], zones: &[&str]) -> Endpoint {
    let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect();
    let place = Place {
        for_nodes: names(nodes),
        for_zones: names(zones),
        ..Place::default()
    };
    Endpoint {
        place: Some(Arc::new(place)),
        ..endpoint
    }
}

pub(super) fn in_zone(endpoint: Endpoint, zone: &str) -> Endpoint {
    let place = Place {
        zone: Some(zone.into()),
        ..Place::default()
    };
    Endpoint {
        place: Some(Arc::new(place)),
        ..endpoint
    }
}

pub(super) fn of_tier(endpoint: Endpoint, tier: Tier) -> Endpoint {
    Endpoint { tier, ..endpoint }
}

pub(super) fn service(endpoints: Vec<Endpoint>, affinity: Option<Duration>) -> Arc<Service> {
    Arc::new(Service {
        key: ServiceKey::new("shop", "web"),
        vips: vec![CALLED],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target: TargetPort::Number(80),
            protocol: Default::default(),
            node_port: None,
            hinted: Hinted::by(&endpoints),
            endpoints: endpoints.into(),
            slice_ports: Default::default(),
            traffic: None,
        }],
        is_local: false,
        affinity,
        selector: Default::default(),
        members: Default::default(),
        hides_ports: false,
        hides_members: false,
        traffic: Default::default(),
    })
}

/// A Service of pods on n1, and the pods.
pub(super) fn snapshot(generation: u64, pods: &[(u8, &str)]) -> Snapshot {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|(n, uid)| endpoint(*n, uid, "n1"))
        .collect();
    let mut snapshot = Snapshot {
        generation,
        ..Snapshot::default()
    };
    for endpoint in &endpoints {
        let pod = endpoint.workload.clone().expect("a pod");
        snapshot.workloads.insert(pod);
    }
    snapshot.services.insert(service(endpoints, None));
    snapshot
}

pub(super) fn only(snapshot: &Snapshot) -> &Arc<Service> {
    snapshot.services.values().next().expect("a Service")
}

/// Who picks: a pod on a node of a zone.
#[derive(Clone)]
pub(super) struct Picker {
    pub(super) pod: Name,
    pub(super) node: &'static str,
    pub(super) zone: Option<&'static str>,
    pub(super) reach: Reach,
}

impl Picker {
    pub(super) fn on(node: &'static str, zone: Option<&'static str>) -> Self {
        Self {
            pod: "client".into(),
            node,
            zone,
            reach: Reach::Cluster,
        }
    }

    pub(super) fn pod(self, uid: &str) -> Self {
        let pod = uid.into();
        Self { pod, ..self }
    }

    pub(super) fn candidates<'s>(&'s self, service: &'s Arc<Service>) -> Candidates<'s> {
        let client = Client {
            pod: &self.pod,
            node: self.node,
            zone: self.zone,
        };
        Candidates::new((service, &service.ports[0]), (client, CALLED), self.reach)
    }

    /// The last octet of the one that is picked.
    pub(super) fn pick(
        &self,
        balancer: &mut Balancer,
        service: &Arc<Service>,
        (attempt, now): (&mut Attempt, Instant),
    ) -> Option<u8> {
        let draw = Draw {
            kind: Kind::Request,
            now,
            random: &chance,
        };
        let picked = self.begin(balancer, service, (attempt, draw))?;
        Some(picked.0)
    }

    /// The same, and it goes on.
    pub(super) fn begin(
        &self,
        balancer: &mut Balancer,
        service: &Arc<Service>,
        (attempt, draw): (&mut Attempt, Draw<'_>),
    ) -> Option<(u8, InFlight)> {
        let candidates = self.candidates(service);
        let (endpoint, begun) = balancer.pick(&candidates, attempt, draw).ok()?;
        Some((last(endpoint), begun))
    }
}

/// Its answer has come, and is a good one; it goes on counting as load.
pub(super) fn answered(load: &mut InFlight, at: Instant) {
    load.took(at);
    load.end(Outcome::Success, at, &chance);
}

/// As chance has it, the same in each run.
pub(super) fn chance(limit: u64) -> u64 {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    let next = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(next);
    let mut mixed = next;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % limit
}

pub(super) fn last(endpoint: &Endpoint) -> u8 {
    match endpoint.addr.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

pub(super) fn balancer(index: usize, start: Instant) -> Balancer {
    let health = Arc::new(Health::new(start));
    Balancer::new(index, Arc::<Affinity>::default(), health)
}
