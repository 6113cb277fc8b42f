//! What one exchange may do to the connections that it shares: the others do not notice.

use super::*;

/// All requests on one connection of the client, and each of these ends for so many.
fn ends_of(kind: &str, ends: &Value, is_one_of_the_server: bool) {
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["beside", &to, kind]);
        let expected = json!({"ends": ends, "after": 200, "same": is_one_of_the_server});
        assert_eq!(told, expected, "{kind} to {}", pod.name);
    }
}

#[test]
fn thousands_of_small_messages_that_nobody_reads() {
    ends_of("small", &json!({"200": 3}), true);
}

#[test]
fn a_hundred_empty_frames_of_data() {
    ends_of("empty", &json!({"200": 5}), true);
}

/// The server's connection ends, and with it what else this one client has on it.
#[test]
fn a_longer_row_of_empty_frames_ends_no_connection_of_a_client() {
    ends_of("empty-row", &json!({"reset INTERNAL_ERROR": 1}), false);
}

#[test]
fn more_refusals_than_a_connection_may_have_resets() {
    ends_of("refused", &json!({"400": 1025}), true);
}

#[test]
fn a_connect_with_a_length() {
    ends_of("connect", &json!({"400": 1}), true);
}

#[test]
fn heads_and_trailers_of_many_kilobytes() {
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (pod, to) in mesh.services() {
        for size in ["16000", "17000", "40000", "60000"] {
            let told = mesh.client(&["beside", &to, size]);
            let whole = format!("200 {size} {size}");
            let ends = json!({whole: 1});
            let expected = json!({"ends": ends, "after": 200, "same": true});
            assert_eq!(told, expected, "{size} to {}", pod.name);
        }
    }
}
