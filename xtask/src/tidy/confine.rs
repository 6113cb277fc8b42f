//! What stays in one place: outside crates, impurity, `unsafe`.

use super::layers::is_pure;
use super::source::{Source, find_word};

/// Crates of the agent, and the files (by prefix) that may name them.
const CONFINED: &[(&[&str], &[&str])] = &[
    (
        &["aya", "aya_obj", "aya_log"],
        &["mesh-agent/src/capture", "mesh-agent/src/sys/bpf"],
    ),
    (
        &["rustls", "tokio_rustls", "webpki", "aws_lc_rs"],
        &["mesh-agent/src/tls"],
    ),
    (
        &["rcgen", "x509_parser"],
        &["mesh-agent/src/tls", "mesh-agent/src/ca"],
    ),
    (
        &["tonic", "tonic_prost", "prost", "prost_types"],
        &["mesh-agent/src/identity", "mesh-agent/src/ca"],
    ),
    (
        &["kube"],
        &["mesh-agent/src/kube", "mesh-agent/src/cluster/client"],
    ),
    (
        &["k8s_openapi"],
        &[
            "mesh-agent/src/kube",
            "mesh-agent/src/ca",
            "mesh-agent/src/discovery",
        ],
    ),
    (&["httparse"], &["mesh-agent/src/http"]),
    (&["h2"], &["mesh-agent/src/http"]),
    (&["tower"], &["mesh-agent/src/kube"]),
    (
        &["hyper", "http_body_util"],
        &[
            "mesh-agent/src/http",
            "mesh-agent/src/admin",
            "mesh-agent/src/kube",
            "mesh-agent/src/cluster/client",
        ],
    ),
    (
        &["hyper_util"],
        &[
            "mesh-agent/src/http",
            "mesh-agent/src/admin",
            "mesh-agent/src/kube",
            // The adapter between tokio's streams and tonic's.
            "mesh-agent/src/identity/client",
        ],
    ),
    (&["axum"], &["mesh-agent/src/admin"]),
    (
        &["netlink_sys", "netlink_packet_core", "netlink_packet_route"],
        &["mesh-agent/src/sys"],
    ),
];

/// What a pure module may not touch: time, chance and I/O are arguments.
const IMPURE: &[&str] = &[
    "tokio",
    "async fn",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "rand",
];

/// Where `unsafe` may stand (by prefix).
const UNSAFE: &[&str] = &[
    "mesh-agent/src/sys/",
    "mesh-ebpf/",
    "mesh-common/",
    "tests/src/sys",
];

pub(super) fn check(source: &Source<'_>) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    for (line, code) in source.code_lines() {
        findings.extend(confined_crate(source.name, code).map(|m| (line, m)));
        if !source.is_test[line - 1] {
            findings.extend(impurity(source, code).map(|m| (line, m)));
        }
        findings.extend(body_of_target(source.name, code).map(|m| (line, m)));
        if find_word(code, "unsafe").is_some() && !allowed(source.name, UNSAFE) {
            let message = format!("unsafe: only in {}", UNSAFE.join(", "));
            findings.push((line, message));
        }
    }
    findings
}

/// A fuzz target only names its body: ordinary tests must run the same one.
fn body_of_target(name: &str, code: &str) -> Option<String> {
    let foreign = name.starts_with("fuzz/")
        && find_word(code, "mesh_agent").is_some()
        && !code.contains("mesh_agent::fuzzing");
    foreign.then(|| "fuzz: a target only calls its body in mesh_agent::fuzzing".to_owned())
}

fn allowed(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn confined_crate(name: &str, code: &str) -> Option<String> {
    if !name.starts_with("mesh-agent/src/") {
        return None;
    }
    CONFINED
        .iter()
        .filter(|(_, places)| !allowed(name, places))
        .find_map(|(crates, places)| {
            let used = crates.iter().find(|used| names_crate(code, used))?;
            Some(format!("crate: '{used}' stays in {}", places.join(" and ")))
        })
}

/// A path that begins with the crate, or an import of it.
fn names_crate(code: &str, name: &str) -> bool {
    find_word(code, name).is_some_and(|at| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        // `::h2` is the crate, `crate::h2` is not.
        let before = before.strip_suffix("::").filter(|root| !ends_path(root));
        let before = before.unwrap_or(&code[..at]);
        let begins_path = after.trim_start().starts_with("::") && !before.ends_with("::");
        let imported =
            before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        begins_path || imported
    })
}

/// Does what follows belong to a path that has begun?
fn ends_path(code: &str) -> bool {
    code.ends_with(|c: char| c.is_alphanumeric() || "_>".contains(c))
}

fn impurity(source: &Source<'_>, code: &str) -> Option<String> {
    let (top_module, _) = source
        .top_module()
        .filter(|(top_module, _)| is_pure(top_module))?;
    let what = IMPURE.iter().find(|what| find_word(code, what).is_some())?;
    Some(format!(
        "pure: '{top_module}' may not use {what}: take its result as an argument"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, text: &str) -> Vec<(usize, String)> {
        check(&Source::new(name, text))
    }

    #[test]
    fn aya_stays_in_capture() {
        let text = "use aya::maps::HashMap;\n";
        assert!(messages("mesh-agent/src/capture/maps.rs", text).is_empty());
        assert!(messages("mesh-agent/src/sys/bpf.rs", text).is_empty());
        assert_eq!(messages("mesh-agent/src/sys/route.rs", text).len(), 1);
        let found = messages("mesh-agent/src/proxy/mod.rs", text);
        assert!(
            found[0]
                .1
                .starts_with("crate: 'aya' stays in mesh-agent/src/capture")
        );
    }

    #[test]
    fn an_own_module_with_the_name_of_a_crate_is_no_use_of_it() {
        let text = "use crate::http::Head;\nlet kube = 1;\ncrate::kube::x();\n";
        assert!(messages("mesh-agent/src/proxy/mod.rs", text).is_empty());
    }

    #[test]
    fn h2_stays_in_http() {
        let text = "use ::h2::{Error, Reason};\n";
        assert!(messages("mesh-agent/src/http/h2/server.rs", text).is_empty());
        for name in ["admin/mod.rs", "kube/client.rs", "proxy/http2/serve.rs"] {
            let found = messages(&format!("mesh-agent/src/{name}"), text);
            assert_eq!(found.len(), 1, "{name}");
        }
    }

    #[test]
    fn pure_modules_take_time_as_an_argument() {
        let text = "fn f(now: Instant) {}\nlet t = Instant::now();\n";
        let found = messages("mesh-agent/src/balance/mod.rs", text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 2);
        assert!(messages("mesh-agent/src/proxy/mod.rs", text).is_empty());
    }

    #[test]
    fn tests_of_pure_modules_may_be_impure() {
        let text = "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert!(messages("mesh-agent/src/route/mod.rs", text).is_empty());
    }

    #[test]
    fn a_fuzz_target_only_names_its_body() {
        let name = "fuzz/fuzz_targets/hello.rs";
        assert!(messages(name, "use mesh_agent::fuzzing;\n").is_empty());
        assert_eq!(
            messages(name, "mesh_agent::detect::client_hello(b);\n").len(),
            1
        );
        assert_eq!(messages(name, "unsafe { f() }\n").len(), 1);
    }

    #[test]
    fn unsafe_stays_in_sys_and_the_kernel_crates() {
        let text = "// SAFETY: none\nunsafe { f() }\n";
        assert!(messages("mesh-agent/src/sys/netns.rs", text).is_empty());
        assert!(messages("mesh-ebpf/src/main.rs", text).is_empty());
        assert_eq!(messages("mesh-agent/src/proxy/mod.rs", text)[0].0, 2);
        assert!(messages("mesh-agent/src/lib.rs", "#![deny(unsafe_code)]").is_empty());
    }
}
