//! A naive evaluator of the documented semantics, against the authorizer.
//!
//! It walks the model for every request: no index, no compiled form; patterns
//! are compared as text.

mod heads;
mod naive;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};

use self::heads::Head;
use self::naive::naive;
use super::super::{Authorizer, Request, Verdict};
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, MeshSettings, Pattern, Rule, Scope,
    ServiceAccount, Source,
};
use crate::model::{
    Endpoint, Enrolment, NamedPort, OnAgentDown, PodIps, Service, ServiceKey, ServicePort,
    Snapshot, SpiffeId, TargetPort, TrustDomain, UpstreamAddr, Workload, WorkloadKey,
};

const NAMESPACES: [&str; 3] = ["istio-system", "shop", "shop-b"];
const ACCOUNTS: [&str; 3] = ["web", "webs", "db"];
const PORTS: [u16; 3] = [80, 443, 8080];
const PORT_NAMES: [&str; 2] = ["a", "b"];
/// The last one is never of the mesh.
const DOMAINS: [&str; 4] = ["cluster.local", "example.org", "old-td", "other-td"];
const SERVICES: [&str; 2] = ["svc", "svc-b"];
const BLOCKS: [&str; 5] = [
    "10.0.0.0/8",
    "10.0.0.1/32",
    "fd00::/8",
    "0.0.0.0/0",
    "10.0.0.2/31",
];
const ADDRESSES: [&str; 5] = [
    "10.0.0.1",
    "10.0.0.3",
    "fd00::1",
    "192.0.2.1",
    "::ffff:10.0.0.1",
];
const SNIS: [&str; 3] = ["a.example", "b.example", "example"];

struct Dice(StdRng);

impl Dice {
    fn one(&mut self, of: u32) -> bool {
        self.0.random_range(0..of) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.random_range(0..of.len())]
    }

    fn some<T>(&mut self, max: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.0.random_range(0..=max);
        (0..count).map(|_| make(self)).collect()
    }

    /// Mostly empty, as in real rules.
    fn matcher<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Match<T> {
        let mut list = |dice: &mut Self| match dice.one(4) {
            true => dice.some(2, &mut make),
            false => Vec::new(),
        };
        Match {
            values: list(self),
            not_values: list(self),
        }
    }

    fn pattern(&mut self, texts: &[&str]) -> Pattern {
        let text = self.pick(texts);
        let cut = self.0.random_range(1..text.len());
        match self.0.random_range(0..5) {
            0 => Pattern::Present,
            1 => Pattern::Prefix(text[..cut].to_owned()),
            2 => Pattern::Suffix(text[cut..].to_owned()),
            _ => Pattern::Exact(text.to_owned()),
        }
    }

    fn principal(&mut self) -> Pattern {
        let domain = match self.one(12) {
            true => self.pick(&DOMAINS),
            false => "cluster.local",
        };
        let text = format!(
            "{domain}/ns/{}/sa/{}",
            self.pick(&NAMESPACES),
            self.pick(&ACCOUNTS)
        );
        self.pattern(&[&text])
    }

    fn account(&mut self) -> ServiceAccount {
        ServiceAccount {
            namespace: self.pick(&NAMESPACES).to_owned(),
            name: self.pick(&ACCOUNTS).to_owned(),
        }
    }

    fn block(&mut self) -> ipnet::IpNet {
        self.pick(&BLOCKS).parse().expect("a block")
    }

    fn http(&mut self) -> Match<String> {
        let values = if self.one(12) {
            vec!["x".to_owned()]
        } else {
            vec![]
        };
        Match {
            values,
            not_values: vec![],
        }
    }

    fn source(&mut self) -> Source {
        Source {
            principals: self.matcher(Self::principal),
            namespaces: self.matcher(|d| d.pattern(&NAMESPACES)),
            service_accounts: self.matcher(Self::account),
            ip_blocks: self.matcher(Self::block),
            remote_ip_blocks: Match::default(),
            request_principals: self.http(),
        }
    }

    fn condition(&mut self) -> Condition {
        match self.0.random_range(0..9) {
            0 => Condition::Principal(self.matcher(Self::principal)),
            1 => Condition::Namespace(self.matcher(|d| d.pattern(&NAMESPACES))),
            2 => Condition::ServiceAccount(self.matcher(Self::account)),
            3 => Condition::SourceIp(self.matcher(Self::block)),
            4 => Condition::DestinationIp(self.matcher(Self::block)),
            5 => Condition::DestinationPort(self.matcher(|d| d.pick(&PORTS))),
            6 => Condition::Sni(self.matcher(|d| d.pattern(&SNIS))),
            7 => self.header(),
            _ => Condition::Unserved {
                key: "request.auth.principal".to_owned(),
                values: self.http(),
            },
        }
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let pairs = self.some(2, |d| (d.pick(&["app", "tier"]), d.pick(&["a", "b"])));
        pairs
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    fn policy(&mut self, number: usize) -> AuthorizationPolicy {
        let namespace = self.pick(&NAMESPACES).to_owned();
        AuthorizationPolicy {
            scope: match self.0.random_range(0..9) {
                0 => Scope::Mesh,
                1..4 => Scope::Namespace,
                4 | 5 => Scope::Services(self.services(&namespace)),
                _ => Scope::Labels(self.labels()),
            },
            namespace,
            name: format!("p{number}"),
            action: self.pick(&[Action::Allow, Action::Deny, Action::Allow]),
            dry_run: self.one(8),
            broken: self.one(12).then(|| "for the test".to_owned()),
            rules: self.some(2, |d| Rule {
                from: d.some(2, Self::source),
                to: d.some(2, Self::operation),
                when: if d.one(3) {
                    d.some(2, Self::condition)
                } else {
                    vec![]
                },
            }),
        }
    }

    /// One or two of the namespace, rarely one that is not there.
    fn services(&mut self, namespace: &str) -> Vec<ServiceKey> {
        let name = match self.one(8) {
            true => "gone",
            false => self.pick(&SERVICES),
        };
        let more = match self.one(4) {
            true => vec![self.pick(&SERVICES)],
            false => vec![],
        };
        let key = |name: &str| ServiceKey::new(namespace, name);
        [name].iter().chain(&more).map(|name| key(name)).collect()
    }

    fn settings(&mut self) -> MeshSettings {
        let domain = |name| TrustDomain::new(name).expect("a trust domain");
        let own = self.pick(&DOMAINS[..3]);
        let aliases = self.some(1, |d| domain(d.pick(&DOMAINS[1..3])));
        MeshSettings {
            trust_domain: domain(own),
            trust_domain_aliases: aliases,
            ..MeshSettings::default()
        }
    }

    fn service_port(&mut self, workload: &Arc<Workload>) -> ServicePort {
        let endpoint = |d: &mut Self| Endpoint {
            addr: UpstreamAddr::new(([10, 9, 9, 9], d.pick(&PORTS)).into()),
            workload: Some(workload.clone()),
            tier: Default::default(),
            place: None,
        };
        ServicePort {
            name: String::new(),
            port: self.pick(&PORTS),
            target: match self.one(2) {
                true => TargetPort::Number(self.pick(&PORTS)),
                false => TargetPort::Name(self.pick(&PORT_NAMES).to_owned()),
            },
            protocol: Default::default(),
            endpoints: match self.one(4) {
                true => self.some(1, endpoint).into(),
                false => [].into(),
            },
            node_port: None,
            hinted: Default::default(),
            slice_ports: Default::default(),
            traffic: None,
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = Snapshot {
            settings: self.settings(),
            policies: (0..self.0.random_range(0..6))
                .map(|n| self.policy(n))
                .collect::<Vec<_>>()
                .into(),
            ..Snapshot::default()
        };
        for namespace in NAMESPACES {
            let workload = Arc::new(self.workload(namespace));
            snapshot.workloads.insert(workload.clone());
            for name in SERVICES {
                let key = ServiceKey::new(namespace, name);
                let service = Service {
                    key,
                    vips: vec![],
                    ports: self.some(2, |d| d.service_port(&workload)),
                    selector: self.labels().into(),
                    members: Default::default(),
                    is_local: false,
                    affinity: None,
                    hides_ports: false,
                    hides_members: false,
                    traffic: Default::default(),
                };
                snapshot.services.insert(Arc::new(service));
            }
        }
        snapshot
    }

    fn workload(&mut self, namespace: &str) -> Workload {
        Workload {
            key: WorkloadKey::new(namespace, "pod"),
            uid: "".into(),
            ips: PodIps::default(),
            node: "n1".into(),
            service_account: "web".into(),
            app: "".into(),
            labels: self.labels().into(),
            enrolment: Enrolment::Yes(OnAgentDown::Closed),
            on_node: Arc::default(),
            ports: self
                .some(2, |d| NamedPort {
                    name: d.pick(&PORT_NAMES).to_owned(),
                    port: d.pick(&PORTS),
                })
                .into(),
        }
    }
}

#[test]
fn the_engine_agrees_with_the_documentation_on_50_000_policy_sets() {
    let mut dice = Dice(StdRng::seed_from_u64(20));
    let (mut connections, mut requests) = (BTreeMap::new(), BTreeMap::new());
    for set in 0..50_000 {
        let snapshot = dice.snapshot();
        let authorizer = Authorizer::compile(&snapshot);
        for workload in snapshot.workloads.values() {
            let uri = format!(
                "spiffe://{}/ns/{}/sa/{}",
                snapshot.settings.trust_domain,
                dice.pick(&NAMESPACES),
                dice.pick(&ACCOUNTS)
            );
            let id = SpiffeId::parse(&uri).expect("an identity");
            let connection = Request {
                source: (!dice.one(4)).then_some(&id),
                source_ip: dice.pick(&ADDRESSES).parse().expect("an address"),
                destination: workload,
                destination_ip: dice.pick(&ADDRESSES).parse().expect("an address"),
                destination_port: dice.pick(&PORTS),
                sni: Some(dice.pick(&SNIS)),
                http: None,
            };
            let alone = match naive(&snapshot, &connection, Head::Worst) {
                true => "permit",
                false if naive(&snapshot, &connection, Head::Best) => "later",
                false => "deny",
            };
            let lines = dice.lines();
            let head = dice.head(&lines);
            let allowed = naive(&snapshot, &connection, Head::Known(&head));
            // What is said of a connection holds for every request on it.
            let expected = if allowed { "permit" } else { "deny" };
            assert!(alone == expected || alone == "later", "{alone} {expected}");
            let request = Request {
                http: Some(&head),
                ..connection
            };
            let got = [connection, request].map(|asked| said(&authorizer, &asked));
            *connections.entry(got[0]).or_insert(0) += 1;
            *requests.entry(got[1]).or_insert(0) += 1;
            let needs = authorizer.needs(&connection).is_empty();
            assert_eq!(needs, got[0] != "later", "set {set}: {connection:?}");
            assert_eq!(
                [alone, expected],
                got,
                "set {set}: {request:?}\n{:#?}\n{:#?}",
                snapshot.policies,
                snapshot.services
            );
        }
    }
    // Each is frequent, or the comparison would say little.
    let least = |seen: &BTreeMap<&str, i32>| seen.values().min().copied();
    assert!(
        connections.len() == 3 && least(&connections) > Some(3_000),
        "{connections:?}"
    );
    assert!(
        requests.len() == 2 && least(&requests) > Some(15_000),
        "{requests:?}"
    );
}

fn said(authorizer: &Authorizer, asked: &Request<'_>) -> &'static str {
    match authorizer.check(asked) {
        Verdict::Permit(_) => "permit",
        Verdict::Deny(_) => "deny",
        Verdict::NeedsRequest => "later",
    }
}
