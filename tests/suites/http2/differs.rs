//! What differs from a connection without agents (docs/http.md), and what of it does not.

use super::*;

const SENT: [(&str, &str); 6] = [
    ("x-a", "1"),
    ("cookie", "a=1"),
    ("x-b", "2"),
    ("cookie", "b=2; c=3"),
    ("x-a", "4"),
    ("x-c", "5"),
];

/// The names in the order that they came in.
fn names(lines: &[(String, String)]) -> Vec<&str> {
    let mut names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names
}

/// Each name with all of its values, by name.
fn said(lines: &[(String, String)]) -> Vec<(&str, String)> {
    let mut all: Vec<(&str, String)> = vec![];
    for (name, value) in lines {
        let between = if name == "cookie" { "; " } else { ", " };
        match all.iter_mut().find(|(other, _)| other == name) {
            Some((_, values)) => *values = format!("{values}{between}{value}"),
            None => all.push((name, value.clone())),
        }
    }
    all.sort_unstable();
    all
}

impl Mesh {
    /// The lines that the server saw of these, by its frames.
    fn lines_seen(&self, to: &str, lines: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut args = vec!["lines", to];
        args.extend(lines.iter().flat_map(|(name, value)| [*name, *value]));
        serde_json::from_value(self.client(&args)).expect("lines")
    }
}

#[test]
fn lines_of_one_name_come_together_and_say_the_same() {
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (_, to) in mesh.services() {
        let seen = mesh.lines_seen(&to, &SENT);
        assert_eq!(names(&seen), ["x-a", "cookie", "x-b", "x-c"]);
        let sent = SENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(said(&seen), said(&sent));
    }
}

#[test]
fn lines_of_one_name_stay_when_another_is_taken_out() {
    let mesh = Mesh::serving("serve-stalls", &[]);
    for (pod, to) in mesh.services() {
        let forged = ("x-envoy-original-path", "/y");
        let with: Vec<_> = SENT[..2]
            .iter()
            .chain([&forged])
            .chain(&SENT[2..])
            .copied()
            .collect();
        let seen = mesh.lines_seen(&to, &with);
        let sent = SENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(said(&seen), said(&sent), "{}", pod.name);
    }
}

/// One for each endpoint that its requests go to, for as long as it lasts.
#[test]
fn one_connection_of_a_client_is_one_of_each_server() {
    let mesh = Mesh::of_http();
    let to = |name: &str| format!("{{name: {name}, port: 80}}");
    let shares = format!("[{{backendRefs: [{}, {}]}}]", to("b"), to("c"));
    mesh.policy("b-route", &route("HTTPRoute", &shares));
    let paths = ["/x"; 60];
    let vip = mesh.services()[0].1.clone();
    let asked = [&["get", &vip][..], &paths].concat();
    let answers = mesh.client(&asked);
    for name in ["b", "c"] {
        let all = answers.as_array().expect("answers").iter();
        let of_server = all.filter(|answer| answer["told"]["name"] == name);
        let connections: Vec<&Value> = of_server.map(|a| &a["told"]["connection"]).collect();
        assert!(!connections.is_empty(), "{name}: {answers}");
        let first = connections.iter().all(|number| **number == 1);
        assert!(first, "{name}: {connections:?}");
    }
}

/// More of them where one has no room for another exchange.
#[test]
fn a_full_connection_of_the_application_gets_another_one_beside_it() {
    let mesh = Mesh::serving("serve-stalls", &["10"]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["spread", &to, "25"]);
        let counts = told.as_object().expect("counts").values();
        let counts: Vec<u64> = counts.filter_map(Value::as_u64).collect();
        println!("{}: {told}", pod.name);
        assert_eq!(counts.iter().sum::<u64>(), 25, "{}: {told}", pod.name);
        assert!(counts.len() >= 3, "{}: {told}", pod.name);
        assert!(counts.iter().all(|n| *n <= 10), "{}: {told}", pod.name);
    }
}
