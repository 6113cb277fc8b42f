//! Services as users of Kubernetes expect them, called by real clients.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_tests::{Agents, OnAgentDown, Pod, PodSpec, Port, Target, World, eventually, parse};
use serde_json::Value;

const SCRIPT: &str = include_str!("services.py");
/// Enough to see each of several endpoints: they are picked by chance.
const CALLS: u32 = 40;
const PYTHON: &str = "/usr/bin/python3";
/// Of the Service that the tests write.
const VIPS: [&str; 2] = ["10.96.1.1", "[fd96::1:1]"];

/// Clients a and e and server b on n1, servers c and d on n2. Their port `web`
/// has another number in c.
struct Shop {
    world: World,
    a: Pod,
    e: Pod,
    servers: [Pod; 3],
    agents: Agents,
}

impl Shop {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
        let [a, e] = ["a", "e"].map(|name| world.add(&spec("n1", name)).expect("a pod"));
        let servers = [("n1", "b", 8443), ("n2", "c", 9443), ("n2", "d", 8443)];
        let servers = servers.map(|(node, name, web)| {
            let ports = [
                Port::new("first", 80, Target::Number(8080)),
                Port::new("web", 443, Target::Named("web", web)),
            ];
            let spec = spec(node, name).ports(ports).label("tier", "s");
            let pod = world.add(&spec).expect("a pod");
            world.serve(&pod).expect("a server");
            pod
        });
        let agents = Agents::in_plaintext(&world, &[]).expect("agents");
        Self {
            world,
            a,
            e,
            servers,
            agents,
        }
    }

    /// Writes objects and waits until they are in force at both nodes.
    fn write(&self, name: &str, yaml: &str) {
        let read = self.agents.read_file(&self.world, name, yaml);
        read.expect("in force");
    }

    /// Who answered so many connections, one after the other.
    fn calls(&self, from: &Pod, to: &str, count: usize) -> Vec<String> {
        let answer = run(&self.world, from, &["calls", to, &count.to_string()]);
        let answers = answer.as_array().expect("a list");
        let text = |answer: &Value| answer.as_str().expect("a text").to_owned();
        answers.iter().map(text).collect()
    }

    fn answers(&self, from: &Pod, to: &str) -> BTreeSet<String> {
        self.calls(from, to, CALLS as usize).into_iter().collect()
    }

    /// Each of these answers, and nobody else: one that was late once is left out for a while.
    /// How many connections that took.
    #[track_caller]
    fn all_answer(&self, from: &Pod, to: &str, expected: &BTreeSet<String>) -> u32 {
        let (mut seen, mut calls) = (BTreeSet::new(), 0);
        let _all = eventually(Duration::from_secs(30), || {
            seen.extend(self.answers(from, to));
            calls += CALLS;
            !seen.is_subset(expected) || seen == *expected
        });
        assert_eq!(seen, *expected, "{to}");
        calls
    }

    /// At a port of one or more servers, by IPv4.
    fn at(&self, which: &[(usize, u16)]) -> BTreeSet<String> {
        let at = |(n, port): &(usize, u16)| format!("{}:{port}", self.servers[*n].v4());
        which.iter().map(at).collect()
    }
}

fn run(world: &World, pod: &Pod, args: &[&str]) -> Value {
    let out = world
        .in_pod(pod, PYTHON)
        .args(["-c", SCRIPT])
        .args(args)
        .output();
    parse(&out.expect("a client")).expect("its report")
}

fn service(vips: &[&str], spec: &str) -> String {
    let vips: Vec<_> = vips
        .iter()
        .map(|vip| vip.trim_matches(['[', ']']))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop}}\n\
         spec:\n  clusterIP: \"{}\"\n  clusterIPs: [\"{}\"]\n  {spec}\n",
        vips[0],
        vips.join("\", \"")
    )
}

/// A slice of one endpoint.
fn slice(name: &str, (ip, rest): (&str, &str), port: u16) -> String {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s-{name}, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}\n\
         addressType: {family}\nports: [{{name: web, port: {port}}}]\n\
         endpoints: [{{addresses: [\"{ip}\"]{rest}}}]\n"
    )
}

const WEB: &str = "ports: [{name: web, port: 443, targetPort: web}]";

#[test]
fn several_ports_named_ports_and_both_families_lead_to_each_pods_own() {
    let shop = Shop::new();
    let ports = "ports: [{name: web, port: 443, targetPort: web}, {name: first, port: 80, targetPort: 8080}]";
    let selecting = format!("selector: {{tier: s}}\n  {ports}");
    shop.write("s", &service(&VIPS, &selecting));
    let web = [(0, 8443), (1, 9443), (2, 8443)];
    shop.all_answer(&shop.a, "10.96.1.1:443", &shop.at(&web));
    let first = [(0, 8080), (1, 8080), (2, 8080)];
    shop.all_answer(&shop.a, "10.96.1.1:80", &shop.at(&first));
    let v6 = |n: usize, port: u16| format!("[{}]:{port}", shop.servers[n].v6());
    let expected: BTreeSet<_> = web.iter().map(|(n, port)| v6(*n, *port)).collect();
    shop.all_answer(&shop.a, "[fd96::1:1]:443", &expected);
    let refused = shop.answers(&shop.a, "10.96.1.1:81");
    assert!(!refused.iter().any(|a| a.contains(':')), "{refused:?}");
    // IPv6 only.
    shop.write("s", &service(&VIPS[1..], &selecting));
    shop.all_answer(&shop.e, "[fd96::1:1]:443", &expected);
}

#[test]
fn hints_keep_a_client_in_its_zone_and_a_local_service_on_its_node() {
    let shop = Shop::new();
    let places = [("n1", "west"), ("n2", "east"), ("n2", "east")];
    let ips: Vec<String> = shop.servers.iter().map(Pod::v4).collect();
    let write = |spec: &str, with: &dyn Fn(usize) -> String| {
        let mut yaml = service(&VIPS, &format!("{spec}{WEB}"));
        let all = (0..).zip(&shop.servers).zip(places).zip(&ips);
        for (((n, pod), (node, zone)), ip) in all {
            let port = if n == 1 { 9443 } else { 8443 };
            let rest = format!(
                ", nodeName: {node}, zone: {zone}, targetRef: {{kind: Pod, name: {}}}{}",
                pod.name,
                with(n)
            );
            yaml += &slice(&pod.name, (ip, &rest), port);
        }
        shop.write("s", &yaml);
    };
    let to = "10.96.1.1:443";
    let answer = |spec: &str, with: &dyn Fn(usize) -> String, which: &[(usize, u16)]| {
        write(spec, with);
        shop.all_answer(&shop.a, to, &shop.at(which));
    };
    let (b, c, d) = ((0, 8443), (1, 9443), (2, 8443));
    let none = |_: usize| String::new();
    answer("", &none, &[b, c, d]);
    let zones = |n: usize| format!(", hints: {{forZones: [{{name: {}}}]}}", places[n].1);
    answer("", &zones, &[b]);
    // Nobody is hinted for the client's zone.
    let away = |_: usize| ", hints: {forZones: [{name: east}]}".to_owned();
    answer("", &away, &[b, c, d]);
    let local = "internalTrafficPolicy: Local\n  ";
    answer(local, &none, &[b]);
    // The last of the node serves while it ends, then there is none.
    let conditions = |n: usize, of_b: &str| match n {
        0 => format!(", conditions: {{ready: false, {of_b}}}"),
        _ => String::new(),
    };
    let ends = |n: usize| conditions(n, "serving: true, terminating: true");
    answer(local, &ends, &[b]);
    answer("", &ends, &[c, d]);
    write(local, &|n| conditions(n, "serving: false"));
    let refused = shop.answers(&shop.a, to);
    assert!(!refused.iter().any(|a| a.contains(':')), "{refused:?}");
    let (code, answer) = shop.agents[0]
        .explain("shop/a", "service/shop/s", 443)
        .expect("an answer");
    assert_eq!(
        (code, &answer["ways"][0]["refused"]),
        (1, &"no_local_endpoint".into())
    );
    let (ended, all) = ("mesh_agent_connections_ended_total", f64::from(CALLS));
    let reasons = shop.agents[0].comes_to(ended, "no_local_endpoint", all);
    assert!((reasons - all).abs() < 0.5, "{reasons}");
}

#[test]
fn a_client_keeps_its_endpoint_through_changes_and_a_restart_of_the_agent() {
    let mut shop = Shop::new();
    let spec = |selector: &str, more: &str| {
        format!("sessionAffinity: ClientIP\n  selector: {{{selector}}}\n  {more}{WEB}")
    };
    shop.write("s", &service(&VIPS, &spec("tier: s", "")));
    let to = "10.96.1.1:443";
    let (of_a, of_e) = (shop.answers(&shop.a, to), shop.answers(&shop.e, to));
    assert_eq!((of_a.len(), of_e.len()), (1, 1));
    // All workers go there, also for what comes after a change.
    let more = "trafficDistribution: PreferClose\n  ";
    shop.write("s", &service(&VIPS, &spec("tier: s", more)));
    assert_eq!(shop.answers(&shop.a, to), of_a);
    shop.agents.kill(0).expect("a kill");
    shop.agents[0] = shop.world.agent("n1", &[]).expect("an agent");
    assert_eq!(shop.answers(&shop.a, to), of_a);
    // Its endpoint goes: another one, and that one for good.
    let gone = (0..3).find(|n| of_a.iter().any(|at| at.contains(&shop.servers[*n].v4())));
    let gone = shop.servers[gone.expect("a server")].name.clone();
    let others: Vec<_> = shop.servers.iter().filter(|pod| pod.name != gone).collect();
    let mut yaml = service(&VIPS, &spec("tier: s", ""));
    for pod in others {
        let port = if pod.name == "c" { 9443 } else { 8443 };
        yaml += &slice(&pod.name, (&pod.v4(), ""), port);
    }
    shop.write("s", &yaml);
    let now = shop.answers(&shop.a, to);
    assert_eq!(now.len(), 1);
    assert_ne!(now, of_a);
    shop.write("s", &service(&VIPS, &spec("tier: s", "")));
    assert_eq!(shop.answers(&shop.a, to), now);
}

#[test]
fn a_service_without_selector_leads_where_its_slices_say_inside_the_mesh_and_outside() {
    let mut shop = Shop::new();
    let plain = shop.world.add_pod("n2", "plain", None).expect("a pod");
    shop.world.serve(&plain).expect("a server");
    let outside = plain.v4();
    let of_c = format!(", targetRef: {{kind: Pod, name: {}}}", shop.servers[1].name);
    // An address that no object has is nobody's of the mesh.
    shop.world.remove_config("plain").expect("a file");
    let yaml = service(&VIPS, WEB)
        + &slice("c", (&shop.servers[1].v4(), &of_c), 9443)
        + &slice("out", (&outside, ""), 8080);
    shop.write("s", &yaml);
    let mut expected = shop.at(&[(1, 9443)]);
    expected.insert(format!("{outside}:8080"));
    // For a minute the address is withheld where the mesh may have left it.
    shop.all_answer(&shop.a, "10.96.1.1:443", &expected);
}

/// On the host network of a node, so that its address is the node's.
fn on_host(node: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: proxy-{node}, namespace: kube-system}}\n\
         spec: {{nodeName: {node}, hostNetwork: true}}\nstatus: {{phase: Running, podIP: {ip}}}\n---\n"
    )
}

#[test]
fn a_port_of_a_node_leads_to_the_service_inside_the_mesh() {
    let shop = Shop::new();
    // Nobody turns such a call to a pod here, so that the agent does or nobody.
    let ports = "ports: [{name: web, port: 443, nodePort: 30443, targetPort: web}]";
    let spec = format!(
        "type: NodePort\n  externalTrafficPolicy: Local\n  selector: {{tier: s}}\n  {ports}"
    );
    let yaml = on_host("n1", "10.77.0.201") + &on_host("n2", "10.77.0.202");
    shop.write("s", &(yaml + &service(&VIPS, &spec)));
    let all = shop.at(&[(0, 8443), (1, 9443), (2, 8443)]);
    let mut calls = 0;
    for node in ["10.77.0.201", "10.77.0.202"] {
        calls += shop.all_answer(&shop.a, &format!("{node}:30443"), &all);
        // The node itself refuses: it is called as it is.
        let other = shop.answers(&shop.a, &format!("{node}:30444"));
        // The second: it was reset before the client asked whom it called.
        let is_reset = |answer: &String| answer == "ECONNRESET" || answer == "ENOTCONN";
        assert!(other.iter().all(is_reset), "{node}: {other:?}");
    }
    let expected = f64::from(calls);
    let by_service = shop.agents[0].comes_to(
        "istio_tcp_connections_opened_total",
        "destination_service_name=\"s\"",
        expected,
    );
    assert!((by_service - expected).abs() < 0.5, "{by_service}");
}

#[test]
fn what_is_outside_the_mesh_is_neither_held_up_nor_changed() {
    let mut shop = Shop::new();
    let outside = shop.world.add_pod("n2", "mail", None).expect("a pod");
    let mut server = shop.world.in_pod(&outside, PYTHON);
    server.args(["-c", SCRIPT, "serve-greeting", "25"]);
    shop.world
        .start_and_read(server, "serving")
        .expect("a server");
    shop.world.remove_config("mail").expect("a file");
    // As the API server's: a Service whose endpoint no pod is behind.
    let yaml = service(&VIPS, WEB) + &slice("mail", (&outside.v4(), ""), 25);
    shop.write("s", &yaml);
    for to in [format!("{}:25", outside.v4()), "10.96.1.1:443".to_owned()] {
        let seen = run(&shop.world, &shop.a, &["greeted", &to]);
        assert_eq!(seen["greeting"], "220 ready\r\n", "{to}: {seen}");
        assert!(seen["after"].as_f64() < Some(1.0), "{to}: {seen}");
    }
}

/// Where another load balancer is attached.
#[derive(Clone, Copy, Debug)]
enum At {
    /// The agent's own cgroup root, before the agent's programs are there.
    Before,
    /// There, when they are.
    After,
    /// The client's own cgroup.
    Below,
}

const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-a, namespace: shop}
spec:
  selector: {matchLabels: {app: c}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/a]}}]}]
";

/// It puts the address of c in the place of c's Service.
fn balance(world: &mut World, dir: &std::path::Path, c: &Pod) {
    let mut balancer = world.on_node("n1", PYTHON);
    let [vip, _] = c.vips();
    let to = format!("{}:8080", c.v4());
    balancer
        .args(["-c", SCRIPT, "balance"])
        .arg(dir)
        .args([&vip, &to]);
    world
        .start_and_read(balancer, "balancing")
        .expect("a load balancer");
}

#[test]
fn another_load_balancer_at_connect_takes_services_away_and_neither_tls_nor_policy() {
    for place in [At::Before, At::After, At::Below] {
        let mut world = World::new(2).expect("a world");
        let group = world.pod_cgroup("n1", "a");
        let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
        // So that the agent knows where to look.
        let group = group.to_str().expect("a text");
        let a = spec("n1", "a").annotation("mesh-agent.io/cgroup", group);
        let [a, c] = [a, spec("n2", "c")].map(|spec| world.add(&spec).expect("a pod"));
        world.serve(&c).expect("a server");
        let authority = world.authority(&[]).expect("an authority");
        let dir = match place {
            At::Before | At::After => a.cgroup().parent().expect("the node's").to_owned(),
            At::Below => a.cgroup().to_owned(),
        };
        if !matches!(place, At::After) {
            balance(&mut world, &dir, &c);
        }
        let near = world.secure_agent("n1", &authority, &[]).expect("an agent");
        let far = world.secure_agent("n2", &authority, &[]).expect("an agent");
        if matches!(place, At::After) {
            balance(&mut world, &dir, &c);
        }
        let [vip, _] = c.vips();
        let who = || run(&world, &a, &["calls", &vip, "1"])[0].clone();
        let at = format!("{}:8080", c.v4());
        let up = eventually(Duration::from_secs(20), || who() == at.as_str());
        assert!(up, "{place:?}: {}", who());
        // What it takes away: the Service's name. Not the mesh.
        let opened = |with: &str| {
            let metric = near.metric("istio_tcp_connections_opened_total", with);
            metric.expect("a metric")
        };
        let secured = "connection_security_policy=\"mutual_tls\"";
        let _secured = near.comes_to("istio_tcp_connections_opened_total", secured, 1.0);
        assert!(opened("security_policy=\"none\"") < 0.5, "{place:?}");
        assert!(opened("destination_service_name=\"c\"") < 0.5, "{place:?}");
        // It is told by what comes since it is there.
        let told = eventually(Duration::from_secs(20), || {
            assert_eq!(who(), at.as_str(), "{place:?}");
            let (code, text) = near.status_text().expect("a status");
            code == 4 && text.contains("other_lb")
        });
        assert!(told, "{place:?}: {:?}", near.status_text());
        let generation = || far.status().expect("a status")["generation"].as_u64();
        let before = generation();
        world.write_config("deny", DENY).expect("a file");
        let applied = eventually(Duration::from_secs(20), || generation() > before);
        assert!(applied, "{place:?}");
        let refused = who();
        assert!(
            !refused.as_str().expect("a text").contains(':'),
            "{refused}"
        );
    }
}

#[test]
fn one_that_leaves_services_alone_is_no_problem() {
    let mut shop = Shop::new();
    let dir = shop.a.cgroup().parent().expect("the node's").to_owned();
    // Of an address that nobody calls.
    let other = shop.servers[1].clone();
    let [vip, _] = shop.servers[0].vips();
    balance(&mut shop.world, &dir, &other);
    let near = &shop.agents[0];
    let noticed = || near.log().contains("other_lb");
    assert!(
        eventually(Duration::from_secs(20), noticed),
        "{}",
        near.log()
    );
    assert_eq!(shop.calls(&shop.a, &vip, 1).len(), 1);
    let direct = format!("{}:8080", shop.servers[0].v4());
    assert_eq!(shop.calls(&shop.a, &direct, 1)[0], direct);
    let (_, text) = near.status_text().expect("a status");
    assert!(!text.contains("other_lb"), "{text}");
}
