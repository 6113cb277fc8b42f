//! What an application sees of a connection that cannot be, and how soon.

use std::process::{Child, Command};
use std::time::Duration;

use mesh_tests::{
    APP_PORT, Agent, Agents, OnAgentDown, Peer, Pod, PodSpec, World, all_fine, eventually,
};

/// Client a and server b on n1, server c on n2; nobody listens anywhere.
struct Mesh {
    world: World,
    a: Pod,
    b: Pod,
    c: Pod,
    agents: Agents,
}

impl Mesh {
    fn new(args: &[&str]) -> Self {
        let (world, pods) = World::of_three().expect("a world");
        Self::of(world, pods, args)
    }

    fn of(world: World, [a, b, c]: [Pod; 3], args: &[&str]) -> Self {
        let agents = Agents::start(&world, args).expect("agents");
        Self {
            world,
            a,
            b,
            c,
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
        // The agent would wait a second for what does not reach it, and try again.
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
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

/// Tries each some times. Where milliseconds are documented the quickest one counts: a machine
/// that is busy with other tests has any of them wait for a processor. Where it is seconds the
/// slowest of two does.
fn fates(client: &mut Peer, to: [Option<String>; 2], documented: Duration) -> Fates {
    let is_quick = documented < PATIENCE;
    to.map(|to| {
        let to = to?;
        let tries = if is_quick { 6 } else { 2 };
        let mut all: Vec<_> = (0..tries).map(|_| fate(client, &to)).collect();
        assert!(
            all.iter().all(|(fate, _)| *fate == all[0].0),
            "{to}: {all:?}"
        );
        all.sort_by_key(|(_, time)| *time);
        all.into_iter().nth(if is_quick { 0 } else { tries - 1 })
    })
}

fn shown(fate: Option<&(String, Duration)>) -> String {
    fate.map_or("-".to_owned(), |(fate, time)| {
        format!("{fate}, {:.1} ms", time.as_secs_f64() * 1e3)
    })
}

/// Five times of what the documentation says: other tests run beside this one.
fn holds(what: &str, fates: &Fates, expected: &str, documented: Duration) {
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
    let mut mesh = Mesh::of(world, pods, &[]);
    let world = &mesh.world;
    let mut client = world.peer(&mesh.a).expect("a peer");
    let address = |pod: &Pod| Some(addresses(pod)[0].clone());
    let both = |pods: [&Pod; 2]| pods.map(address);

    println!("| what | one node | two nodes |");
    let nowhere = [Some("10.96.0.250:80".to_owned()), None];
    let empty = fates(&mut client, nowhere, SOON);
    holds("no endpoint", &empty, "ECONNRESET", SOON);
    let port_81 = [&mesh.b, &mesh.c].map(|pod| Some(format!("{}:81", pod.vip_addresses()[0])));
    let unknown = fates(&mut client, port_81, SOON);
    holds("unknown Service port", &unknown, "ECONNRESET", SOON);
    let refused = fates(&mut client, both([&denied[0], &denied[1]]), SOON);
    holds("denied", &refused, "ECONNRESET", SOON);
    let closed = fates(&mut client, both([&mesh.b, &mesh.c]), AFTER_RST);
    holds("closed port", &closed, "ECONNRESET", AFTER_RST);

    for pod in &down {
        link_down(world.in_pod(pod, "ip"), "eth0");
    }
    let silent = fates(&mut client, both([&down[0], &down[1]]), PATIENCE);
    holds("endpoint down", &silent, "ECONNRESET", PATIENCE);

    mesh.agents.kill(1).expect("a kill");
    let gone = fates(&mut client, [None, address(&mesh.c)], PATIENCE);
    holds("its agent down", &gone, "ECONNRESET", PATIENCE);
    link_down(world.on_node("n2", "ip"), "wire");
    let cut = fates(&mut client, [None, address(&mesh.c)], PATIENCE);
    holds("its node down", &cut, "ECONNRESET", PATIENCE);
    mesh.agents.kill(0).expect("a kill");
    let own = fates(&mut client, both([&mesh.b, &mesh.c]), SOON);
    holds("own agent down", &own, "EPERM", SOON);
}

fn link_down(mut ip: Command, link: &str) {
    let status = ip.args(["link", "set", link, "down"]).status();
    assert!(status.expect("ip").success());
}

/// That many idle connections; those that get no place are reset later.
fn hold(world: &World, from: &Pod, to: &Pod, count: usize) -> Child {
    let held = world.hold(from, &addresses(to)[0], count);
    held.expect("connections")
}

/// Once all that were `asked` for are judged, so many have a place.
fn has_its_share(agent: &Agent, share: &str, places: f64, asked: usize) {
    let refused = || agent.metric("mesh_agent_connections_over_share_total", share);
    let active = || agent.metric("mesh_agent_connections_active", "");
    let done = eventually(Duration::from_secs(10), || {
        let (Ok(refused), Ok(active)) = (refused(), active()) else {
            return false;
        };
        // Two workers may judge at the same moment.
        (refused + active - asked as f64).abs() < 0.5 && (active - places).abs() < 2.5
    });
    assert!(done, "{share}: {:?} and {:?}", refused(), active());
}

/// More than a few at once from another one find a place.
fn others_pass(world: &World, from: &Pod, to: &Pod) {
    let args = ["--count", "200", "--inflight", "4"];
    let report = world.storm(from, &to.targets()[2..3], &args);
    all_fine(&report.expect("a report"), 200);
}

#[test]
fn an_outside_client_at_two_pods_leaves_places_for_others() {
    let (mut world, [_, b, c]) = World::of_three().expect("a world");
    let d = world.add_pod("n2", "d", Some("closed")).expect("a pod");
    let greedy = world.add_pod("n1", "greedy", None).expect("a pod");
    let other = world.add_pod("n1", "other", None).expect("a pod");
    for server in [&c, &d, &b] {
        world.serve(server).expect("a server");
    }
    let agent = world.agent("n2", &["--max-connections", "400"]);
    let agent = agent.expect("an agent");
    let held = [&c, &d].map(|server| hold(&world, &greedy, server, 300));
    // At the first pod a third, and half of all at both.
    has_its_share(&agent, "source", 200.0, 600);
    for server in [&c, &d] {
        others_pass(&world, &other, server);
    }
    end(held);
}

#[test]
fn two_greedy_pods_leave_places_for_a_third() {
    let (mut world, [a, b, c]) = World::of_three().expect("a world");
    let d = world.add_pod("n1", "d", Some("closed")).expect("a pod");
    world.serve(&c).expect("a server");
    let flags = ["--max-connections", "400"];
    let agent = world.agent("n1", &flags).expect("an agent");
    // The first has half of all, the second half of what that left. A connect is done
    // before the agent has seen it: those of both at once would share alike.
    let first = hold(&world, &a, &c, 300);
    has_its_share(&agent, "pod", 200.0, 300);
    let second = hold(&world, &b, &c, 300);
    has_its_share(&agent, "pod", 300.0, 600);
    others_pass(&world, &d, &c);
    end([first, second]);
}

fn end(clients: [Child; 2]) {
    for mut client in clients {
        drop(client.stdin.take());
        client.wait().expect("the client ends");
    }
}

#[test]
fn what_many_stalled_receivers_do_not_take_is_held_within_the_budget() {
    const STALLED: usize = 40;
    const BUDGET: f64 = (2 << 20) as f64;
    let mesh = Mesh::new(&["--max-buffer-mib", "2"]);
    let world = &mesh.world;
    let target = addresses(&mesh.c)[0].clone();
    // Nobody accepts, and nobody reads.
    let mut server = world.peer(&mesh.c).expect("a peer");
    let listening = server.ask(&format!("listen {APP_PORT}"));
    assert_eq!(listening.expect("an answer"), "listening");
    let clients = (0..STALLED).map(|_| {
        let mut client = world.peer(&mesh.a).expect("a peer");
        let connected = client.ask(&format!("connect {target}"));
        assert_eq!(connected.expect("an answer"), "connected");
        client
    });
    let mut clients: Vec<Peer> = clients.collect();
    for client in &mut clients {
        client.tell("fill").expect("told");
    }
    for client in &mut clients {
        let filled = client.hear().expect("an answer");
        assert!(filled.starts_with("blocked "), "{filled}");
    }
    // It is counted once a second.
    let count = |agent: &Agent| agent.metric("mesh_agent_buffer_bytes", "");
    let [near, far] = &*mesh.agents;
    let counted = eventually(Duration::from_secs(20), || {
        count(far).is_ok_and(|held| held > BUDGET / 8.0)
    });
    assert!(counted, "{:?}", count(far));
    for agent in [near, far] {
        let held = count(agent).expect("a metric");
        println!("{held} bytes held");
        // Beside the budget a record, or part of one, in each of three places.
        assert!(held < BUDGET + (STALLED * 3 * 17 * 1024) as f64, "{held}");
    }
    // Others have what is left.
    others_are_carried(world, &mesh.a, &mesh.b);
}

fn others_are_carried(world: &World, from: &Pod, to: &Pod) {
    let mut far = world.peer(to).expect("a peer");
    let listening = far.ask(&format!("listen {APP_PORT}"));
    assert_eq!(listening.expect("an answer"), "listening");
    let mut near = world.peer(from).expect("a peer");
    let connected = near.ask(&format!("connect {}", addresses(to)[0]));
    assert_eq!(connected.expect("an answer"), "connected");
    assert_eq!(far.ask("accept").expect("an answer"), "accepted");
    near.tell("send 5000000").expect("told");
    let read = far.ask("read 5000000").expect("an answer");
    let sent = near.hear().expect("an answer");
    assert_eq!(read.strip_prefix("read"), sent.strip_prefix("sent"));
}

/// What leads answers back to the agent, as the pod's namespace has it.
fn settings(world: &World, pod: &Pod) -> Vec<String> {
    let names = [
        "ipv4/tcp_fwmark_accept",
        "ipv4/fwmark_reflect",
        "ipv6/fwmark_reflect",
    ];
    let paths = names.map(|name| format!("/proc/sys/net/{name}"));
    let out = world.in_pod(pod, "cat").args(paths).output().expect("cat");
    let text = String::from_utf8(out.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_pod_that_leaves_has_its_own_settings_again() {
    let (world, [a, b, _]) = World::of_three().expect("a world");
    let own = "net.ipv4.fwmark_reflect";
    world.set_sysctl(&b, own, "1").expect("a setting");
    let all = || [&a, &b].map(|pod| settings(&world, pod));
    let before = all();
    assert_eq!(before, [["0", "0", "0"], ["0", "1", "0"]]);
    // Whichever agent it is that takes them back.
    let killed = world.agent("n1", &[]).expect("an agent");
    killed.kill9().expect("kill");
    let agent = world.agent("n1", &[]).expect("an agent");
    assert!(all().iter().flatten().all(|value| value != "0"));
    assert!(agent.stop().expect("an end").success());
    assert_eq!(all(), before);
}
