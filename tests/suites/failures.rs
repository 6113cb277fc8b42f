//! What an application sees of a connection that cannot be, and how soon.

use std::process::Command;
use std::time::Duration;

use mesh_tests::{APP_PORT, Agent, Authority, OnAgentDown, Peer, Pod, PodSpec, World};

/// Client a and server b on n1, server c on n2; nobody listens anywhere.
struct Mesh {
    world: World,
    a: Pod,
    b: Pod,
    c: Pod,
    _authority: Authority,
    agents: [Agent; 2],
}

impl Mesh {
    fn new(args: &[&str]) -> Self {
        let (world, pods) = World::of_three().expect("a world");
        Self::of(world, pods, args)
    }

    fn of(world: World, [a, b, c]: [Pod; 3], args: &[&str]) -> Self {
        let authority = world.authority(&[]).expect("an authority");
        let agents = ["n1", "n2"].map(|node| {
            let agent = world.secure_agent(node, &authority, args);
            agent.expect("an agent")
        });
        Self {
            world,
            a,
            b,
            c,
            _authority: authority,
            agents,
        }
    }

    /// Has the pod's firewall answer deliveries that way, and nothing else.
    fn reject(&self, pod: &Pod, how: &str) {
        let rules = format!(
            "add table inet t; add chain inet t i {{ type filter hook input priority 0; }}; \
             add rule inet t i iifname lo tcp dport {APP_PORT} reject with {how}"
        );
        let out = self.world.in_pod(pod, "nft").arg(&rules).output();
        let out = out.expect("nft");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{how}: {said}");
    }

    fn reject_nothing(&self, pod: &Pod) {
        let mut nft = self.world.in_pod(pod, "nft");
        let status = nft.args(["delete", "table", "inet", "t"]).status();
        assert!(status.expect("nft").success());
    }
}

/// The error, and how long it took.
fn fate(peer: &mut Peer, to: &str) -> (String, Duration) {
    let answer = peer.ask(&format!("fate {to}")).expect("an answer");
    let (fate, micros) = answer.rsplit_once(' ').expect("a time");
    let micros = micros.parse().expect("a number");
    (fate.to_owned(), Duration::from_micros(micros))
}

fn addresses(pod: &Pod) -> [String; 2] {
    let v6 = format!("[{}]:{APP_PORT}", pod.v6());
    [format!("{}:{APP_PORT}", pod.v4()), v6]
}

/// What the pod's kernel says of a delivery, and nothing of the agents': their
/// connections do not begin at ports of the deliveries.
const ANSWERS: &str = "(tcp and portrange 10000-32000) \
    or icmp[icmptype] == icmp-unreach or (icmp6 and ip6[40] == 1)";

#[test]
fn what_a_pods_kernel_answers_to_a_delivery_reaches_the_agent_and_never_leaves_the_pod() {
    // Also between pods of this node, so that there is a delivery.
    let mesh = Mesh::new(&["--same-node-tls"]);
    let mut client = mesh.world.peer(&mesh.a).expect("a peer");
    for server in [&mesh.b, &mesh.c] {
        let capture = mesh.world.capture_packets(server, "eth0", ANSWERS);
        let capture = capture.expect("a capture");
        let mut slowest = Duration::ZERO;
        let mut refused = |how: &str| {
            for to in addresses(server) {
                let (fate, time) = fate(&mut client, &to);
                assert_eq!(fate, "ECONNRESET", "{how} at {to}");
                println!("{} {how}: {fate} after {time:?}", server.name);
                slowest = slowest.max(time);
            }
        };
        refused("closed port");
        for how in [
            "tcp reset",
            "icmpx type port-unreachable",
            "icmpx type host-unreachable",
            "icmpx type admin-prohibited",
            "icmpx type no-route",
        ] {
            mesh.reject(server, how);
            refused(how);
            mesh.reject_nothing(server);
        }
        dies_with_unread_data(&mesh.world, &mut client, server);
        let seen = capture.stop().expect("packets");
        assert_eq!((seen.packets, seen.dropped), (0, 0), "on the link");
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    }
}

/// Its kernel resets what it had taken, and all that comes later.
fn dies_with_unread_data(world: &World, client: &mut Peer, server: &Pod) {
    for to in addresses(server) {
        let mut far = world.peer(server).expect("a peer");
        let listening = far.ask(&format!("listen {APP_PORT}")).expect("an answer");
        assert_eq!(listening, "listening");
        let connected = client.ask(&format!("connect {to}")).expect("an answer");
        assert_eq!(connected, "connected");
        assert_eq!(far.ask("accept").expect("an answer"), "accepted");
        let filled = client.ask("fill").expect("an answer");
        assert!(filled.starts_with("blocked "), "{filled}");
        drop(far);
        assert_eq!(
            client.ask("failed").expect("an answer"),
            "failed ECONNRESET"
        );
    }
}

/// What became of a connection on one node, and across two.
type Fates = [Option<(String, Duration)>; 2];

/// Tries each twice: the first may need a handshake. The slower one counts.
fn fates(client: &mut Peer, to: [Option<String>; 2]) -> Fates {
    to.map(|to| {
        let to = to?;
        let (first, second) = (fate(client, &to), fate(client, &to));
        assert_eq!(first.0, second.0, "{to}");
        Some((first.0, first.1.max(second.1)))
    })
}

fn shown(fate: Option<&(String, Duration)>) -> String {
    fate.map_or("-".to_owned(), |(fate, time)| {
        format!("{fate}, {:.1} ms", time.as_secs_f64() * 1e3)
    })
}

/// Five times of what the documentation says: other tests run beside this one.
fn hold(what: &str, fates: &Fates, expected: &str, documented: Duration) {
    println!(
        "| {what} | {} | {} |",
        shown(fates[0].as_ref()),
        shown(fates[1].as_ref())
    );
    for (fate, time) in fates.iter().flatten() {
        assert_eq!(fate, expected, "{what}");
        assert!(*time <= 5 * documented, "{what}: {time:?}");
    }
}

const EMPTY: &str = "apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec:
  clusterIP: 10.96.0.250
  selector: {app: nobody}
  ports: [{port: 80}]
";

const DENIED: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {closed: to-all}}
  action: ALLOW
";

const SOON: Duration = Duration::from_millis(20);
const AFTER_RST: Duration = Duration::from_millis(50);
/// `--connect-timeout`.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn whoever_cannot_connect_is_told_so_as_soon_as_the_documentation_says() {
    let (mut world, pods) = World::of_three().expect("a world");
    world.write_config("empty", EMPTY).expect("a service");
    world.write_config("denied", DENIED).expect("a policy");
    let mut add = |node, name, label| {
        let spec = PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
        world.add(&spec.label(label, "to-all")).expect("a pod")
    };
    let denied = [add("n1", "d", "closed"), add("n2", "e", "closed")];
    let down = [add("n1", "f", "open"), add("n2", "g", "open")];
    let mesh = Mesh::of(world, pods, &[]);
    let world = &mesh.world;
    let mut client = world.peer(&mesh.a).expect("a peer");
    let address = |pod: &Pod| Some(addresses(pod)[0].clone());
    let both = |pods: [&Pod; 2]| pods.map(address);

    println!("| what | one node | two nodes |");
    let empty = fates(&mut client, [Some("10.96.0.250:80".to_owned()), None]);
    hold("no endpoint", &empty, "ECONNRESET", SOON);
    let port_81 = [&mesh.b, &mesh.c].map(|pod| Some(format!("{}:81", pod.vip_addresses()[0])));
    let unknown = fates(&mut client, port_81);
    hold("unknown Service port", &unknown, "ECONNRESET", SOON);
    let refused = fates(&mut client, both([&denied[0], &denied[1]]));
    hold("denied", &refused, "ECONNRESET", SOON);
    let closed = fates(&mut client, both([&mesh.b, &mesh.c]));
    hold("closed port", &closed, "ECONNRESET", AFTER_RST);

    for pod in &down {
        link_down(world.in_pod(pod, "ip"), "eth0");
    }
    let silent = fates(&mut client, both([&down[0], &down[1]]));
    hold("endpoint down", &silent, "ECONNRESET", PATIENCE);

    let [near, far] = mesh.agents;
    far.kill9().expect("kill");
    let gone = fates(&mut client, [None, address(&mesh.c)]);
    hold("its agent down", &gone, "ECONNRESET", PATIENCE);
    link_down(world.on_node("n2", "ip"), "wire");
    let cut = fates(&mut client, [None, address(&mesh.c)]);
    hold("its node down", &cut, "ECONNRESET", PATIENCE);
    near.kill9().expect("kill");
    let own = fates(&mut client, both([&mesh.b, &mesh.c]));
    hold("own agent down", &own, "EPERM", SOON);
}

fn link_down(mut ip: Command, link: &str) {
    let status = ip.args(["link", "set", link, "down"]).status();
    assert!(status.expect("ip").success());
}
