//! A worker's view of endpoints: in turn, the one picked longest ago first.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::endpoints::{Candidates, Id, State, States};
use crate::model::{Endpoint, ServiceKey, Snapshot, UpstreamAddr};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The endpoints of one port, as one configuration has them.
#[derive(Debug)]
struct List {
    service: ServiceKey,
    port: u16,
    /// Kept, so that its place in memory stays its own.
    endpoints: Arc<[Endpoint]>,
    states: States,
}

/// Endpoints that one exchange has tried already.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    tried: SmallVec<[UpstreamAddr; 1]>,
}

/// One worker's. Bounded by the endpoints of the configuration that it picked from.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Where ties are broken, so that workers do not all begin with the same one.
    offset: usize,
    picks: u64,
    /// Of the newest configuration that it has heard of.
    generation: u64,
    states: Map<Id, Rc<State>>,
    /// By the place of the endpoints in memory.
    lists: Map<usize, List>,
}

impl Balancer {
    /// `index`: of the worker.
    #[must_use]
    pub(crate) fn new(index: usize) -> Self {
        Self {
            offset: index,
            picks: 0,
            generation: 0,
            states: Map::default(),
            lists: Map::default(),
        }
    }

    /// One of the candidates: of those that this attempt has not tried, or else of
    /// all, the one that was picked longest ago.
    pub(crate) fn pick<'s>(
        &mut self,
        candidates: &Candidates<'s>,
        attempt: &mut Attempt,
    ) -> Option<&'s Endpoint> {
        let endpoints: &'s [Endpoint] = &candidates.port.endpoints;
        let offset = self.offset;
        self.picks += 1;
        let number = self.picks;
        let states = self.states_of(candidates);
        let count = endpoints.len().max(1);
        let order = |(at, (endpoint, state)): &(usize, (&Endpoint, &Rc<State>))| {
            let was_tried = attempt.tried.contains(&endpoint.addr);
            let place = (at + count - offset % count) % count;
            (was_tried, state.picked.get(), place)
        };
        let fitting = endpoints.iter().zip(states).enumerate();
        let fitting = fitting.filter(|(_, (endpoint, _))| candidates.fits(endpoint));
        let (at, (endpoint, state)) = fitting.min_by_key(order)?;
        debug_assert!(at < endpoints.len());
        state.picked.set(number);
        attempt.tried.push(endpoint.addr);
        Some(endpoint)
    }

    /// Another configuration is in force: what is known of endpoints that it has
    /// stays, the rest is forgotten. To be told before each pick: what it has seen
    /// already costs nothing.
    pub(crate) fn hear(&mut self, snapshot: &Snapshot) {
        if snapshot.generation <= self.generation {
            return;
        }
        self.generation = snapshot.generation;
        self.lists.retain(|_, list| {
            let service = snapshot.services.get(&list.service);
            let port = service.and_then(|service| service.port(list.port));
            port.is_some_and(|port| Arc::ptr_eq(&port.endpoints, &list.endpoints))
        });
        // One whose list stays is in use.
        self.states
            .retain(|id, state| Rc::strong_count(state) > 1 || id.is_in(snapshot));
    }

    fn states_of(&mut self, candidates: &Candidates<'_>) -> &States {
        let port = candidates.port;
        let endpoints = &port.endpoints;
        let states = &mut self.states;
        let list = self.lists.entry(Arc::as_ptr(endpoints).addr());
        let list = list.or_insert_with(|| List {
            service: candidates.service.key.clone(),
            port: port.port,
            endpoints: endpoints.clone(),
            states: endpoints
                .iter()
                .map(|endpoint| states.entry(Id::of(endpoint)).or_default().clone())
                .collect(),
        });
        &list.states
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::{Service, ServicePort, TargetPort, Workload};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 9, 9));

    fn pod(last: u8, uid: &str) -> Arc<Workload> {
        let mut pod = Workload::for_test("shop", &format!("web-{last}"));
        pod.uid = uid.into();
        pod.ips = IpAddr::from([10, 0, 0, last]).into();
        Arc::new(pod)
    }

    fn endpoint(pod: &Arc<Workload>, last: u8) -> Endpoint {
        Endpoint {
            addr: UpstreamAddr::new(([10, 0, 0, last], 80).into()),
            workload: Some(pod.clone()),
            zone: None,
        }
    }

    /// A Service of pods, and the pods.
    fn snapshot(generation: u64, pods: &[(u8, &str)]) -> Snapshot {
        let pods: Vec<_> = pods.iter().map(|(n, uid)| (*n, pod(*n, uid))).collect();
        let endpoints = pods.iter().map(|(n, pod)| endpoint(pod, *n)).collect();
        let mut snapshot = Snapshot {
            generation,
            ..Snapshot::default()
        };
        let service = Service {
            key: ServiceKey::new("shop", "web"),
            vips: vec![[10, 96, 0, 1].into()],
            ports: vec![ServicePort {
                name: String::new(),
                port: 80,
                target: TargetPort::Number(80),
                protocol: Default::default(),
                endpoints,
                slice_ports: Default::default(),
            }],
            selector: Default::default(),
            members: Default::default(),
            hides_ports: false,
            hides_members: false,
        };
        snapshot.services.insert(Arc::new(service));
        for (_, pod) in pods {
            snapshot.workloads.insert(pod);
        }
        snapshot
    }

    fn pick(balancer: &mut Balancer, snapshot: &Snapshot, attempt: &mut Attempt) -> Option<u8> {
        let service = snapshot.services.values().next().expect("a Service");
        let candidates = Candidates::new(service, &service.ports[0], CLIENT);
        let endpoint = balancer.pick(&candidates, attempt)?;
        match endpoint.addr.ip() {
            IpAddr::V4(ip) => Some(ip.octets()[3]),
            IpAddr::V6(_) => None,
        }
    }

    fn picks(balancer: &mut Balancer, snapshot: &Snapshot, count: usize) -> Vec<u8> {
        let one = |_| pick(balancer, snapshot, &mut Attempt::default()).expect("one");
        (0..count).map(one).collect()
    }

    #[test]
    fn endpoints_are_picked_in_turn_and_workers_begin_with_others() {
        let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
        let mut first = Balancer::new(0);
        assert_eq!(picks(&mut first, &snapshot, 6), [1, 2, 3, 1, 2, 3]);
        let mut second = Balancer::new(1);
        assert_eq!(picks(&mut second, &snapshot, 4), [2, 3, 1, 2]);
    }

    #[test]
    fn the_turn_of_one_service_is_not_that_of_another() {
        let (one, other) = (snapshot(1, &[(1, "a"), (2, "b")]), snapshot(1, &[(3, "c")]));
        let mut balancer = Balancer::new(0);
        let mut picked = vec![];
        for _ in 0..4 {
            picked.extend(picks(&mut balancer, &one, 1));
            picks(&mut balancer, &other, 1);
        }
        assert_eq!(picked, [1, 2, 1, 2]);
    }

    #[test]
    fn a_new_endpoint_changes_nothing_of_the_others_turns() {
        let mut balancer = Balancer::new(0);
        let before = snapshot(1, &[(1, "a"), (2, "b")]);
        assert_eq!(picks(&mut balancer, &before, 3), [1, 2, 1]);
        let after = snapshot(2, &[(1, "a"), (2, "b"), (3, "c")]);
        balancer.hear(&after);
        assert_eq!(picks(&mut balancer, &after, 4), [3, 2, 1, 3]);
    }

    #[test]
    fn a_pod_that_is_made_anew_is_another_endpoint_and_the_old_one_is_forgotten() {
        let mut balancer = Balancer::new(0);
        let before = snapshot(1, &[(1, "a"), (2, "b")]);
        assert_eq!(picks(&mut balancer, &before, 1), [1]);
        let after = snapshot(2, &[(1, "another"), (2, "b")]);
        balancer.hear(&after);
        assert_eq!(balancer.states.len(), 1, "of b");
        assert_eq!(picks(&mut balancer, &after, 1), [1]);
        balancer.hear(&before);
        assert_eq!(balancer.states.len(), 2, "an older one says nothing");
        balancer.hear(&snapshot(3, &[]));
        assert!(balancer.states.is_empty() && balancer.lists.is_empty());
    }

    #[test]
    fn a_second_attempt_goes_elsewhere_and_again_where_there_is_nobody_else() {
        let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
        let mut balancer = Balancer::new(0);
        let mut attempt = Attempt::default();
        let first = pick(&mut balancer, &snapshot, &mut attempt);
        // Others come between, so that it would be the first one's turn.
        picks(&mut balancer, &snapshot, 1);
        let second = pick(&mut balancer, &snapshot, &mut attempt);
        assert_eq!((first, second), (Some(1), Some(2)));
        assert!(pick(&mut balancer, &snapshot, &mut attempt).is_some());
    }

    #[test]
    fn nothing_is_picked_of_another_family_or_where_there_is_none() {
        let mut balancer = Balancer::new(0);
        let snapshot = snapshot(1, &[(1, "a")]);
        let service = snapshot.services.values().next().expect("a Service");
        let ipv6 = "fd00::1".parse().expect("an address");
        let candidates = Candidates::new(service, &service.ports[0], ipv6);
        assert_eq!(balancer.pick(&candidates, &mut Attempt::default()), None);
        assert_eq!(candidates.iter().count(), 0);
    }
}
