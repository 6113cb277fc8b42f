//! Which connections a route is for.

use super::asks::{Case, get};
use super::{CALLS, CONSUMER, route, route_of};

const MARK: &str = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: \
     {set: [{name: x-header-set, value: set}]}}]";

fn marking() -> String {
    format!("  - {{backendRefs: [$V1], {MARK}}}")
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        consumer(),
        consumer_beside_producer(),
        hostname(),
        frontend(),
        one_port(),
        all_ports(),
    ]
}

fn consumer() -> Case {
    Case {
        name: "MeshConsumerRoute",
        yaml: route_of("HTTPRoute", CONSUMER, "", &marking()),
        rows: vec![
            get("/").visits().mark_seen("echo-v1 marked"),
            get("/").mark_seen("any"),
        ],
    }
}

fn consumer_beside_producer() -> Case {
    let of_producer = route(
        "HTTPRoute",
        "  - {matches: [{path: {value: /p}}], backendRefs: [$V2]}",
    );
    let of_consumer = route_of("HTTPRoute", CONSUMER, "", &marking());
    Case {
        name: "MeshConsumerRoute",
        yaml: format!("{of_producer}---\n{of_consumer}"),
        rows: vec![
            get("/p").visits().mark_seen("echo-v1 marked"),
            get("/").visits().mark_seen("echo-v1 marked"),
            get("/p").mark_seen("echo-v2"),
            get("/").mark_seen("404"),
        ],
    }
}

/// Its names are no matter: the Service is what it is of.
fn hostname() -> Case {
    let rules = marking();
    let yaml = route("HTTPRoute", &rules);
    let yaml = yaml.replace("  rules:", "  hostnames: [elsewhere.example]\n  rules:");
    let hosts = ["echo", "echo-v2", "example.org"];
    Case {
        name: "MeshFrontendHostname",
        yaml,
        rows: hosts
            .map(|host| get("/").host(host).mark_seen("echo-v1 marked"))
            .into(),
    }
}

fn frontend() -> Case {
    Case {
        name: "MeshFrontend",
        yaml: route("HTTPRoute", &marking()),
        rows: vec![
            get("/").mark_seen("echo-v1 marked"),
            get("/").at("echo-v1", 80).mark_seen("echo-v1"),
        ],
    }
}

fn one_port() -> Case {
    let of_80 = route_of("HTTPRoute", super::NAMESPACE, ", port: 80", &marking());
    Case {
        name: "MeshPorts",
        yaml: of_80,
        rows: vec![
            get("/").mark_seen("echo-v1 marked"),
            get("/").at("echo", 8080).mark_seen("any"),
            get("/").at("echo", CALLS).mark_seen("any"),
        ],
    }
}

fn all_ports() -> Case {
    Case {
        name: "MeshPorts",
        yaml: route("HTTPRoute", &marking()),
        rows: [80, 8080]
            .map(|port| get("/").at("echo", port).mark_seen("echo-v1 marked"))
            .into(),
    }
}
