//! Bytes and ends of connections pass unchanged.

use std::time::{Duration, Instant};

use mesh_tests::{APP_PORT, Agents, Peer, Pod, World, eventually};

/// Client a and server b on n1, server c on n2, all enrolled and fail-closed.
fn world() -> (World, [Pod; 3], Agents) {
    let (world, pods) = World::of_three().expect("a world");
    let agents = Agents::in_plaintext(&world, &[]).expect("agents");
    (world, pods, agents)
}

/// A connection through the VIP: client's end, server's end.
fn connection(world: &World, client: &Pod, server: &Pod) -> (Peer, Peer) {
    let mut far = world.peer(server).expect("a peer");
    let listening = far.ask(&format!("listen {APP_PORT}")).expect("an answer");
    assert_eq!(listening, "listening");
    let mut near = world.peer(client).expect("a peer");
    let [vip, _] = server.vips();
    let connected = near.ask(&format!("connect {vip}")).expect("an answer");
    assert_eq!(connected, "connected");
    assert_eq!(far.ask("accept").expect("an answer"), "accepted");
    (near, far)
}

/// `verb bytes hash`; the bytes and the hash.
fn content(answer: &str) -> &str {
    answer.split_once(' ').map_or("", |(_, content)| content)
}

/// What one end sends as a whole, the other one reads to the end.
fn passes_whole(from: &mut Peer, to: &mut Peer, bytes: usize) {
    from.tell(&format!("send {bytes}")).expect("told");
    let read = to.ask(&format!("read {bytes}")).expect("an answer");
    let sent = from.hear().expect("an answer");
    assert!(sent.starts_with("sent "), "{sent}");
    assert_eq!(content(&read), content(&sent));
}

#[test]
fn either_end_can_stop_sending_and_still_receives() {
    let (world, [a, b, c], _agents) = world();
    for server in [&b, &c] {
        for client_is_first in [true, false] {
            let (near, far) = connection(&world, &a, server);
            let (mut first, mut second) = if client_is_first {
                (near, far)
            } else {
                (far, near)
            };
            passes_whole(&mut first, &mut second, 100_000);
            assert_eq!(first.ask("fin").expect("an answer"), "fin");
            let end = second.ask("drain").expect("an answer");
            assert!(end.starts_with("eof 0 "), "{end}");
            passes_whole(&mut second, &mut first, 300_000);
            assert_eq!(second.ask("fin").expect("an answer"), "fin");
            let end = first.ask("drain").expect("an answer");
            assert!(end.starts_with("eof 0 "), "{end}");
        }
    }
}

#[test]
fn a_reset_reaches_the_other_end_as_a_reset() {
    let (world, [a, b, c], _agents) = world();
    for server in [&b, &c] {
        for client_is_first in [true, false] {
            let (near, far) = connection(&world, &a, server);
            let (mut first, mut second) = if client_is_first {
                (near, far)
            } else {
                (far, near)
            };
            passes_whole(&mut first, &mut second, 1000);
            assert_eq!(first.ask("rst").expect("an answer"), "rst");
            let end = second.ask("drain").expect("an answer");
            assert!(end.starts_with("reset 0 "), "{end}");
        }
    }
}

/// How long one end, which does not read, waits for the other one's reset.
fn time_of_a_reset(mut stalled: Peer, mut resetting: Peer) -> Duration {
    let filled = resetting.ask("fill").expect("an answer");
    assert!(filled.starts_with("blocked "), "{filled}");
    assert_eq!(resetting.ask("rst").expect("an answer"), "rst");
    let begun = Instant::now();
    let seen = stalled.ask("failed").expect("an answer");
    assert_eq!(seen, "failed ECONNRESET");
    begun.elapsed()
}

fn a_reset_is_told_at_once(world: &World, client: &Pod, server: &Pod) {
    for client_resets in [true, false] {
        let (near, far) = connection(world, client, server);
        let time = match client_resets {
            true => time_of_a_reset(far, near),
            false => time_of_a_reset(near, far),
        };
        println!("{} {client_resets}: {time:?}", server.name);
        assert!(time < Duration::from_secs(10), "{time:?}");
    }
}

#[test]
fn a_reset_also_reaches_an_end_that_does_not_read() {
    let (world, [a, b, c], _agents) = world();
    for server in [&b, &c] {
        a_reset_is_told_at_once(&world, &a, server);
    }
}

#[test]
fn a_reset_also_reaches_an_end_that_does_not_read_through_a_tunnel() {
    let (world, [a, _, c]) = World::of_three().expect("a world");
    let _agents = Agents::start(&world, &[]).expect("agents");
    a_reset_is_told_at_once(&world, &a, &c);
}

#[test]
fn a_stalled_reader_blocks_the_sender_and_not_the_agents_memory() {
    const BOUND: u64 = 4 << 20;
    let (world, [a, b, c], agents) = world();
    for server in [&b, &c] {
        let (mut near, mut far) = connection(&world, &a, server);
        let before = agents.memory().expect("memory");
        let filled = near.ask("fill").expect("an answer");
        assert!(filled.starts_with("blocked "), "{filled}");
        let grown = agents.grown_since(before).expect("memory");
        assert!(grown.iter().all(|bytes| *bytes < BOUND), "{grown:?}");
        assert_eq!(near.ask("fin").expect("an answer"), "fin");
        let drained = far.ask("drain").expect("an answer");
        assert_eq!(content(&drained), content(&filled), "nothing is lost");
    }
}

#[test]
fn one_gibibyte_arrives_unchanged_on_one_node_and_across_two() {
    let (mut world, [a, b, c], _agents) = world();
    for server in [&b, &c] {
        world.serve(server).expect("a server");
        let args = ["--count", "1", "--inflight", "1", "--bytes", "1073741824"];
        let report = world.storm(&a, &server.targets()[..1], &args);
        let report = report.expect("a report");
        assert_eq!(report["ok"], 1, "{report}");
    }
}

#[test]
fn twenty_thousand_short_connections_from_eight_threads_are_exact() {
    let (mut world, [a, b, c], _agents) = world();
    for server in [&b, &c] {
        world.serve(server).expect("a server");
    }
    let targets = [b.targets(), c.targets()].concat();
    let args = ["--count", "20000", "--inflight", "8"];
    let report = world.storm(&a, &targets, &args).expect("a report");
    assert_eq!(report["ok"], 20_000, "{report}");
}

#[test]
fn both_ends_see_the_addresses_they_would_see_without_the_mesh() {
    let (world, [a, b, c], _agents) = world();
    for server in [&b, &c] {
        let (v4, v6) = (server.v4(), server.v6());
        let [vip4, vip6] = server.vips();
        let own4 = format!("{v4}:{APP_PORT}");
        let own6 = format!("[{v6}]:{APP_PORT}");
        let (mapped4, mapped_vip) = (format!("[::ffff:{v4}]:{APP_PORT}"), {
            let [vip, _] = server.vip_addresses();
            format!("[::ffff:{vip}]:80")
        });
        for to in [&vip4, &vip6, &own4, &own6, &mapped4, &mapped_vip] {
            sees_true_addresses(&world, &a, server, to);
        }
    }
}

fn sees_true_addresses(world: &World, client: &Pod, server: &Pod, to: &str) {
    let mut far = world.peer(server).expect("a peer");
    let listening = far.ask(&format!("listen {APP_PORT}")).expect("an answer");
    assert_eq!(listening, "listening", "{to}");
    let mut near = world.peer(client).expect("a peer");
    let connected = near.ask(&format!("connect {to}")).expect("an answer");
    assert_eq!(connected, "connected", "{to}");
    assert_eq!(far.ask("accept").expect("an answer"), "accepted", "{to}");
    let near = near.ask("addresses").expect("an answer");
    let far = far.ask("addresses").expect("an answer");
    assert!(near.ends_with(&format!(" peer {to}")), "{near}");
    // A v6 listener shows v4 as mapped, with and without a mesh.
    let far = far.replace("::ffff:", "");
    let is_v4 = to.contains('.');
    let ip = |pod: &Pod| {
        if is_v4 {
            pod.v4()
        } else {
            format!("[{}]", pod.v6())
        }
    };
    let ip_of_server = if is_v4 {
        format!("[{}]", server.v4())
    } else {
        ip(server)
    };
    assert!(
        far.starts_with(&format!("local {ip_of_server}:{APP_PORT} peer ")),
        "{far}"
    );
    let shown = far.rsplit(' ').next().unwrap_or_default();
    let shown = shown.replace(['[', ']'], "");
    let expected = ip(client).replace(['[', ']'], "");
    assert!(shown.starts_with(&format!("{expected}:")), "{far}");
    let local = near.split(' ').nth(1).unwrap_or_default();
    let local = local.replace("::ffff:", "").replace(['[', ']'], "");
    assert!(local.starts_with(&format!("{expected}:")), "{near}");
}

#[test]
fn nothing_of_ended_connections_stays_in_the_agents() {
    let (world, [a, b, _], agents) = world();
    let fds = agents[0].open_fds();
    for _ in 0..20 {
        let (mut near, mut far) = connection(&world, &a, &b);
        passes_whole(&mut near, &mut far, 10_000);
    }
    let freed = eventually(Duration::from_secs(20), || agents[0].open_fds() <= fds + 2);
    assert!(freed, "{fds} descriptors, then {}", agents[0].open_fds());
}

#[test]
fn a_client_that_vanished_does_not_hold_its_connection_for_ever() {
    let (world, [a, _, c], _agents) = world();
    let (_near, _far) = connection(&world, &a, &c);
    let watched = |pod: &Pod| {
        let out = world
            .in_pod(pod, "ss")
            .args(["-tnoH", "state", "established"])
            .output();
        let text = String::from_utf8(out.expect("ss").stdout).expect("text");
        text.matches("timer:(keepalive").count()
    };
    // The agent's two of each pod; the applications' own have no keepalive. What
    // the agent dialled gets it when the connection has lasted for 10 s.
    let all = eventually(Duration::from_secs(25), || {
        watched(&a) == 2 && watched(&c) == 2
    });
    assert!(
        all,
        "{} and {} of the agents' sockets",
        watched(&a),
        watched(&c)
    );
}

#[test]
fn a_server_that_vanished_with_bytes_unanswered_is_given_up_after_two_minutes() {
    let (world, [a, _, c], _agents) = world();
    let (mut near, mut far) = connection(&world, &a, &c);
    passes_whole(&mut near, &mut far, 1000);
    let mut ip = world.in_pod(&c, "ip");
    let down = ip.args(["link", "set", "eth0", "down"]).status();
    assert!(down.expect("ip").success());
    let sent = near.ask("send 1000").expect("an answer");
    assert!(sent.starts_with("sent "), "{sent}");
    let begun = Instant::now();
    // A peer has a minute of patience for each step.
    let ended = (0..4).any(|_| near.ask("failed").is_ok_and(|a| a == "failed ECONNRESET"));
    let took = begun.elapsed();
    println!("given up after {took:?}");
    assert!(ended, "still open after {took:?}");
    // Not before, though it repeats what is not answered; the kernel would go on for
    // a quarter of an hour.
    let patience = Duration::from_secs(115)..Duration::from_secs(180);
    assert!(patience.contains(&took), "{took:?}");
}
