//! Rate limits of Services, with what each of their callers has had.
//!
//! Shared by all workers, and by one configuration with the next: a limit that stays
//! keeps what was counted, also where its rate is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::limit::{Limiter, Quota};
use crate::model::traffic::{Counts, RateKey, RateLimit};
use crate::model::{Name, RequestHead, Service, ServiceKey, Snapshot, SpiffeId, Workload};
use crate::policy;

#[cfg(test)]
pub(crate) use tests::reference;

/// Callers that are told apart by one limit.
const MAX_KEYS: usize = 16_384;

/// Of all Services that have any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates(BTreeMap<ServiceKey, Arc<Limited>>);

/// A Service with rate limits, by its ports.
#[derive(Debug)]
struct Limited {
    service: Arc<Service>,
    ports: Vec<(u16, Arc<[Arc<Rate>]>)>,
}

/// One limit as it holds now.
#[derive(Debug)]
pub(crate) struct Rate {
    limit: RateLimit,
    /// NAMESPACE/POLICY/LIMIT.
    shown: Arc<str>,
    state: Arc<State>,
}

/// What outlives a configuration.
#[derive(Debug)]
struct State {
    id: Id,
    limiter: Limiter<u128>,
    /// A key is told by its hash: nobody can choose it, and it is as small as any.
    hashers: [foldhash::quality::RandomState; 2],
    over: AtomicU64,
}

/// Which limit it is, whatever its rate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    service: ServiceKey,
    /// The port that has it for itself.
    section: Option<String>,
    policy: Name,
    name: Name,
    counts: Counts,
    key: RateKey,
}

/// Who asks for what: a request, or a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asks<'a> {
    /// Proven.
    pub(crate) principal: Option<&'a SpiffeId>,
    /// `None`: a connection.
    pub(crate) head: Option<&'a RequestHead<'a>>,
}

/// More than a limit lets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) limit: Arc<str>,
    pub(crate) quota: (u32, Duration),
    /// Until one may come.
    pub(crate) wait: Duration,
}

impl Rates {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that have any.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.0.values().map(|limited| &limited.service)
    }

    /// As `snapshot` has it, which differs in these namespaces alone; `None`: anywhere.
    pub(crate) fn update(
        &self,
        snapshot: &Snapshot,
        changed: Option<&BTreeSet<Name>>,
        now: Instant,
    ) -> Self {
        let is_changed = |key: &ServiceKey| changed.is_none_or(|all| all.contains(&key.namespace));
        let (mut next, mut known) = (BTreeMap::new(), BTreeMap::new());
        for (key, limited) in &self.0 {
            if !is_changed(key) {
                next.insert(key.clone(), limited.clone());
                continue;
            }
            for rate in limited.ports.iter().flat_map(|(_, rates)| rates.iter()) {
                known.insert(&rate.state.id, &rate.state);
            }
        }
        let mut add = |service: &Arc<Service>| {
            if let Some(limited) = Limited::of(service, &known, now) {
                next.insert(service.key.clone(), Arc::new(limited));
            }
        };
        match changed {
            None => snapshot.services.values().for_each(add),
            Some(all) => {
                let services = all.iter().flat_map(|n| snapshot.services.in_namespace(n));
                services.for_each(&mut add);
            }
        }
        Self(next)
    }

    /// Those that a connection to the workload's port is to be held to.
    pub(crate) fn of(
        &self,
        workload: &Workload,
        port: u16,
        is_unreadable: bool,
    ) -> Arc<[Arc<Rate>]> {
        let mut found: Vec<Arc<Rate>> = Vec::new();
        for limited in self.0.values() {
            let leading = policy::leading(&limited.service, workload, port, is_unreadable);
            for (_, rates) in limited.ports.iter().filter(|(p, _)| leading.contains(p)) {
                for rate in rates.iter() {
                    if !found
                        .iter()
                        .any(|same| Arc::ptr_eq(&same.state, &rate.state))
                    {
                        found.push(rate.clone());
                    }
                }
            }
        }
        found.into()
    }

    /// Each limit, with how often something was over it. One that holds for several
    /// Services is told of each.
    pub(crate) fn counted(&self) -> impl Iterator<Item = (&RateLimit, u64)> {
        let mut told = BTreeSet::new();
        let ports = self.0.values().flat_map(|limited| &limited.ports);
        let rates = ports.flat_map(|(_, rates)| rates.iter());
        let rates = rates.filter(move |rate| told.insert(Arc::as_ptr(&rate.state)));
        rates.map(|rate| (&rate.limit, rate.state.over.load(Ordering::Relaxed)))
    }
}

impl Limited {
    /// `None` without any.
    fn of(
        service: &Arc<Service>,
        known: &BTreeMap<&Id, &Arc<State>>,
        now: Instant,
    ) -> Option<Self> {
        let whole = &service.traffic.rate_limits;
        let make = |limits: &[RateLimit], section: Option<&str>| -> Arc<[Arc<Rate>]> {
            let rates = limits.iter();
            let rates = rates.map(|limit| Rate::of(limit, (&service.key, section), known, now));
            rates.collect()
        };
        let shared = make(whole, None);
        let mut ports = Vec::new();
        for port in &service.ports {
            let own = &service.traffic(port).rate_limits;
            let rates = match Arc::ptr_eq(own, whole) {
                true => shared.clone(),
                false => make(own, Some(&port.name)),
            };
            if !rates.is_empty() {
                ports.push((port.port, rates));
            }
        }
        (!ports.is_empty()).then(|| Self {
            service: service.clone(),
            ports,
        })
    }
}

impl Rate {
    fn of(
        limit: &RateLimit,
        (service, section): (&ServiceKey, Option<&str>),
        known: &BTreeMap<&Id, &Arc<State>>,
        now: Instant,
    ) -> Arc<Self> {
        let id = Id {
            service: service.clone(),
            section: section.map(str::to_owned),
            policy: limit.policy.clone(),
            name: limit.name.clone(),
            counts: limit.counts,
            key: limit.key.clone(),
        };
        let quota = Quota::new(limit.rate.count, limit.rate.per, limit.burst);
        let state = match known.get(&id) {
            Some(state) => {
                state.limiter.set(quota);
                (*state).clone()
            }
            None => Arc::new(State {
                id,
                limiter: Limiter::new(quota, MAX_KEYS, now),
                hashers: Default::default(),
                over: AtomicU64::new(0),
            }),
        };
        Arc::new(Self {
            limit: limit.clone(),
            shown: format!("{}/{}", limit.policy, limit.name).into(),
            state,
        })
    }

    /// `None` for what it does not count.
    fn key(&self, asks: &Asks<'_>) -> Option<u128> {
        let is_counted = match self.limit.counts {
            Counts::Requests => asks
                .head
                .is_some_and(|head| policy::may_be(&self.limit.matching, head)),
            Counts::Connections => asks.head.is_none(),
        };
        if !is_counted {
            return None;
        }
        let [high, low] = self.state.hashers.each_ref().map(|hasher| {
            let mut hasher = hasher.build_hasher();
            match &self.limit.key {
                RateKey::Service => {}
                RateKey::Principal => asks.principal.map(SpiffeId::principal).hash(&mut hasher),
                RateKey::Header(name) => {
                    let values = asks.head.into_iter().flat_map(|head| head.values(name));
                    values.for_each(|value| value.hash(&mut hasher));
                }
            }
            hasher.finish()
        });
        Some(u128::from(high) << 64 | u128::from(low))
    }

    /// What it lets pass depends on a request's path.
    pub(crate) fn is_by_path(&self) -> bool {
        !self.limit.matching.paths.is_empty() && !self.limit.dry_run
    }
}

/// Takes one of each; of none where one of them has none left.
pub(crate) fn take(rates: &[Arc<Rate>], asks: &Asks<'_>, now: Instant) -> Result<(), Over> {
    let mut taken: SmallVec<[(&Rate, u128); 4]> = SmallVec::new();
    let mut over: SmallVec<[&Rate; 4]> = SmallVec::new();
    for rate in rates {
        let Some(key) = rate.key(asks) else { continue };
        let Err(wait) = rate.state.limiter.take(&key, now) else {
            taken.push((rate, key));
            continue;
        };
        if rate.limit.dry_run {
            over.push(rate);
            continue;
        }
        rate.state.over.fetch_add(1, Ordering::Relaxed);
        for (rate, key) in taken {
            rate.state.limiter.give_back(&key);
        }
        return Err(Over {
            limit: rate.shown.clone(),
            quota: (rate.limit.rate.count, rate.limit.rate.per),
            wait,
        });
    }
    // What another one refuses is not theirs to tell.
    for rate in over {
        rate.state.over.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::{PathPattern, Pattern};
    use crate::model::traffic::{Rate as Rated, RequestMatch, Traffic};
    use crate::model::{
        HeaderLine, HttpVersion, Labels, Path, PathProblem, ServicePort, TargetPort,
    };

    const HOUR: Duration = Duration::from_secs(3_600);

    fn limit(name: &str, burst: u32) -> RateLimit {
        RateLimit {
            policy: "shop/p".into(),
            name: name.into(),
            counts: Counts::Requests,
            matching: RequestMatch::default(),
            rate: Rated {
                count: 1,
                per: HOUR,
            },
            burst,
            key: RateKey::Principal,
            dry_run: false,
        }
    }

    fn labels(app: &str) -> Labels {
        let all: BTreeMap<_, _> = [("app".to_owned(), app.to_owned())].into();
        all.into()
    }

    fn pod(name: &str) -> Workload {
        Workload {
            labels: labels(name),
            ..Workload::for_test("shop", name)
        }
    }

    /// `shop/web`, with port 80 to 8080 and port 81 to 8081.
    fn web(whole: &[RateLimit], second: Option<&[RateLimit]>) -> Snapshot {
        let traffic = |limits: &[RateLimit]| {
            Arc::new(Traffic {
                rate_limits: limits.into(),
                ..Traffic::default()
            })
        };
        let port = |port: u16, target: u16, own: Option<Arc<Traffic>>| ServicePort {
            name: format!("p{port}"),
            port,
            node_port: None,
            target: TargetPort::Number(target),
            protocol: Default::default(),
            endpoints: Arc::default(),
            hinted: Default::default(),
            slice_ports: Default::default(),
            traffic: own,
        };
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(Arc::new(Service {
            key: ServiceKey::new("shop", "web"),
            vips: vec![[10, 96, 0, 1].into()],
            ports: vec![port(80, 8080, None), port(81, 8081, second.map(traffic))],
            is_local: false,
            affinity: None,
            selector: labels("web"),
            members: Default::default(),
            hides_ports: false,
            hides_members: false,
            traffic: traffic(whole),
        }));
        snapshot
    }

    fn made(snapshot: &Snapshot) -> Rates {
        Rates::default().update(snapshot, None, Instant::now())
    }

    /// One limit, for the reference of metrics.
    pub(crate) fn reference() -> Rates {
        made(&web(&[limit("a", 1)], None))
    }

    fn head<'h>(headers: &'h [HeaderLine<'h>]) -> RequestHead<'h> {
        RequestHead {
            version: HttpVersion::Http11,
            method: "GET",
            target: b"/",
            path: Path::None,
            query: None,
            host: None,
            headers,
        }
    }

    fn id(account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://mesh/ns/shop/sa/{account}")).expect("an identity")
    }

    /// How many of ten requests pass.
    fn passes(rates: &Rates, port: u16, principal: Option<&SpiffeId>) -> usize {
        let rates = rates.of(&pod("web"), port, false);
        let (head, now) = (head(&[]), Instant::now());
        let asks = Asks {
            principal,
            head: Some(&head),
        };
        (0..10).filter(|_| take(&rates, &asks, now).is_ok()).count()
    }

    #[test]
    fn a_limit_holds_where_its_service_leads_and_nowhere_else() {
        let rates = made(&web(&[limit("a", 2)], None));
        let of = |pod: &Workload, port| rates.of(pod, port, false).len();
        assert_eq!((of(&pod("web"), 8080), of(&pod("web"), 8081)), (1, 1));
        assert_eq!((of(&pod("web"), 9), of(&pod("db"), 8080)), (0, 0));
        assert!(made(&web(&[], None)).is_empty());
        let own = made(&web(&[], Some(&[limit("b", 1)])));
        let of = |port| own.of(&pod("web"), port, false).len();
        assert_eq!((of(8080), of(8081)), (0, 1));
    }

    #[test]
    fn ports_share_the_limit_of_their_service_and_identities_share_none() {
        let rates = made(&web(&[limit("a", 3)], None));
        let (one, two) = (id("one"), id("two"));
        assert_eq!(passes(&rates, 8080, Some(&one)), 3);
        assert_eq!(passes(&rates, 8081, Some(&one)), 0);
        assert_eq!(passes(&rates, 8081, Some(&two)), 3);
        assert_eq!(passes(&rates, 8080, None), 3, "all without one together");
        assert_eq!(passes(&rates, 8080, None), 0);
    }

    #[test]
    fn another_configuration_keeps_what_was_taken_of_a_limit_that_stays() {
        let one = id("one");
        let first = made(&web(&[limit("a", 3)], None));
        assert_eq!(passes(&first, 8080, Some(&one)), 3);
        let now = Instant::now();
        let namespaces: BTreeSet<Name> = ["shop".into()].into();
        let both = [limit("b", 9), limit("a", 5)];
        let second = first.update(&web(&both, None), Some(&namespaces), now);
        assert_eq!(passes(&second, 8080, Some(&one)), 2);
        let elsewhere: BTreeSet<Name> = ["other".into()].into();
        let third = second.update(&Snapshot::default(), Some(&elsewhere), now);
        assert_eq!(passes(&third, 8080, Some(&one)), 0, "nothing of it changed");
        let gone = third.update(&Snapshot::default(), Some(&namespaces), now);
        assert!(gone.is_empty());
        let mut keyed = limit("a", 5);
        keyed.key = RateKey::Service;
        let other = second.update(&web(&[keyed], None), None, now);
        assert_eq!(
            passes(&other, 8080, Some(&one)),
            5,
            "another limit of that name"
        );
    }

    #[test]
    fn of_what_one_limit_refuses_the_others_take_nothing() {
        let mut all = limit("all", 4);
        all.key = RateKey::Service;
        let rates = made(&web(&[all, limit("own", 2)], None));
        assert_eq!(passes(&rates, 8080, Some(&id("one"))), 2);
        assert_eq!(passes(&rates, 8080, Some(&id("two"))), 2);
        assert_eq!(passes(&rates, 8080, Some(&id("three"))), 0);
        let over: Vec<_> = rates.counted().map(|(l, over)| (&*l.name, over)).collect();
        assert_eq!(over, [("all", 18), ("own", 8)]);
    }

    #[test]
    fn a_limit_counts_the_requests_that_it_names_and_what_could_be_one_of_them() {
        let parse = |path: &str| PathPattern::parse(path).expect("a path");
        let mut few = limit("few", 1);
        few.matching.paths = ["/login", "/api/*"].map(parse).into();
        few.matching.methods = [Pattern::parse("P*").expect("a pattern")].into();
        let passes = |of: &RateLimit, head: &RequestHead<'_>| {
            let rates = made(&web(std::slice::from_ref(of), None)).of(&pod("web"), 8080, false);
            let asks = Asks {
                principal: None,
                head: Some(head),
            };
            let now = Instant::now();
            [(); 2].iter().all(|()| take(&rates, &asks, now).is_ok())
        };
        for (method, path, is_free) in [
            ("POST", "/login", false),
            ("PUT", "/api/x", false),
            ("GET", "/login", true),
            ("POST", "/", true),
            ("POST", "/login/x", true),
            // Some servers take it for POST.
            ("post", "/login", false),
            ("post", "/", true),
        ] {
            let head = RequestHead::for_test(method, path, &[]);
            assert_eq!(passes(&few, &head), is_free, "{method} {path}");
        }
        for path in [Path::Ambiguous(PathProblem::Control), Path::None] {
            let mut head = RequestHead::for_test("POST", "/", &[]);
            head.path = path;
            assert!(!passes(&few, &head), "it may be any: {head:?}");
        }
        few.matching.methods = Arc::new([]);
        assert!(!passes(&few, &RequestHead::for_test("GET", "/login", &[])));
        few.matching.paths = Arc::new([]);
        assert!(!passes(&few, &RequestHead::for_test("GET", "/", &[])));
    }

    #[test]
    fn what_a_limit_counts_may_change_and_what_was_taken_stays() {
        let get = Pattern::parse("GET").expect("a pattern");
        let first = made(&web(&[limit("a", 3)], None));
        assert_eq!(passes(&first, 8080, None), 3);
        let mut other = limit("a", 3);
        other.matching.methods = [get].into();
        let second = first.update(&web(&[other], None), None, Instant::now());
        assert_eq!(passes(&second, 8080, None), 0);
    }

    #[test]
    fn a_dry_run_only_counts() {
        let mut dry = limit("a", 1);
        dry.dry_run = true;
        let rates = made(&web(&[dry], None));
        assert_eq!(passes(&rates, 8080, None), 10);
        assert_eq!(rates.counted().next().expect("one").1, 9);
    }

    /// Whichever of the two comes first.
    #[test]
    fn a_dry_run_does_not_count_what_another_limit_refuses() {
        for (is_first, burst, count) in [(true, 5, 0), (false, 5, 0), (true, 1, 2), (false, 1, 2)] {
            let mut dry = limit("dry", burst);
            dry.dry_run = true;
            let both = match is_first {
                true => [dry, limit("real", 3)],
                false => [limit("real", 3), dry],
            };
            let rates = made(&web(&both, None));
            assert_eq!(passes(&rates, 8080, None), 3);
            let over: BTreeMap<_, _> = rates.counted().map(|(l, over)| (&*l.name, over)).collect();
            assert_eq!(over, [("dry", count), ("real", 7)].into(), "{is_first}");
        }
    }

    #[test]
    fn each_value_of_a_header_has_its_own_and_a_connection_none_of_requests() {
        let mut keyed = limit("a", 1);
        keyed.key = RateKey::Header("x-tenant".into());
        let mut connections = limit("c", 2);
        connections.counts = Counts::Connections;
        let rates = made(&web(&[keyed, connections], None)).of(&pod("web"), 8080, false);
        let now = Instant::now();
        let asks = |lines: &[HeaderLine<'_>]| {
            let head = head(lines);
            let asks = Asks {
                principal: None,
                head: Some(&head),
            };
            take(&rates, &asks, now).is_ok()
        };
        let line = |name, value| HeaderLine { name, value };
        assert!(asks(&[line("X-Tenant", b"one")]));
        assert!(!asks(&[line("x-tenant", b"one"), line("other", b"x")]));
        assert!(asks(&[line("x-tenant", b"two")]));
        assert!(asks(&[line("x-tenant", b"one"), line("x-tenant", b"two")]));
        assert!(asks(&[]) && !asks(&[]), "those without it together");
        let asks = Asks {
            principal: None,
            head: None,
        };
        let taken = [(); 3].map(|()| take(&rates, &asks, now));
        assert!(taken[0].is_ok() && taken[1].is_ok());
        let over = taken[2].clone().expect_err("over");
        assert_eq!((&*over.limit, over.quota), ("shop/p/c", (1, HOUR)));
    }
}
