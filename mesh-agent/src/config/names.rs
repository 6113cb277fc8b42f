//! Values that must be something: names of nodes, addresses, numbers, spans of time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls_pki_types::ServerName;

use crate::model::kubernetes_name::{is_label, is_subdomain};

/// Longest name of a node, as Kubernetes has it.
const MAX_NODE: usize = 253;
/// Longest value of a label.
const MAX_LABEL: usize = 63;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("a node's name has 1 to {MAX_NODE} letters, digits, '-', '.' or '_'")]
    Node,
    #[error("a zone is the value of a label: up to {MAX_LABEL} letters, digits, '-', '.' or '_'")]
    Zone,
    #[error(
        "a namespace's name has 1 to 63 small letters, digits or '-', and none of these '-' at an end"
    )]
    Namespace,
    #[error(
        "an object's name has small letters, digits, '-' or '.', up to 253, each part between dots as a namespace's name"
    )]
    Object,
    #[error("1 to {MAX_NODE} printable characters of ASCII are expected, without spaces")]
    Word,
    #[error("a DNS name or an IP address is expected")]
    Host,
    #[error("{0}")]
    Duration(#[from] humantime::DurationError),
    #[error("between 1s and 10 years are expected")]
    Lifetime,
    #[error("between 1ms and 1 year are expected")]
    Timeout,
    #[error("a number from 1 on is expected")]
    Count,
    #[error("HOST:PORT is expected, of an IPv6 address [ADDRESS]:PORT")]
    Address,
    #[error("ADDRESS:PORT is expected")]
    Listen,
}

/// Empty where a DaemonSet takes it from a label that is not there.
pub(super) fn zone(text: &str) -> Result<String, ValueError> {
    let good = text.len() <= MAX_LABEL && text.bytes().all(is_of_name);
    good.then(|| text.to_owned()).ok_or(ValueError::Zone)
}

fn is_of_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')
}

pub(super) fn node(text: &str) -> Result<String, ValueError> {
    let good = (1..=MAX_NODE).contains(&text.len()) && text.bytes().all(is_of_name);
    good.then(|| text.to_owned()).ok_or(ValueError::Node)
}

/// One that no namespace can have would be looked for in vain, and nothing told.
pub(super) fn namespace(text: &str) -> Result<String, ValueError> {
    let named = is_label(text).then(|| text.to_owned());
    named.ok_or(ValueError::Namespace)
}

/// A Secret or a ConfigMap: it stands in paths of the API.
pub(super) fn object(text: &str) -> Result<String, ValueError> {
    let named = is_subdomain(text).then(|| text.to_owned());
    named.ok_or(ValueError::Object)
}

/// What others named, and what goes into labels, headers and claims as it is.
pub(super) fn word(text: &str) -> Result<String, ValueError> {
    let good = (1..=MAX_NODE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| text.to_owned()).ok_or(ValueError::Word)
}

/// In the authority's own certificate: also a pattern of names, and names that no certificate
/// could be asked for, of which the last part is a number.
pub(super) fn certified(text: &str) -> Result<String, ValueError> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    // What is refused of a number is its place alone.
    let good = host(name).is_ok() || host(&format!("{name}.a")).is_ok();
    good.then(|| text.to_owned()).ok_or(ValueError::Host)
}

/// In a certificate of another's.
pub(super) fn host(text: &str) -> Result<String, ValueError> {
    let good = ServerName::try_from(text).is_ok();
    good.then(|| text.to_owned()).ok_or(ValueError::Host)
}

pub(super) fn lifetime(text: &str) -> Result<Duration, ValueError> {
    let lifetime = humantime::parse_duration(text)?;
    let good = (SHORTEST..=LONGEST).contains(&lifetime);
    good.then_some(lifetime).ok_or(ValueError::Lifetime)
}

/// One that is over before it begins would refuse everything.
pub(super) fn timeout(text: &str) -> Result<Duration, ValueError> {
    let timeout = humantime::parse_duration(text)?;
    let good = (Duration::from_millis(1)..=Duration::from_secs(365 * 86_400)).contains(&timeout);
    good.then_some(timeout).ok_or(ValueError::Timeout)
}

/// None of something would refuse everything too.
pub(super) fn count(text: &str) -> Result<usize, ValueError> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or(ValueError::Count)
}

/// `HOST:PORT`, as it is dialled.
pub(super) fn address(text: &str) -> Result<String, ValueError> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        is_port && !host.is_empty() && (is_v6 || !host.contains([':', '/', ' ']))
    });
    good.then(|| text.to_owned()).ok_or(ValueError::Address)
}

/// `ADDRESS:PORT` to listen on. An IPv6 address may stand without its brackets: the
/// variable of a DaemonSet is put together of the node's address and a port.
pub(super) fn address_and_port(text: &str) -> Result<SocketAddr, ValueError> {
    let (address, port) = text.rsplit_once(':').ok_or(ValueError::Listen)?;
    let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let address: IpAddr = inner
        .unwrap_or(address)
        .parse()
        .map_err(|_| ValueError::Listen)?;
    let port = port.parse().map_err(|_| ValueError::Listen)?;
    Ok(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_node_has_a_name() {
        for good in ["n1", "vm-1.example.org", "IP_10"] {
            assert_eq!(node(good), Ok(good.to_owned()));
        }
        for bad in ["", " ", "a b", "a/b", "a\n", &"a".repeat(254)] {
            assert_eq!(node(bad), Err(ValueError::Node), "{bad:?}");
        }
    }

    #[test]
    fn a_zone_is_the_value_of_a_label_and_may_be_none() {
        for good in ["eu-1a", "zone_2.b", ""] {
            assert_eq!(zone(good), Ok(good.to_owned()));
        }
        for bad in ["a b", "a/b", "a\n", &"a".repeat(64)] {
            assert_eq!(zone(bad), Err(ValueError::Zone), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_nothing_can_have_is_a_mistake_of_the_command_line() {
        let long = "a".repeat(64);
        let verbs: [(&[&str], &[&str]); 6] = [
            (
                &["run", "--root-namespace"],
                &["Istio-System", "", "a/b", "a b"],
            ),
            (&["run", "--namespace"], &["mesh_system", &long]),
            (&["check-config", "dir", "--root-namespace"], &["a-", "a."]),
            (&["ca", "run", "--root-namespace"], &["a\n"]),
            (&["ca", "show", "--namespace"], &["../kube-system"]),
            (&["cni", "install", "--namespace"], &["A"]),
        ];
        for (verb, names) in verbs {
            for name in names {
                let words = [&["mesh-agent"], verb, &[*name]].concat();
                let error = crate::config::Cli::try_parse_from(words).expect_err(name);
                assert_eq!(error.exit_code(), 2, "{verb:?} {name:?}");
                let said = error.to_string();
                assert!(said.contains("a namespace's name"), "{said}");
            }
            let words = [&["mesh-agent"], verb, &["mesh-system"]].concat();
            assert!(
                crate::config::Cli::try_parse_from(words).is_ok(),
                "{verb:?}"
            );
        }
    }

    #[test]
    fn objects_words_and_hosts_are_what_can_be_one() {
        let ca = |flag: &str, value: &str| {
            crate::config::Cli::try_parse_from(["mesh-agent", "ca", "run", flag, value])
                .map(drop)
                .map_err(|error| error.exit_code())
        };
        for (flag, good, bad) in [
            ("--ca-secret", "mesh.ca-2", "a/../b"),
            ("--root-configmap", "mesh-agent-ca-root", ""),
            ("--token-audience", "https://mesh.example/ca", "a b"),
            ("--name", "ca.example.org", "a b"),
            ("--name", "10.0.0.1", "https://ca"),
            ("--name", "*.ca.example.org", "*"),
            ("--name", "ca.1", "*.*.example.org"),
            ("--name", "ca_1.", "a,b"),
        ] {
            assert_eq!(ca(flag, good), Ok(()), "{flag}");
            assert_eq!(ca(flag, bad), Err(2), "{flag}");
        }
        // One of these is asked for: a pattern is none.
        assert!(host("ca.example.org").is_ok());
        assert_eq!(host("*.ca.example.org"), Err(ValueError::Host));
        assert_eq!(word("eu-1/prod").as_deref(), Ok("eu-1/prod"));
        assert_eq!(word("a\u{1b}"), Err(ValueError::Word));
    }

    #[test]
    fn what_lives_no_time_is_refused() {
        assert_eq!(lifetime("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["0s", "1ms", "100years"] {
            assert_eq!(lifetime(bad), Err(ValueError::Lifetime), "{bad}");
        }
    }

    #[test]
    fn what_would_refuse_everything_is_a_mistake_of_the_command_line() {
        let run = |flag: &str, value: &str| {
            crate::config::Cli::try_parse_from(["mesh-agent", "run", flag, value]).map(|_| ())
        };
        for (flag, value) in [
            ("--workers", "0"),
            ("--max-connections", "0"),
            ("--max-connections-per-pod", "0"),
            ("--max-requests", "0"),
            ("--max-requests-per-pod", "0"),
            ("--max-buffer-mib", "0"),
            ("--connect-timeout", "0s"),
            ("--handshake-timeout", "0s"),
            ("--idle-timeout", "0s"),
            ("--certificate-lifetime", "0s"),
        ] {
            let error = run(flag, value).expect_err(flag);
            assert_eq!(error.exit_code(), 2, "{flag}");
            let other = value.replace('0', "7");
            assert!(run(flag, &other).is_ok(), "{flag} {other}");
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port_and_needs_no_brackets() {
        for (text, is) in [
            ("10.0.0.1:15090", "10.0.0.1:15090"),
            ("[fd00::1]:15090", "[fd00::1]:15090"),
            ("fd00::1:15090", "[fd00::1]:15090"),
            ("0.0.0.0:1", "0.0.0.0:1"),
        ] {
            let is: SocketAddr = is.parse().expect("an address");
            assert_eq!(address_and_port(text), Ok(is), "{text}");
        }
        for bad in ["", ":15090", "10.0.0.1", "node1:15090", "10.0.0.1:70000"] {
            assert_eq!(address_and_port(bad), Err(ValueError::Listen), "{bad}");
        }
    }

    #[test]
    fn an_authority_has_a_host_and_a_port() {
        for good in [
            "ca:15012",
            "10.0.0.1:1",
            "[::1]:15012",
            "ca.example.internal:15012",
        ] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "ca",
            ":15012",
            "ca:",
            "ca:0",
            "ca:70000",
            "::1:15012",
            "https://ca:15012",
            "a b:1",
        ] {
            assert_eq!(address(bad), Err(ValueError::Address), "{bad}");
        }
    }

    #[test]
    fn the_command_line_refuses_tokens_that_nobody_could_use() {
        let create = |node: &str, allow: &str, expires: &str| {
            let args = ["mesh-agent", "ca", "token", "create", "--node", node];
            let args = args
                .into_iter()
                .chain(["--allow", allow, "--expires", expires]);
            crate::config::Cli::try_parse_from(args).map(|_| ())
        };
        assert!(create("n1", "shop/web", "30d").is_ok());
        for (node, allow, expires) in [
            ("", "shop/web", "30d"),
            ("n1", "Shop_X/WEB", "30d"),
            ("n1", "shop/web", "0s"),
        ] {
            let error = create(node, allow, expires).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{node:?} {allow} {expires}");
        }
    }
}
