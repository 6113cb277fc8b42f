//! Values that must be something: names of nodes, spans of time.

use std::time::Duration;

/// Longest name of a node, as Kubernetes has it.
const MAX_NODE: usize = 253;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("a node's name has 1 to {MAX_NODE} letters, digits, '-', '.' or '_'")]
    Node,
    #[error("{0}")]
    Duration(#[from] humantime::DurationError),
    #[error("between 1s and 10 years are expected")]
    Lifetime,
}

pub(super) fn node(text: &str) -> Result<String, ValueError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let good = (1..=MAX_NODE).contains(&text.len()) && text.bytes().all(allowed);
    good.then(|| text.to_owned()).ok_or(ValueError::Node)
}

pub(super) fn lifetime(text: &str) -> Result<Duration, ValueError> {
    let lifetime = humantime::parse_duration(text)?;
    let good = (SHORTEST..=LONGEST).contains(&lifetime);
    good.then_some(lifetime).ok_or(ValueError::Lifetime)
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
    fn what_lives_no_time_is_refused() {
        assert_eq!(lifetime("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["0s", "1ms", "100years"] {
            assert_eq!(lifetime(bad), Err(ValueError::Lifetime), "{bad}");
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
