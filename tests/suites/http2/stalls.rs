//! What one exchange may do to the connections that it shares: the others do not notice.

use super::*;

/// All requests on one connection of the client, and each of these ends for so many.
fn ends_of(kind: &str, ends: &Value) {
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["beside", &to, kind]);
        let expected = json!({"ends": ends, "after": 200, "same": true});
        assert_eq!(told, expected, "{kind} to {}", pod.name);
    }
}

#[test]
fn thousands_of_small_messages_that_nobody_reads() {
    ends_of("small", &json!({"200": 3}));
}

#[test]
fn a_hundred_empty_frames_of_data() {
    ends_of("empty", &json!({"200": 5}));
}

/// As many as nobody sends that means well.
#[test]
fn a_long_row_of_empty_frames_in_one_answer() {
    ends_of("empty-row", &json!({"200": 1}));
}

#[test]
fn more_refusals_than_a_connection_may_have_resets() {
    ends_of("refused", &json!({"400": 1025}));
}

#[test]
fn a_connect_with_a_length() {
    ends_of("connect", &json!({"400": 1}));
}

#[test]
fn heads_and_trailers_of_many_kilobytes() {
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (pod, to) in mesh.services() {
        let ends = |size: &str, ends: &str| {
            let told = mesh.client(&["beside", &to, size]);
            let expected = json!({"ends": {ends: 1}, "after": 200, "same": true});
            assert_eq!(told, expected, "{size} to {}", pod.name);
        };
        for size in ["16000", "17000", "40000", "60000", "70000"] {
            ends(size, &format!("200 {size} {size}"));
        }
        // More than an application may send, in its head and behind a small one.
        ends("100000", "502 0 0");
        ends("end-100000", "reset INTERNAL_ERROR 0 0");
    }
}

/// All on one connection, beside a request that is open.
#[test]
fn heads_and_trailers_of_many_kilobytes_of_a_client() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let sizes = ["16000", "40000", "70000", "100000"];
        let told = mesh.client(&[&["heads", &to], &sizes[..]].concat());
        let expected = json!({
            "head": ["200 16000", "200 40000", "200 70000", "431 0"],
            "trailers": ["200 16000", "200 40000", "200 70000", "reset CANCEL 0"],
            "after": "200 0",
        });
        assert_eq!(told, expected, "{}", pod.name);
    }
}

/// What the connection to the application survives is the exchange's alone; what it does not,
/// of all exchanges that the same connection of the client has there. Another connection of
/// the same pod, which has the same one between the agents, notices neither.
#[test]
fn an_answer_that_nobody_can_read_is_no_matter_of_another_connection() {
    const CUT: &str = "reset INTERNAL_ERROR";
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (pod, to) in mesh.services() {
        for (path, killer, is_whole) in [
            ("/fill/400000", "502", true),
            ("/end/400000", CUT, true),
            ("/bad/connection", "502", true),
            ("/bad/pseudo", "502", true),
            ("/bad/length", CUT, true),
            // More on the wire than is read, more lines, what is no header line, and a state
            // of the lines' compression that is lost.
            ("/fill/1000000", "502", false),
            ("/end/1000000", CUT, false),
            ("/bad/lines", "502", false),
            ("/bad/name", "502", false),
            ("/bad/upper", "502", false),
            ("/bad/value", "502", false),
            ("/bad/trailer", CUT, false),
            ("/bad/status", "502", false),
            ("/bad/index", "502", false),
            ("/bad/huffman", "502", false),
            ("/bad/table", "502", false),
        ] {
            let told = mesh.client(&["kill", &to, path]);
            let own = match is_whole {
                true => json!(["end", "200", true]),
                false => json!([CUT, "200", false]),
            };
            let other = json!(["end", "200", true]);
            let expected = json!({"killer": killer, "own": own, "other": other});
            assert_eq!(told, expected, "{path} of {}", pod.name);
        }
    }
}
