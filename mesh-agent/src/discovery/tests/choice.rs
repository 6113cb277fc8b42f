//! Which of a Service's endpoints a client gets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{SHOP, kubernetes, load};
use crate::model::{Name, OrigDst, PodIps, RefuseReason, Service, Snapshot, TrustDomain};
use crate::plan::{DecisionContext, InForce, SourcePod};
use crate::policy::Authorizer;

/// The endpoints that a pod on the node gets there, without their ports.
fn chosen(snapshot: &Snapshot, (node, zone): (&str, Option<&str>), to: &str) -> Vec<String> {
    match targets(snapshot, (node, zone), to) {
        Ok(targets) => targets,
        Err(reason) => vec![reason.to_string()],
    }
}

fn targets(
    snapshot: &Snapshot,
    place: (&str, Option<&str>),
    to: &str,
) -> Result<Vec<String>, RefuseReason> {
    let address = match to.starts_with('[') {
        false => "10.9.9.9",
        true => "fd99::9",
    };
    let address = address.parse().expect("an address");
    targets_from(snapshot, place, (PodIps::from(address), address), to)
}

/// An address that it only leaves by.
const EGRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 172, 5));

/// `own`: its addresses, and the one that it came from.
fn targets_from(
    snapshot: &Snapshot,
    (node, zone): (&str, Option<&str>),
    (own, address): (PodIps, IpAddr),
    to: &str,
) -> Result<Vec<String>, RefuseReason> {
    let published = InForce {
        policy: Arc::new(Authorizer::compile(snapshot)),
        snapshot: Arc::new(snapshot.clone()),
        ..InForce::default()
    };
    let decision_context = DecisionContext {
        published: &published,
        node,
        node_zone: zone,
        trust_domain: &TrustDomain::new("cluster.local").expect("a trust domain"),
        same_node_tls: false,
    };
    let to = OrigDst::new(to.parse().expect("an address"));
    let source = SourcePod {
        own,
        address,
        egress: EGRESS.into(),
        pod: &Name::from("client"),
    };
    let backends = decision_context.backends(&source, to)?;
    let (targets, _) = backends.list(100)?;
    let mut ips: Vec<_> = targets
        .iter()
        .map(|t| t.upstream.ip().to_string())
        .collect();
    ips.sort();
    Ok(ips)
}

/// Two pods may have the same, and nobody in the mesh could tell whose it is.
#[test]
fn by_an_address_that_a_pod_only_leaves_by_it_reaches_what_is_outside_of_the_mesh_and_nothing_else()
{
    let (snapshot, _) = load(&[SHOP, "---\n", &slices([""; 3], [""; 3], "")].concat());
    let own = PodIps::from("fd99::9".parse::<IpAddr>().expect("an address"));
    let from = |source: &str, to: &str| {
        let source = source.parse().expect("an address");
        targets_from(&snapshot, ("n1", None), (own, source), to)
    };
    let egress = EGRESS.to_string();
    let outside = from(&egress, "203.0.113.7:443").expect("it leaves");
    assert_eq!(outside, ["203.0.113.7"]);
    for (what, to) in [
        ("a Service", "10.96.0.9:80"),
        ("a pod of the mesh", "10.0.0.5:8080"),
        ("its external address", "192.0.2.9:80"),
    ] {
        let refused = from(&egress, to);
        assert_eq!(refused, Err(RefuseReason::Unreachable), "{what}");
    }
    // What came to that address, and from one that is nobody's.
    let to_itself = from(&egress, &format!("{egress}:8080"));
    assert_eq!(to_itself, Err(RefuseReason::Loop));
    let foreign = from("169.254.172.6", &format!("{egress}:8080"));
    assert_eq!(foreign, Err(RefuseReason::Loop));
    let bound = from("169.254.172.6", "203.0.113.7:443");
    assert_eq!(bound, Err(RefuseReason::Loop));
}

/// Pods .1 and .2 on n1 and n2 of zone a, .3 on n3 of zone b, in slices.
fn slices(hints: [&str; 3], conditions: [&str; 3], spec: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.9, externalIPs: [192.0.2.9], ports: [{{port: 80}}]{spec}}}\n"
    );
    let places = [("n1", "a"), ("n2", "a"), ("n3", "b")];
    let all = (1..).zip(places).zip(hints).zip(conditions);
    for (((n, (node, zone)), hints), conditions) in all {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s-{n}, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}\n\
             addressType: IPv4\nports: [{{port: 80}}]\n\
             endpoints: [{{addresses: [10.0.0.{n}], nodeName: {node}, zone: {zone}, hints: {{{hints}}}, conditions: {{{conditions}}}}}]\n"
        );
    }
    text
}

const VIP: &str = "10.96.0.9:80";
const READY: [&str; 3] = ["", "", ""];
const ENDS: &str = "ready: false, serving: true, terminating: true";
const ZONES: [&str; 3] = [
    "forZones: [{name: a}]",
    "forZones: [{name: a}]",
    "forZones: [{name: b}]",
];

#[test]
fn hints_of_slices_are_taken_and_endpoints_tell_the_zones_of_nodes() {
    let (snapshot, problems) = load(&slices(ZONES, READY, ""));
    assert_eq!(problems, Vec::<String>::new());
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    // By what the slices say of the nodes themselves.
    assert_eq!(chosen(&snapshot, ("n1", None), VIP), all[..2]);
    assert_eq!(chosen(&snapshot, ("n3", None), VIP), all[2..]);
    // Nobody says where this one is, but who runs the agent may.
    assert_eq!(chosen(&snapshot, ("n9", None), VIP), all);
    assert_eq!(chosen(&snapshot, ("n9", Some("b")), VIP), all[2..]);
    assert_eq!(chosen(&snapshot, ("n1", Some("b")), VIP), all[2..]);
    let nodes = [
        "forNodes: [{name: n1}], forZones: [{name: a}]",
        "forNodes: [{name: n2}], forZones: [{name: a}]",
        "forNodes: [{name: n3}], forZones: [{name: b}]",
    ];
    let (snapshot, _) = load(&slices(nodes, READY, ""));
    assert_eq!(chosen(&snapshot, ("n2", None), VIP), all[1..2]);
    // A hint that cannot be read is told, and then none counts.
    let (snapshot, problems) = load(&slices([ZONES[0], "forZones: x", ZONES[2]], READY, ""));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(chosen(&snapshot, ("n1", None), VIP), all);
}

#[test]
fn a_local_service_has_the_nodes_own_endpoints_and_a_refusal_that_says_so() {
    let local = ", internalTrafficPolicy: Local";
    let (snapshot, problems) = load(&slices(["", "", ""], READY, local));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(chosen(&snapshot, ("n2", None), VIP), ["10.0.0.2"]);
    assert_eq!(chosen(&snapshot, ("n9", None), VIP), ["no_local_endpoint"]);
    // From outside by another policy, that is not about pods.
    let external = chosen(&snapshot, ("n9", None), "192.0.2.9:80");
    assert_eq!(external.len(), 3);
    // The node's last one serves while it ends, and nobody else's.
    let ends = [ENDS, "", ""];
    let (snapshot, _) = load(&slices(["", "", ""], ends, local));
    assert_eq!(chosen(&snapshot, ("n1", None), VIP), ["10.0.0.1"]);
    let external = chosen(&snapshot, ("n1", None), "192.0.2.9:80");
    assert_eq!(external, ["10.0.0.2", "10.0.0.3"]);
    let nobody = ["ready: false"; 3];
    let (snapshot, _) = load(&slices(["", "", ""], nobody, local));
    assert_eq!(chosen(&snapshot, ("n1", None), VIP), ["no_endpoint"]);
}

#[test]
fn the_last_that_serve_are_used_wherever_they_are() {
    let (snapshot, _) = load(&slices(ZONES, [ENDS, ENDS, "ready: false"], ""));
    let ending = ["10.0.0.1", "10.0.0.2"];
    assert_eq!(chosen(&snapshot, ("n3", None), VIP), ending);
    let (snapshot, _) = load(&slices(ZONES, [ENDS, "", ENDS], ""));
    assert_eq!(chosen(&snapshot, ("n3", None), VIP), ["10.0.0.2"]);
}

#[test]
fn without_slices_traffic_distribution_gives_the_hints_that_the_controller_would() {
    let pod = |n: u8, node: &str, zone: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: p{n}, namespace: shop, labels: {{app: s{zone}}}}}\n\
             spec: {{nodeName: {node}}}\nstatus: {{phase: Running, podIP: 10.0.0.{n}}}\n"
        )
    };
    let zone = |zone: &str| format!(", topology.kubernetes.io/zone: {zone}");
    let pods = |zones: [&str; 3]| {
        let [a, b, c] = zones.map(|z| if z.is_empty() { String::new() } else { zone(z) });
        pod(1, "n1", &a) + &pod(2, "n2", &b) + &pod(3, "n3", &c)
    };
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.0.9, selector: {{app: s}}, ports: [{{port: 80}}]{spec}}}\n"
        )
    };
    let by = |zones, spec: &str, node| {
        let (snapshot, problems) = load(&format!("{}{}", service(spec), pods(zones)));
        assert_eq!(problems, Vec::<String>::new());
        chosen(&snapshot, (node, None), VIP)
    };
    let zones = ["a", "a", "b"];
    for close in ["PreferClose", "PreferSameZone"] {
        let spec = format!(", trafficDistribution: {close}");
        assert_eq!(by(zones, &spec, "n2"), ["10.0.0.1", "10.0.0.2"], "{close}");
        assert_eq!(by(zones, &spec, "n3"), ["10.0.0.3"], "{close}");
        assert_eq!(by(zones, &spec, "n9").len(), 3, "{close}");
        assert_eq!(by(["a", "", "b"], &spec, "n3").len(), 3, "{close}");
    }
    let node = ", trafficDistribution: PreferSameNode";
    assert_eq!(by(zones, node, "n2"), ["10.0.0.2"]);
    assert_eq!(by(["", "", ""], node, "n2"), ["10.0.0.2"]);
    assert_eq!(by(["", "", ""], node, "n9").len(), 3);
    assert_eq!(by(zones, "", "n2").len(), 3);
    let local = ", internalTrafficPolicy: Local";
    assert_eq!(by(zones, local, "n2"), ["10.0.0.2"]);
}

#[test]
fn what_cannot_be_understood_of_the_choice_is_told_and_has_no_effect() {
    let with = |spec: &str| {
        let text = SHOP.replace("  selector:", &format!("  {spec}\n  selector:"));
        let (snapshot, problems) = load(&text);
        let service = snapshot.services.values().next().expect("it stays");
        (Service::clone(service), problems)
    };
    let plain = with("sessionAffinity: None").0;
    for (spec, is_mistake) in [
        ("internalTrafficPolicy: local", true),
        ("internalTrafficPolicy: [Local]", true),
        ("sessionAffinity: Cookie", true),
        ("trafficDistribution: PreferFar", false),
    ] {
        let (service, problems) = with(spec);
        assert_eq!(service, plain, "{spec}");
        assert_eq!(problems.len(), 1, "{spec}: {problems:?}");
        assert_eq!(
            !problems[0].contains("warning: "),
            is_mistake,
            "{problems:?}"
        );
    }
    let client = "sessionAffinity: ClientIP";
    let lasts = |config: &str| {
        let (service, problems) = with(&format!("{client}\n  {config}"));
        (service.affinity.map(|d| d.as_secs()), problems.len())
    };
    let seconds = |n: &str| {
        lasts(&format!(
            "sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {n}}}}}"
        ))
    };
    assert_eq!(lasts("sessionAffinityConfig: null"), (Some(10_800), 0));
    assert_eq!(seconds("null"), (Some(10_800), 0));
    assert_eq!(seconds("60"), (Some(60), 0));
    for wrong in ["0", "86401", "-1", "1.5", "long"] {
        assert_eq!(seconds(wrong), (Some(10_800), 1), "{wrong}");
    }
    let none =
        with("sessionAffinity: None\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}");
    assert_eq!((none.0.affinity, none.1.len()), (None, 0));
}

#[test]
fn a_nodes_zone_follows_what_is_said_of_it() {
    let one = |zone: &str| {
        let label = format!("labels: {{app: web, topology.kubernetes.io/zone: {zone}}}");
        SHOP.replace("labels: {app: web}", &label)
    };
    let zone = |text: &str| load(text).0.zones.get("n1").map(Name::to_string);
    assert_eq!(zone(SHOP), None);
    assert_eq!(zone(&one("b")).as_deref(), Some("b"));
    // Where two say differently, the first by name.
    let other = one("a")
        .replace("web-0", "web-1")
        .replace("0.5", "0.6")
        .replace("::5", "::6");
    let other = other
        .replace("kind: Namespace", "kind: ConfigMap")
        .replace("kind: Service\n", "kind: ConfigMap\n");
    assert_eq!(
        zone(&format!("{}---\n{other}", one("b"))).as_deref(),
        Some("a")
    );
}

/// Whoever may make pods in one namespace must not move a node for all others.
#[test]
fn of_a_nodes_zone_most_namespaces_are_believed() {
    let pod = |namespace: &str, n: usize, zone: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: {namespace}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\nspec: {{nodeName: n1}}\n"
        )
    };
    let mut text = pod("one", 0, "b") + &pod("two", 0, "b");
    for n in 0..10 {
        text += &pod("evil", n, "a");
    }
    let zone = |text: &str| load(text).0.zones.get("n1").map(Name::to_string);
    assert_eq!(zone(&text).as_deref(), Some("b"));
}

/// PreferClose, ClientIP and Local, as a real API server has them.
#[test]
fn services_of_a_real_cluster_keep_to_zone_and_node() {
    let (snapshot, _) = kubernetes::cluster();
    let vip = |name: &str| {
        let key = format!("shop/{name}");
        let service = snapshot
            .services
            .values()
            .find(|s| s.key.to_string() == key);
        service.expect("the Service").clone()
    };
    let web = vip("web");
    assert_eq!(web.affinity, Some(Duration::from_secs(10_800)));
    let at = |service: &Service, v4: bool| {
        let vip = service.vips.iter().find(|ip| ip.is_ipv4() == v4);
        std::net::SocketAddr::new(*vip.expect("of the family"), 80).to_string()
    };
    let node_of = |ip: &str| {
        let ip: std::net::IpAddr = ip.parse().expect("an address");
        snapshot.by_ip[&ip].node.to_string()
    };
    for v4 in [true, false] {
        for node in ["node1", "node2"] {
            let got = chosen(&snapshot, (node, None), &at(&web, v4));
            let nodes: Vec<_> = got.iter().map(|ip| node_of(ip)).collect();
            assert_eq!(nodes, [node], "{got:?}");
        }
        assert_eq!(chosen(&snapshot, ("node9", None), &at(&web, v4)).len(), 2);
    }
    let local = vip("web-node");
    assert!(local.is_local);
    let got = chosen(&snapshot, ("node1", None), &at(&local, true));
    assert_eq!(
        got.iter().map(|ip| node_of(ip)).collect::<Vec<_>>(),
        ["node1"]
    );
    assert_eq!(
        targets(&snapshot, ("node9", None), &at(&local, true)),
        Err(RefuseReason::NoLocalEndpoint)
    );
}

#[test]
fn a_port_of_a_node_leads_to_its_service_and_the_others_are_the_nodes() {
    let host = |ip: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: proxy-{ip}, namespace: kube-system}}\n\
             spec: {{nodeName: n1, hostNetwork: true}}\nstatus: {{phase: Running{more}, podIP: {ip}, podIPs: [{{ip: {ip}}}, {{ip: \"fd01::1\"}}]}}\n"
        )
    };
    let service = slices(
        ZONES,
        READY,
        ", type: NodePort, internalTrafficPolicy: Local",
    );
    let service = service.replacen("{port: 80}]", "{port: 80, nodePort: 30080}]", 1);
    let (snapshot, problems) = load(&format!("{service}{}", host("192.0.2.1", "")));
    assert_eq!(problems, Vec::<String>::new());
    let at = |snapshot: &Snapshot, to: &str| chosen(snapshot, ("n1", None), to);
    // Of all nodes, whatever the Service says of its cluster IP; hints count.
    assert_eq!(at(&snapshot, "192.0.2.1:30080"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(at(&snapshot, "[fd01::1]:30080"), ["no_endpoint"]);
    assert_eq!(at(&snapshot, "192.0.2.1:30081"), ["192.0.2.1"]);
    assert_eq!(at(&snapshot, "192.0.2.1:80"), ["192.0.2.1"]);
    // Of an address that is no node's nobody says so.
    assert_eq!(at(&snapshot, "192.0.2.2:30080"), ["192.0.2.2"]);
    let over = host("192.0.2.1", "").replace("Running", "Failed");
    let (snapshot, _) = load(&format!("{service}{over}"));
    assert_eq!(at(&snapshot, "192.0.2.1:30080"), ["192.0.2.1"]);
    for none in ["nodePort: 0", "nodePort: null"] {
        let (snapshot, problems) = load(&service.replace("nodePort: 30080", none));
        assert_eq!(
            (problems.len(), snapshot.by_node_port.len()),
            (0, 0),
            "{none}"
        );
    }
}
