//! How long one try of a request may take, and what becomes of it then.

use std::time::Instant;

use super::*;

/// It hangs, or does not even take connections; on the client's node and on another one.
#[test]
fn an_attempt_that_takes_too_long_is_followed_by_the_next() {
    let shop = Shop::new();
    shop.route(
        // A try that works is over by then, however busy the machine is.
        "timeouts: {request: 10s, backendRequest: 1s}\n    retry: {attempts: 2, backoff: 1ms}",
    );
    for (server, mode) in [("c", "hang"), ("b", "blackhole"), ("c", "blackhole")] {
        let before = shop.metric("mesh_agent_retries_total", "");
        shop.mode(server, mode);
        // What has not even gone may go again, whatever it asks for.
        let kinds = match (server, mode) {
            ("b", "blackhole") => &["http", "post"][..],
            _ => &["http"],
        };
        for kind in kinds {
            let calls = shop.calls(kind, 60);
            assert_eq!(
                calls.failed(),
                0,
                "{server} {mode} {kind}: {calls:?}\n{}",
                shop.agents[0].log()
            );
        }
        shop.spared_until("http", 60, || {
            shop.metric("mesh_agent_retries_total", "") > before
        });
        shop.mode(server, "ok");
        shop.until_back("http", server);
    }
}

#[test]
fn what_may_have_been_done_goes_again_only_where_its_route_names_504() {
    let shop = Shop::new();
    for server in ["b", "c", "d"] {
        shop.mode(server, "hang");
    }
    for (codes, kind, asked) in [
        ("[503]", "post", 1),
        ("[503, 504]", "post", 3),
        ("[503]", "http", 3),
    ] {
        shop.route(&format!(
            "timeouts: {{request: 10s, backendRequest: 1s}}\n    \
             retry: {{codes: {codes}, attempts: 2, backoff: 1ms}}"
        ));
        let before = shop.asked_all();
        let calls = shop.calls(kind, 1);
        assert_eq!(calls.report["results"]["504"], 1, "{calls:?}");
        assert_eq!(shop.asked_all() - before, asked, "{codes} {kind}");
    }
}

/// A server that closes a kept connection when it is asked, and then does not take a new one,
/// or says nothing there: it is one try.
#[test]
fn a_try_has_its_time_once_whatever_it_goes_over() {
    let shop = Shop::new();
    shop.serves(1, false);
    shop.serves(2, false);
    for (mode, times, ms) in [
        ("gone", "request: 500ms", 500..2_500),
        ("gone", "request: 5s, backendRequest: 300ms", 300..2_500),
        ("turn", "request: 10s, backendRequest: 3s", 3_000..5_000),
    ] {
        shop.route(&format!("timeouts: {{{times}}}"));
        let mut client = shop.world.in_pod(&shop.a, PYTHON);
        client.args(["-c", SCRIPT, "kept", VIP, "1"]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().expect("a client");
        let mut told = BufReader::new(client.stdout.take().expect("its output"));
        let mut line = String::new();
        told.read_line(&mut line).expect("it has its answer");
        shop.mode("b", mode);
        let began = Instant::now();
        drop(client.stdin.take());
        told.read_to_string(&mut line).expect("its report");
        let took = began.elapsed().as_millis();
        client.wait().expect("its end");
        assert!(line.contains("504 "), "{mode} {times}: {line} in {took} ms");
        assert!(ms.contains(&took), "{mode} {times}: {took} ms");
        shop.mode("b", "ok");
        shop.until_back("http", "b");
    }
}
