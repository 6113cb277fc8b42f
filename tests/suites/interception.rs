//! The wire between two nodes, recorded while everything on them dies, stops,
//! and comes back: nothing that pods say is readable there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{APP_PORT, Agent, Authority, OnAgentDown, Pod, PodSpec, World, eventually};

/// Answers that each disturbance must be followed, or accompanied, by.
const ENOUGH: usize = 150;
/// Tries that are made while something is away.
const TRIES: usize = 20;
const DISABLE: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: DISABLE}}
";
const LIFETIME: [&str; 4] = ["--default-lifetime", "8s", "--max-lifetime", "8s"];

/// Client a on n1 and server c on n2, which they reach by all of its addresses.
struct Talk {
    world: World,
    a: Pod,
    c: Pod,
    server: PodSpec,
    authority: Authority,
    said: PathBuf,
    answered: PathBuf,
    heard: PathBuf,
}

impl Talk {
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
        let server = PodSpec::new("n2", "c").enrolled(OnAgentDown::Closed);
        let c = world.add(&server).expect("a pod");
        let authority = world.authority(&LIFETIME).expect("an authority");
        let file = |name: &str| world.dir().join(name);
        let (said, answered, heard) = (file("said"), file("answered"), file("heard"));
        Self {
            world,
            a,
            c,
            server,
            authority,
            said,
            answered,
            heard,
        }
    }

    /// Pods that are in the mesh begin.
    fn begin(&mut self) {
        self.serve();
        let mut client = self.world.in_pod(&self.a, "python3");
        client
            .args(["-c", include_str!("interception.py"), "talk"])
            .args([&self.said, &self.heard])
            .args(self.c.vips());
        let own = [self.c.v4(), format!("[{}]", self.c.v6())];
        client.args(own.map(|ip| format!("{ip}:{APP_PORT}")));
        let started = self.world.start_and_read(client, "talking");
        started.expect("a client");
    }

    fn serve(&mut self) {
        let mut server = self.world.in_pod(&self.c, "python3");
        server
            .args(["-c", include_str!("interception.py"), "serve"])
            .arg(APP_PORT.to_string())
            .arg(&self.answered);
        let started = self.world.start_and_read(server, "serving");
        started.expect("a server");
    }

    fn agent(&self, node: &str) -> Agent {
        let keep = ["--on-stop", "keep"];
        let agent = self.world.secure_agent(node, &self.authority, &keep);
        agent.expect("an agent")
    }

    /// More tries are made.
    fn tried(&self, what: &str) {
        let more = lines(&self.said).len() + TRIES;
        let tried = eventually(Duration::from_secs(20), || lines(&self.said).len() >= more);
        assert!(tried, "{what}: no tries");
    }

    /// Enough more markers go there and back.
    fn goes_on(&self, what: &str) {
        let more = lines(&self.heard).len() + ENOUGH;
        let heard = || lines(&self.heard).len();
        let enough = eventually(Duration::from_secs(30), || heard() >= more);
        assert!(enough, "{what}: {} of {more} answers", heard());
    }

    /// A step of the rotation, as soon as it is safe.
    fn rotate(&self, step: &str) {
        let done = || self.authority.tell(&["rotate", step]).is_ok();
        assert!(eventually(Duration::from_secs(20), done), "{step}");
        self.goes_on(step);
    }

    /// The control: a capture finds what it should.
    fn is_readable_without_tls(&self) {
        let wire = self.world.wire("n1");
        let capture = self.world.capture_packets("n1", wire, "tcp");
        let capture = capture.expect("a capture");
        self.world.write_config("mode", DISABLE).expect("a file");
        self.goes_on("without TLS");
        self.goes_on("without TLS for certain");
        let captured = capture.stop().expect("a capture");
        let found = captured.count(&self.markers());
        assert!(found > ENOUGH, "{found} markers found");
    }

    /// Everything that either pod said so far.
    fn markers(&self) -> Vec<String> {
        [lines(&self.said), lines(&self.answered)].concat()
    }
}

fn is_enrolled(status: &serde_json::Value, pod: &str) -> bool {
    let pods = status["pods"].as_array();
    pods.is_some_and(|pods| {
        let of = pods.iter().find(|p| p["pod"] == pod);
        of.is_some_and(|p| p["enrolled"] == true)
    })
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

#[test]
fn no_failure_and_no_restart_makes_what_pods_say_readable_between_the_nodes() {
    let mut talk = Talk::new();
    let wire = talk.world.wire("n1");
    let capture = talk.world.capture_packets("n1", wire, "tcp");
    let capture = capture.expect("a capture");
    let mut near = talk.agent("n1");
    let mut far = talk.agent("n2");
    talk.begin();
    talk.goes_on("undisturbed");

    near.kill9().expect("killed");
    talk.tried("the client's agent is killed");
    near = talk.agent("n1");
    talk.goes_on("the client's agent is back");
    far.kill9().expect("killed");
    talk.tried("the server's agent is killed");
    far = talk.agent("n2");
    talk.goes_on("the server's agent is back");

    near.stop().expect("stopped");
    talk.tried("the client's agent is stopped");
    let _near = talk.agent("n1");
    talk.goes_on("the client's agent is started");
    far.stop().expect("stopped");
    talk.tried("the server's agent is stopped");
    let far = talk.agent("n2");
    talk.goes_on("the server's agent is started");

    talk.authority.stop().expect("stopped");
    talk.goes_on("without the authority");
    let again = talk.authority.start_again(&talk.world, &LIFETIME);
    again.expect("started");
    for step in ["prepare", "activate", "retire"] {
        talk.rotate(step);
    }

    talk.world.remove_pod(&talk.c).expect("removed");
    talk.tried("the server's pod is away");
    talk.world.add_again(&talk.server, &talk.c).expect("a pod");
    let enrolled = || far.status().is_ok_and(|s| is_enrolled(&s, "shop/c"));
    assert!(
        eventually(Duration::from_secs(10), enrolled),
        "not enrolled"
    );
    talk.serve();
    talk.goes_on("the server's pod is back");

    let captured = capture.stop().expect("a capture");
    assert_eq!(captured.dropped, 0);
    let markers = talk.markers();
    let delivered = lines(&talk.heard).len();
    assert!(delivered >= 1_000, "{delivered} there and back");
    assert!(markers.len() >= 2 * delivered, "{} said", markers.len());
    assert_eq!(captured.count(&markers), 0, "of {} markers", markers.len());
    talk.is_readable_without_tls();
}
