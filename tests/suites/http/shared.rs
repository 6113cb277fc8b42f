//! Clients of one pod whose requests go to one address: all but the first share a connection
//! between the agents.

use std::io::Write as _;
use std::process::{ChildStdin, Command};

use mesh_tests::{Agent, Authority, PATIENCE};

use super::*;

const SCRIPT: &str = include_str!("shared.py");
const CLIENTS: usize = 24;
/// Each has connections of its own.
const WORKERS: [&str; 2] = ["--workers", "2"];
/// Of each worker the first has one to itself, and who was waited for before it was known that
/// this is HTTP; one is shared.
const MOST: usize = CLIENTS / 3;

/// Clients in pod a on n1 of a server in pod c on n2.
struct Many {
    // Their end first.
    clients: Clients,
    agents: Agents,
    authority: Authority,
    world: World,
    a: Pod,
    c: Pod,
}

struct Clients {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Clients {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn step(&mut self, step: &str) -> String {
        writeln!(self.to, "{step}").expect("told");
        self.line()
    }

    /// Each asks so often, all of them at once; how many answers were whole.
    fn rounds(&mut self, count: usize, method: &str, size: usize) -> usize {
        let told = self.step(&format!("rounds {count} {method} {size}"));
        told.parse().expect("a number")
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Ended already with its world, maybe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Many {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let [a, c] = [("n1", "a"), ("n2", "c")]
            .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"));
        let mut server = world.in_pod(&c, PYTHON);
        server.args(["-c", SCRIPT, "serve", &APP_PORT.to_string()]);
        world.start_server(&c, APP_PORT, server).expect("a server");
        let authority = world.authority(&[]).expect("an authority");
        let agents = Agents::of(&world, &authority, &WORKERS).expect("agents");
        let mut client = world.in_pod(&a, PYTHON);
        client.args(["-c", SCRIPT, "steps", &c.vips()[0], &CLIENTS.to_string()]);
        let clients = started(client);
        Self {
            clients,
            agents,
            authority,
            world,
            a,
            c,
        }
    }

    /// Connections from the client's namespace to the server's own address: the agent's, for
    /// the clients call the Service's.
    fn carriers(&self) -> usize {
        let to = format!("{}:{APP_PORT}", self.c.v4());
        let mut ss = self.world.in_pod(&self.a, "ss");
        ss.args(["-Htn", "state", "established", "dst", &to]);
        let told = ss.output().expect("ss runs");
        assert!(told.status.success());
        String::from_utf8_lossy(&told.stdout).lines().count()
    }
}

fn started(mut client: Command) -> Clients {
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = client.spawn().expect("python runs");
    let mut clients = Clients {
        to: child.stdin.take().expect("a pipe"),
        from: BufReader::new(child.stdout.take().expect("a pipe")),
        child,
    };
    assert_eq!(clients.line(), "\"open\"");
    clients
}

#[test]
fn clients_of_one_pod_share_a_connection_between_agents() {
    let mut many = Many::new();
    assert_eq!(many.clients.rounds(50, "GET", 100), CLIENTS * 50);
    assert_eq!(many.clients.rounds(50, "POST", 3_000), CLIENTS * 50);
    let carriers = many.carriers();
    assert!((1..=MOST).contains(&carriers), "{carriers}");
    let channels = many.agents[0].counter("mesh_agent_tunnel_channels_total", &[]);
    assert!(channels.expect("a figure") as usize >= CLIENTS - MOST);
    // Each is delivered, counted and judged by itself, from its client's own address.
    let labels = ["reporter=\"destination\"", "response_code=\"200\""];
    let counted = many.agents[1].requests(&labels).expect("a figure");
    assert!(counted as usize >= CLIENTS * 100, "{counted}");
}

#[test]
fn a_client_that_reads_nothing_holds_up_none_that_it_shares_with() {
    const LARGE: usize = 30_000_000;
    let mut many = Many::new();
    assert_eq!(many.clients.step(&format!("stall {LARGE}")), "200");
    assert_eq!(many.clients.rounds(100, "GET", 5_000), (CLIENTS - 1) * 100);
    assert!(many.carriers() <= MOST);
    assert_eq!(many.clients.step("read"), "true");
}

#[test]
fn a_first_head_that_is_larger_than_what_goes_before_the_accept_is_answered_at_once() {
    let mut many = Many::new();
    // Of each worker some: their connections are known to be shared by now.
    assert_eq!(many.clients.rounds(1, "GET", 100), CLIENTS);
    for size in [16_000, 17_000, 17_000, 40_000, 40_000] {
        let asked = std::time::Instant::now();
        assert_eq!(many.clients.step(&format!("head {size}")), "true", "{size}");
        assert!(asked.elapsed() < PATIENCE, "{size}");
    }
}

#[test]
fn large_messages_have_connections_of_their_own_and_arrive_whole() {
    const LARGE: usize = 1_000_000;
    let mut many = Many::new();
    assert_eq!(many.clients.rounds(3, "POST", LARGE), CLIENTS * 3);
    assert!(many.carriers() >= CLIENTS / 2, "bodies");
    let mut many = Many::new();
    assert_eq!(many.clients.rounds(3, "GET", LARGE), CLIENTS * 3);
    assert!(many.carriers() >= CLIENTS / 2, "answers");
}

#[test]
fn an_agent_that_is_killed_and_back_takes_no_kept_client_along() {
    let mut many = Many::new();
    assert_eq!(many.clients.rounds(5, "GET", 100), CLIENTS * 5);
    many.agents.kill(1).expect("killed");
    let agent = many.world.secure_agent("n2", &many.authority, &WORKERS);
    many.agents[1] = agent.expect("an agent");
    // Nothing of it was under way, so that nothing can have been seen.
    assert_eq!(many.clients.rounds(5, "POST", 1_000), CLIENTS * 5);
    assert!(many.carriers() <= MOST);
}

#[test]
fn an_agent_that_leaves_in_order_loses_no_request() {
    let mut many = Many::new();
    let Many {
        clients,
        agents,
        authority,
        world,
        ..
    } = &mut many;
    let args = authority.agent_args("n2").expect("a token");
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(WORKERS);
    args.extend(["--drain-timeout", "3s"]);
    let whole = std::thread::scope(|scope| {
        let asking = scope.spawn(|| clients.rounds(400, "GET", 100));
        let labels = ["reporter=\"destination\""];
        let answers = |agent: &Agent| agent.requests(&labels).unwrap_or_default();
        assert!(eventually(PATIENCE, || answers(&agents[1]) > 500));
        let next = world.spawn_successor("n2", "agent-2", &args);
        let next = next.expect("another agent");
        let has_started = || next.log().contains("started: ready");
        assert!(eventually(PATIENCE, has_started), "{}", next.log());
        let before = std::mem::replace(&mut agents[1], next);
        assert!(before.stop().expect("an end").success());
        asking.join().expect("asked")
    });
    assert_eq!(whole, CLIENTS * 400);
}

#[test]
fn a_request_that_is_denied_is_denied_alone_whoever_shares_its_connection() {
    let mut many = Many::new();
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                metadata: {name: denied, namespace: shop}\n\
                spec:\n  action: DENY\n  rules:\n  - to: [{operation: {paths: [/101]}}]\n";
    let written = many.agents.read_file(&many.world, "denied.yaml", deny);
    written.expect("read");
    assert_eq!(many.clients.rounds(3, "GET", 101), 0);
    assert_eq!(many.clients.rounds(3, "GET", 100), CLIENTS * 3);
    assert!(many.carriers() <= MOST);
}
