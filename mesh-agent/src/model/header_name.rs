//! Names of headers that mean something to an agent.

/// Never go on to the next connection: they are about one.
pub(crate) const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// What a `Connection` line may never have removed: who asks, for what, and where
/// the message ends.
const NEVER_REMOVED: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "traceparent",
    "tracestate",
    "b3",
    "x-request-id",
    "te",
    "trailer",
    "upgrade",
];
const NEVER_REMOVED_PREFIXES: &[&str] = &["x-forwarded-", "x-b3-", "grpc-"];

/// Only meshes set these: a client that sends one speaks for somebody else.
const IDENTITY: &[&str] = &["x-forwarded-client-cert"];
const IDENTITY_PREFIXES: &[&str] = &["x-envoy-", "x-istio-", "l5d-", "x-mesh-"];

/// Say where a message ends, or whom it is for.
const FRAMING: &[&str] = &["content-length", "transfer-encoding", "host"];

/// Also about one connection; what they say goes on in a form of the agent's.
const OF_CONNECTION: &[&str] = &["te", "trailer", "upgrade"];

/// May the client's `Connection` line name it?
#[must_use]
pub(crate) fn is_removable(name: &str) -> bool {
    !is_one_of(name, NEVER_REMOVED)
        && !has_prefix_of(name, NEVER_REMOVED_PREFIXES)
        && !is_identity(name)
}

/// Also with `_` for `-`: CGI and WSGI make one name of both.
#[must_use]
pub(crate) fn is_identity(name: &str) -> bool {
    is_one_of(name, IDENTITY) || has_prefix_of(name, IDENTITY_PREFIXES)
}

/// Also with `_` for `-`.
#[must_use]
pub(crate) fn is_framing(name: &str) -> bool {
    is_one_of(name, FRAMING)
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names
        .iter()
        .any(|one| one.len() == name.len() && folds_to(name, one))
}

fn has_prefix_of(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| {
        let begins = name.as_bytes().get(..prefix.len());
        begins.is_some_and(|begins| same_folded(begins, prefix.as_bytes()))
    })
}

fn folds_to(name: &str, other: &str) -> bool {
    same_folded(name.as_bytes(), other.as_bytes())
}

fn same_folded(name: &[u8], folded: &[u8]) -> bool {
    let fold = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    name.iter()
        .zip(folded)
        .all(|(one, other)| fold(one) == *other)
}

/// May a route's filter change it? Where a message ends and what is about one connection
/// are not a route's to say. The host is, in its own way.
#[must_use]
pub(crate) fn is_a_routes(name: &str) -> bool {
    let of_connection = HOP_BY_HOP.iter().chain(OF_CONNECTION);
    let mut of_connection = of_connection.map(|one| is_one_of(name, &[one]));
    let is_framing = is_framing(name) && !name.eq_ignore_ascii_case("host");
    !is_framing && !of_connection.any(|is| is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_known_in_any_spelling() {
        for name in [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "X-Envoy-Peer-Metadata",
            "x_envoy-original_path",
            "x-istio-attributes",
            "l5d-client-id",
            "X_MESH_source",
        ] {
            assert!(is_identity(name), "{name}");
            assert!(!is_removable(name), "{name}");
        }
        for name in [
            "x-forwarded-for",
            "x-forwarded-client-certs",
            "x-env",
            "mesh",
        ] {
            assert!(!is_identity(name), "{name}");
        }
    }

    #[test]
    fn connection_cannot_name_what_says_who_asks() {
        for name in [
            "Authorization",
            "X-Forwarded-For",
            "x_b3_traceid",
            "grpc-timeout",
        ] {
            assert!(!is_removable(name), "{name}");
        }
        assert!(is_removable("x-anything"));
    }

    #[test]
    fn framing_and_connection_are_no_routes() {
        for name in [
            "Content-Length",
            "transfer_encoding",
            "Connection",
            "keep-alive",
            "TE",
            "Trailer",
            "Upgrade",
        ] {
            assert!(!is_a_routes(name), "{name}");
        }
        for name in ["Host", "X-Forwarded-For", "Content-Type", "expect", "te-st"] {
            assert!(is_a_routes(name), "{name}");
        }
    }
}
