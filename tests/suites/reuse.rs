//! An address goes from one pod to another, and the configuration does not
//! know it yet, or knew it too early: nobody is taken for somebody else.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use mesh_tests::{Agent, Agents, Pod, World, eventually};
use serde_json::Value;

const SCRIPT: &str = include_str!("reuse.py");
/// The address that goes round.
const REUSED: [&str; 2] = ["10.77.0.150", "fd77::150"];
/// Open only to the pod that the configuration gives the address.
const GUARDED: u16 = 8080;
/// Open to all, one for each pod that the address goes to: who came is told by
/// the port, whatever the agents believe.
const OPEN: [(&str, u16); 3] = [("p", 8081), ("q", 8082), ("r", 8083)];
/// Moves of the address in each of the four states of the configuration.
const MOVES: usize = 25;

/// A program in a pod that serves, and connects when told.
struct App {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl App {
    fn start(world: &World, pod: &Pod) -> Self {
        let ports = [GUARDED].into_iter().chain(OPEN.map(|(_, port)| port));
        let mut child = world
            .in_pod(pod, "/usr/bin/python3")
            .args(["-c", SCRIPT, &pod.name])
            .args(ports.map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut app = Self {
            to: child.stdin.take().expect("its input"),
            from: BufReader::new(child.stdout.take().expect("its output")),
            child,
        };
        assert_eq!(app.line(), "ready");
        app
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, step: &str) -> String {
        writeln!(self.to, "{step}").expect("told");
        self.line()
    }

    /// What came back from there.
    fn connect(&mut self, host: &str, port: u16, source: &str) -> String {
        self.ask(&format!("connect {host} {port} {source}"))
    }

    /// Whose words came through.
    fn heard(&mut self) -> Vec<String> {
        let line = self.ask("heard");
        line.split(' ').skip(1).map(str::to_owned).collect()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Ended already with its world, maybe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell(script: &str) {
    let out = Command::new("sh").args(["-ec", script]).output();
    let out = out.expect("a shell");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}: {said}");
}

/// a on n1 and d on n2 keep their addresses; the reused one goes round p and q
/// on n1, and r on n2.
struct Scene {
    world: World,
    pods: Vec<Pod>,
    apps: Vec<App>,
    agents: Agents,
    holder: Option<usize>,
}

const FIXED: [usize; 2] = [0, 1];
const P: usize = 2;
const Q: usize = 3;
const R: usize = 4;

impl Scene {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let pods = [
            ("n1", "a"),
            ("n2", "d"),
            ("n1", "p"),
            ("n1", "q"),
            ("n2", "r"),
        ];
        let pods: Vec<Pod> = pods
            .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"))
            .into();
        for pod in &pods[P..] {
            world.remove_config(&pod.name).expect("its documents");
        }
        let apps = pods.iter().map(|pod| App::start(&world, pod)).collect();
        // Who is not there where the address leads is waited for that long.
        let args = ["--connect-timeout", "1s"];
        let agents = Agents::start(&world, &args).expect("agents");
        Self {
            world,
            pods,
            apps,
            agents,
            holder: None,
        }
    }

    /// The address goes to another pod, and every neighbour forgets where it was.
    fn move_to(&mut self, new: usize) {
        let [v4, v6] = REUSED;
        let mut script = String::new();
        if let Some(old) = self.holder.replace(new) {
            let old = self.pods[old].netns();
            script += &format!(
                "ip -n {old} addr del {v4}/24 dev eth0; ip -n {old} addr del {v6}/64 dev eth0\n"
            );
        }
        let new = self.pods[new].netns();
        script += &format!(
            "ip -n {new} addr add {v4}/24 dev eth0; ip -n {new} addr add {v6}/64 dev eth0 nodad\n"
        );
        for pod in &self.pods {
            script += &format!("ip -n {} neigh flush dev eth0\n", pod.netns());
        }
        shell(&script);
    }

    /// The whole configuration of the pods that change: each with its addresses.
    /// `owner`: who may use the guarded port.
    fn configure(&self, state: usize, owner: usize, pods: &[(usize, [String; 2])]) {
        let generations = || self.agents.each(Agent::generation).expect("a status");
        let before = generations();
        let mut yaml = policy(&self.pods[owner].name);
        for (index, addresses) in pods {
            yaml += &pod_yaml(&self.pods[*index], addresses, state);
        }
        self.world.write_config("round", &yaml).expect("a file");
        let expected = pods.len() + FIXED.len();
        let settled = eventually(Duration::from_secs(10), || {
            let now = generations();
            let read = now[0] > before[0] && now[1] > before[1];
            read && self.enrolled() == expected
        });
        assert!(settled, "{:#?}", self.agents.each(Agent::status));
    }

    fn enrolled(&self) -> usize {
        let of = |agent: &Agent| {
            let status = agent.status().expect("a status");
            let pods = status["pods"].as_array().cloned().unwrap_or_default();
            pods.iter().filter(|p| p["enrolled"] == true).count()
        };
        self.agents.iter().map(of).sum()
    }

    fn address(&self, pod: usize, family: usize) -> String {
        let pod = &self.pods[pod];
        if family == 0 { pod.v4() } else { pod.v6() }
    }

    fn own(&self, pod: usize) -> [String; 2] {
        [0, 1].map(|family| self.address(pod, family))
    }

    /// With the address where the configuration says, all goes both ways.
    fn all_is_well(&mut self, owner: usize) {
        let name = self.pods[owner].name.clone();
        for (family, reused) in REUSED.into_iter().enumerate() {
            for fixed in FIXED {
                let answer = self.apps[fixed].connect(reused, GUARDED, "-");
                assert_eq!(answer, name, "{} to {reused}", self.pods[fixed].name);
                let host = self.address(fixed, family);
                let answer = self.apps[owner].connect(&host, GUARDED, reused);
                assert_eq!(answer, self.pods[fixed].name, "{reused} to {host}");
            }
        }
        for app in &mut self.apps {
            app.heard();
        }
    }

    /// With the address elsewhere, nobody is deceived.
    fn nobody_is_deceived(&mut self, family: usize) {
        let holder = self.holder.expect("somebody has it");
        let (reused, name) = (REUSED[family], self.pods[holder].name.clone());
        let open = OPEN.iter().find(|(pod, _)| *pod == name).expect("a port").1;
        for fixed in FIXED {
            // As server: no word of a client comes to it, and none of it back.
            let answer = self.apps[fixed].connect(reused, GUARDED, "-");
            assert!(refused(&answer), "{name} answered as {reused}: {answer}");
            // As client: from the address, and from its own.
            let host = self.address(fixed, family);
            for source in [reused, "-"] {
                let answer = self.apps[holder].connect(&host, GUARDED, source);
                assert!(refused(&answer), "{name} got in from {source}: {answer}");
                self.apps[holder].connect(&host, open, source);
            }
        }
        let heard = self.apps[holder].heard();
        assert_eq!(heard, Vec::<String>::new(), "heard by {name}");
    }

    /// The address that it is captured by is gone: that must not open a way past
    /// the agent.
    fn the_owner_is_not_let_out_uncaptured(&mut self, owner: usize) {
        let open = OPEN[owner - P].1;
        for fixed in FIXED {
            let host = self.address(fixed, 0);
            let answer = self.apps[owner].connect(&host, open, "-");
            assert!(refused(&answer), "without its address: {answer}");
            assert_eq!(self.apps[fixed].heard(), Vec::<String>::new());
        }
    }

    /// Lines of both access logs about connections to an open port, each with
    /// who truly made it.
    fn attributed(&self) -> Vec<(&'static str, Value)> {
        let mut found = vec![];
        for node in ["n1", "n2"] {
            for line in self.world.logged(node) {
                let to = line["destination"].as_str().expect("an address");
                let sender = OPEN
                    .iter()
                    .find(|(_, port)| to.ends_with(&format!(":{port}")));
                found.extend(sender.map(|(name, _)| (*name, line.clone())));
            }
        }
        found
    }
}

fn refused(answer: &str) -> bool {
    answer == "EOF" || answer.starts_with("error E")
}

fn pod_yaml(pod: &Pod, addresses: &[String; 2], state: usize) -> String {
    let [v4, v6] = addresses;
    format!(
        r#"---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  uid: "{name}-{state}"
  labels: {{app: {name}, mesh-agent.io/enrolled: "true"}}
  annotations: {{mesh-agent.io/netns: /run/netns/{netns}}}
spec: {{nodeName: {node}, serviceAccountName: {name}, containers: [{{name: app}}]}}
status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: "{v6}"}}]}}
"#,
        name = pod.name,
        netns = pod.netns(),
        node = pod.node,
    )
}

/// The guarded port for a, d and the owner; the open ones for anybody.
fn policy(owner: &str) -> String {
    let principal = |name: &str| format!("cluster.local/ns/shop/sa/{name}");
    let open: Vec<String> = OPEN.iter().map(|(_, port)| format!("\"{port}\"")).collect();
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: round, namespace: shop}}
spec:
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [{}, {}, {}]}}}}]
    to: [{{operation: {{ports: [\"{GUARDED}\"]}}}}]
  - to: [{{operation: {{ports: [{}]}}}}]
",
        principal("a"),
        principal("d"),
        principal(owner),
        open.join(", "),
    )
}

#[test]
fn an_address_that_went_to_another_pod_gives_it_nobodys_identity() {
    let mut scene = Scene::new();
    let reused = REUSED.map(str::to_owned);
    let (p, q, r) = (scene.own(P), scene.own(Q), scene.own(R));
    // Who has the address by the configuration, what else it knows, who has it in truth.
    type State = (usize, Vec<(usize, [String; 2])>, [usize; 2]);
    let states: [State; 4] = [
        // The new pods are not known yet, on this node and on the other.
        (P, vec![(P, reused.clone())], [Q, R]),
        // They are, by addresses that they have besides.
        (P, vec![(P, reused.clone()), (Q, q.clone()), (R, r)], [Q, R]),
        // The configuration was first: the old pods have the address still.
        (Q, vec![(Q, reused.clone())], [P, R]),
        (R, vec![(R, reused), (P, p), (Q, q)], [P, Q]),
    ];
    for (state, (owner, pods, holders)) in states.into_iter().enumerate() {
        scene.move_to(owner);
        scene.configure(state, owner, &pods);
        scene.all_is_well(owner);
        for turn in 0..MOVES {
            scene.move_to(holders[turn % 2]);
            if turn == 0 {
                scene.the_owner_is_not_let_out_uncaptured(owner);
            }
            scene.nobody_is_deceived(turn / 2 % 2);
        }
    }
    // Each time that a dialled an address of its own node which had gone to one here.
    let ended = "mesh_agent_connections_ended_total";
    let _wrong = scene.agents[0].comes_to(ended, "wrong_workload", MOVES as f64);
    let lines = || scene.attributed();
    let all = eventually(Duration::from_secs(20), || lines().len() >= 4 * MOVES * 4);
    assert!(all, "{} lines", lines().len());
    let (mut named, mut nameless) = (0, 0);
    for (sender, line) in lines() {
        match line["source_principal"].as_str() {
            Some(principal) => {
                assert!(principal.ends_with(&format!("/sa/{sender}")), "{line}");
                named += 1;
            }
            None => {
                assert!(line["source_workload"].is_null(), "{line}");
                nameless += 1;
            }
        }
    }
    assert!(named >= MOVES && nameless >= MOVES, "{named} {nameless}");
}
