//! Heads of HTTP/2 that somebody could write down as two requests of HTTP/1, or as another
//! one: neither agent passes them on, and the server's own log shows none.

use super::*;

/// Asks for all of them on connections of their own: for what was not refused of those that
/// are to be, and how many others were served.
fn smuggle(mesh: &Mesh, pod: &Pod, to: &str) -> u64 {
    let told = mesh.client(&["smuggle", to]);
    let cases = told.as_array().expect("cases");
    assert!(cases.len() >= 100, "{}", cases.len());
    let end = |case: &Value| case["end"].as_str().unwrap_or_default().to_owned();
    let is_clear = |case: &&Value| case["name"].to_string().starts_with("\"clear");
    let (clear, odd): (Vec<&Value>, Vec<&Value>) = cases.iter().partition(is_clear);
    let mut ends = std::collections::BTreeMap::<String, u32>::new();
    for case in &odd {
        *ends.entry(end(case)).or_default() += 1;
    }
    println!("{}: {ends:?}", pod.name);
    let is_refused = |case: &&&Value| {
        let end = end(case);
        end == "400" || end.starts_with("reset ") || end.starts_with("goaway ")
    };
    // A server may have answered a head that was clear before the rest was seen.
    let is_answered = |case: &&&Value| {
        let name = case["name"].as_str().unwrap_or_default();
        name.starts_with("late: ") && end(case) == "200"
    };
    let is_passed = |case: &&&Value| !is_refused(case) && !is_answered(case);
    let passed: Vec<_> = odd.iter().filter(is_passed).collect();
    assert!(passed.is_empty(), "{}: {passed:#?}", pod.name);
    let refused: Vec<_> = clear.iter().filter(|case| end(case) != "200").collect();
    assert!(refused.is_empty(), "{}: {refused:#?}", pod.name);
    clear.len() as u64
}

/// The paths that it was asked for: those that were clear, and the last one. The heads that
/// were clear before what came behind them may be among them.
fn saw(pod: &Pod, paths: &[String], clear: u64) {
    let odd = paths.iter().filter(|path| *path != "/behind");
    let mut odd: Vec<&str> = odd.map(String::as_str).collect();
    odd.sort_unstable();
    let mut expected = vec!["/clear"; usize::try_from(clear).expect("a count")];
    expected.push("/over");
    assert_eq!(odd, expected, "{}", pod.name);
}

#[test]
fn nginx_sees_no_request_in_what_a_head_says() {
    let (mut world, [a, b, c]) = World::of_three().expect("a world");
    for pod in [&b, &c] {
        world.nginx_http2(pod, APP_PORT).expect("nginx");
    }
    let mesh = Mesh::over(world, a, [b, c]);
    for (pod, to) in mesh.services() {
        let clear = smuggle(&mesh, pod, &to);
        mesh.client(&["get", &to, "/over"]);
        let log = mesh
            .world
            .dir()
            .join(format!("nginx-{}/access.log", pod.name));
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        let over = eventually(Duration::from_secs(20), || log().contains(" /over "));
        assert!(over, "{}", pod.name);
        let path = |line: &str| line.split(' ').nth(6).unwrap_or_default().to_owned();
        let paths: Vec<String> = log().lines().map(path).collect();
        saw(pod, &paths, clear);
    }
}

#[test]
fn a_server_of_go_sees_no_request_in_what_a_head_says() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let clear = smuggle(&mesh, pod, &to);
        let told = mesh.client(&["get", &to, "/over", "/seen"]);
        let body = told[1]["body"].as_str().expect("text");
        let seen: Value = serde_json::from_str(body).expect("JSON");
        let seen = seen.as_array().expect("requests").iter();
        let path = |one: &Value| one["path"].as_str().unwrap_or_default().to_owned();
        let paths: Vec<String> = seen.map(path).collect();
        saw(pod, &paths, clear);
    }
}
