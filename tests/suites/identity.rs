//! Connections between nodes are mutual TLS, by the right identities only.

use std::time::{Duration, Instant};

use mesh_tests::{APP_PORT, Agent, Agents, Peer, Pod, World, all_fine, eventually};

/// Client a and server b on n1, server c on n2.
fn world() -> (World, [Pod; 3]) {
    let (mut world, pods) = World::of_three().expect("a world");
    for pod in &pods[1..] {
        world.serve(pod).expect("a server");
    }
    (world, pods)
}

#[test]
fn many_connections_between_nodes_arrive_whole_with_true_addresses_over_mutual_tls() {
    let (world, [a, b, c]) = world();
    let agents = Agents::start(&world, &[]).expect("agents");
    let targets = [b.targets(), c.targets()].concat();
    let args = ["--count", "5000", "--inflight", "32"];
    all_fine(&world.storm(&a, &targets, &args).expect("a report"), 5000);
    for (agent, reporter) in agents.iter().zip(["source", "destination"]) {
        let secured = agent
            .metric(
                "istio_tcp_connections_opened_total",
                "connection_security_policy=\"mutual_tls\"",
            )
            .expect("a metric");
        assert!(secured > 2000.0, "{reporter}: {secured}");
    }
    let large = ["--count", "2", "--inflight", "1", "--bytes", "134217728"];
    let report = world.storm(&a, &c.targets()[..1], &large);
    all_fine(&report.expect("a report"), 2);
}

/// Serial number of the pod's certificate, as its agent shows it.
fn serial(agent: &Agent, account: &str) -> String {
    let status = agent.status().expect("a status");
    let identities = status["identities"]["identities"]
        .as_array()
        .expect("a list");
    let of = |i: &&serde_json::Value| {
        let name = i["identity"].as_str().expect("a name");
        name.ends_with(&format!("/sa/{account}"))
    };
    let identity = identities.iter().find(of).expect("the identity");
    identity["serial"].as_str().expect("a serial").to_owned()
}

#[test]
fn a_revoked_certificate_ends_its_live_connections_and_gets_no_new_ones() {
    let (world, [a, _, c]) = world();
    let authority = world.authority(&[]).expect("an authority");
    let crl = authority.state().join("crl.pem").display().to_string();
    let [near, far] = ["n1", "n2"].map(|n| {
        let agent = world.secure_agent(n, &authority, &["--crl-file", &crl]);
        agent.expect("an agent")
    });
    let mut server = world.peer(&c).expect("a peer");
    assert_eq!(server.ask("listen 7000").expect("an answer"), "listening");
    let mut client = world.peer(&a).expect("a peer");
    let connect = format!("connect {}:7000", c.v4());
    assert_eq!(client.ask(&connect).expect("an answer"), "connected");
    client.tell("send 1000").expect("told");
    assert_eq!(server.ask("accept").expect("an answer"), "accepted");
    let read = server.ask("read 1000").expect("an answer");
    assert!(read.starts_with("read "), "{read}");
    client.hear().expect("an answer");

    let old = serial(&far, "c");
    authority.tell(&["revoke", &old]).expect("revoked");
    let revoked = Instant::now();
    let said = client.ask("drain").expect("an answer");
    assert!(said.contains("reset"), "{said}");
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let report = world.storm(&a, &c.targets()[2..3], &["--count", "10"]);
    // Its agent gets another certificate as soon as it knows.
    let report = report.expect("a report");
    assert!(report["ok"] == 0 || serial(&far, "c") != old, "{report}");
    let _told = near.comes_to("mesh_agent_connections_ended_total", "revoked", 1.0);
    let named = eventually(Duration::from_secs(10), || {
        let log = std::fs::read_to_string(world.access_log("n1")).unwrap_or_default();
        let serial = format!("\"serial\":\"{old}\"");
        log.lines()
            .any(|l| l.contains("revoked\"") && l.contains(&serial))
    });
    assert!(named, "no line names {old}");
}

/// As docs/ca.md promises of other roots.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// Whoever has its key could have signed anybody's, so no list tells which.
#[test]
fn a_root_that_is_taken_away_ends_what_it_has_proved() {
    let (world, [a, _, c]) = world();
    let authority = world.authority(&[]).expect("an authority");
    let agents = Agents::of(&world, &authority, &[]).expect("agents");
    let mut client = world.peer(&a).expect("a peer");
    let connect = format!("connect {}:{APP_PORT}", c.v4());
    assert_eq!(client.ask(&connect).expect("an answer"), "connected");
    // By way of the other agent.
    let _told = agents[0].comes_to("mesh_agent_tls_handshakes_total", "role=\"client\"", 1.0);
    for step in [
        &["prepare"][..],
        &["activate", "--force"],
        &["retire", "--force"],
    ] {
        let words = [&["rotate"], step].concat();
        authority.tell(&words).expect("done");
    }
    let removed = Instant::now();
    let said = client.ask("drain").expect("an answer");
    assert!(said.contains("reset"), "{said}");
    println!("cut {:?} after the root was taken away", removed.elapsed());
    // The other agent may be the last to ask: each draws its own moment.
    let all_have_asked = ASKED_WITHIN.saturating_sub(removed.elapsed());
    let args = ["--count", "10", "--inflight", "1"];
    let is_whole = || {
        let report = world.storm(&a, &c.targets()[2..3], &args);
        report.expect("a report")["ok"] == 10
    };
    let whole = eventually(all_have_asked + Duration::from_secs(5), is_whole);
    assert!(whole, "with the new root alone nothing goes on");
}

#[test]
fn roots_rotate_and_the_authority_goes_away_for_a_while_and_no_connection_fails() {
    let (world, [a, _, c]) = world();
    let short = ["--default-lifetime", "24s", "--max-lifetime", "24s"];
    let mut authority = world.authority(&short).expect("an authority");
    let _agents = Agents::of(&world, &authority, &[]).expect("agents");
    // About 150 connections a second: more would use up the client's own
    // ports, which wait for a minute after each.
    let during = |seconds: u64| {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let args = ["--count", "20", "--inflight", "4"];
            let report = world.storm(&a, &c.targets()[2..3], &args);
            all_fine(&report.expect("a report"), 20);
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    during(2);
    authority.tell(&["rotate", "prepare"]).expect("prepared");
    during(25);
    authority.tell(&["rotate", "activate"]).expect("activated");
    during(25);
    authority.tell(&["rotate", "retire"]).expect("retired");
    during(4);
    // Certificates are renewed at half of their life, a tenth sooner or later. Who finds nobody
    // then asks again after a second, two more and four more, a fifth sooner or later: 10 s
    // later at most, and 10.8 s are left.
    authority.stop().expect("stopped");
    during(4);
    authority.start_again(&world, &short).expect("started");
    // One that was missed would have ended by then.
    during(14);
}

#[test]
fn without_the_authority_certificates_expire_and_nothing_passes_until_it_is_back() {
    let (world, [a, _, c]) = world();
    let short = ["--default-lifetime", "8s", "--max-lifetime", "8s"];
    let mut authority = world.authority(&short).expect("an authority");
    let agents = Agents::of(&world, &authority, &[]).expect("agents");
    let [near, _] = &*agents;
    let tries = || {
        let args = ["--count", "4", "--inflight", "4"];
        let report = world.storm(&a, &c.targets()[2..3], &args);
        report.expect("a report")["ok"].as_u64().expect("a count")
    };
    assert_eq!(tries(), 4);
    let mut client = world.peer(&a).expect("a peer");
    let connect = format!("connect {}:{APP_PORT}", c.v4());
    assert_eq!(client.ask(&connect).expect("an answer"), "connected");
    authority.stop().expect("stopped");
    // The live one is ended, too.
    let said = client.ask("drain").expect("an answer");
    assert!(said.contains("reset"), "{said}");
    assert_eq!(tries(), 0);
    let _told = near.comes_to("mesh_agent_connections_ended_total", "certificate", 1.0);
    says_that_it_can_do_nothing(near);
    authority.start_again(&world, &short).expect("started");
    let back = Instant::now();
    assert!(
        eventually(Duration::from_secs(5), || tries() == 4),
        "not back"
    );
    assert!(back.elapsed() < Duration::from_secs(5));
    says_that_it_is_well_again(near);
}

/// All certificates have expired, and every call between nodes is refused.
fn says_that_it_can_do_nothing(agent: &Agent) {
    // Not each of the node's has the same end; one is enough to end a connection.
    let none_is_left = || agent.status_text().is_ok_and(|(code, _)| code == 1);
    let expired = eventually(Duration::from_secs(20), none_is_left);
    let (code, text) = agent.status_text().expect("a status");
    assert!(expired && code == 1, "{code}: {text}");
    assert!(text.contains("not ready"), "{text}");
    assert_eq!(text.matches("has expired").count(), 1, "once: {text}");
    for part in ["effect", "to do", "since", "ca run"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (code, text) = agent.readyz().expect("an answer");
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("has expired"), "{text}");
    assert_eq!(agent.probe("ready").expect("an answer"), (1, text));
    assert_eq!(agent.probe("live").expect("an answer").0, 0);
}

fn says_that_it_is_well_again(agent: &Agent) {
    let well = || agent.status_text().is_ok_and(|(code, _)| code == 0);
    let settled = eventually(Duration::from_secs(20), well);
    assert!(settled, "{}", agent.status_text().expect("a status").1);
    assert_eq!(
        agent.readyz().expect("an answer"),
        (200, "ready\n".to_owned())
    );
    // It is written by a thread of its own.
    for part in ["started: ready", "problem: ", "over: "] {
        let is_logged = eventually(Duration::from_secs(20), || agent.log().contains(part));
        assert!(is_logged, "{part} in {}", agent.log());
    }
    let log = agent.log();
    assert!(!log.contains('\u{1b}'), "no escape codes in a file: {log}");
    let lines = log.lines().count();
    assert!(lines < 40, "{lines} lines, for few changes: {log}");
}

/// A live connection: the client's end and the server's.
fn live(world: &World, from: &Pod, to: &Pod, port: u16) -> (Peer, Peer) {
    let mut server = world.peer(to).expect("a peer");
    let listening = server.ask(&format!("listen {port}")).expect("an answer");
    assert_eq!(listening, "listening");
    let mut client = world.peer(from).expect("a peer");
    let connect = format!("connect {}:{port}", to.v4());
    assert_eq!(client.ask(&connect).expect("an answer"), "connected");
    assert_eq!(server.ask("accept").expect("an answer"), "accepted");
    (client, server)
}

#[test]
fn live_streams_outlive_certificates_and_are_cut_when_the_peer_shows_no_newer_one() {
    let (world, [a, b, c]) = world();
    let short = ["--default-lifetime", "8s", "--max-lifetime", "8s"];
    let authority = world.authority(&short).expect("an authority");
    let agents = Agents::of(&world, &authority, &[]).expect("agents");
    let [near, far] = &*agents;
    // The near agent is the client of one and the server of the other.
    let mut all = [live(&world, &a, &c, 7000), live(&world, &c, &b, 7001)];
    // Three lives of a certificate, the grace, and some.
    let end = Instant::now() + Duration::from_secs(26);
    while Instant::now() < end {
        for (client, server) in &mut all {
            client.tell("send 1000").expect("told");
            let read = server.ask("read 1000").expect("an answer");
            assert!(read.starts_with("read "), "{read}");
            client.hear().expect("an answer");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let cut = || {
        near.metric(
            "mesh_agent_connections_ended_total",
            "peer_certificate_expired",
        )
    };
    assert_eq!(cut().expect("a metric"), 0.0);
    // Its connections stay, and it shows nothing new.
    far.pause().expect("paused");
    let paused = Instant::now();
    let [(client, _), (_, server)] = &mut all;
    for near_end in [client, server] {
        let said = near_end.ask("drain").expect("an answer");
        assert!(said.contains("reset"), "{said}");
    }
    // What was left of the life, the grace of 5 s, and room for a busy machine.
    let took = paused.elapsed();
    assert!(took < Duration::from_secs(18), "{took:?}");
    let told = eventually(Duration::from_secs(10), || {
        cut().is_ok_and(|n| (n - 2.0).abs() < 0.5)
    });
    assert!(told, "{:?}", cut());
    far.resume().expect("resumed");
}

#[test]
fn revoking_a_newer_certificate_ends_a_stream_that_began_on_an_older_one() {
    let (world, [a, _, c]) = world();
    let short = ["--default-lifetime", "16s", "--max-lifetime", "16s"];
    let authority = world.authority(&short).expect("an authority");
    let crl = authority.state().join("crl.pem").display().to_string();
    let [near, far] = ["n1", "n2"].map(|n| {
        let agent = world.secure_agent(n, &authority, &["--crl-file", &crl]);
        agent.expect("an agent")
    });
    let (mut client, _server) = live(&world, &a, &c, 7000);
    let first = serial(&far, "c");
    let renewed = eventually(Duration::from_secs(16), || serial(&far, "c") != first);
    assert!(renewed, "{first} stays");
    // The live stream has its connection: these make one, and see the new certificate.
    let report = world.storm(&a, &c.targets()[2..3], &["--count", "4"]);
    all_fine(&report.expect("a report"), 4);
    let newer = serial(&far, "c");
    authority.tell(&["revoke", &newer]).expect("revoked");
    let said = client.ask("drain").expect("an answer");
    assert!(said.contains("reset"), "{said}");
    let _told = near.comes_to("mesh_agent_connections_ended_total", "\"revoked\"", 1.0);
}

#[test]
fn five_stalled_streams_between_two_pods_do_not_slow_a_sixth() {
    let (world, [a, _, c]) = world();
    let _agents = Agents::start(&world, &[]).expect("agents");
    let mut stalled = vec![];
    for port in 7000..7005 {
        let mut server = world.peer(&c).expect("a peer");
        let listening = server.ask(&format!("listen {port}")).expect("an answer");
        assert_eq!(listening, "listening");
        let mut client = world.peer(&a).expect("a peer");
        let connect = format!("connect {}:{port}", c.v4());
        assert_eq!(client.ask(&connect).expect("an answer"), "connected");
        assert_eq!(server.ask("accept").expect("an answer"), "accepted");
        // Writes until it is blocked: nobody reads.
        client.tell("fill").expect("told");
        stalled.push((client, server));
    }
    for (client, _) in &mut stalled {
        client.hear().expect("blocked");
    }
    let args = ["--count", "200", "--inflight", "4"];
    let report = world.storm(&a, &c.targets()[2..3], &args);
    all_fine(&report.expect("a report"), 200);
}
