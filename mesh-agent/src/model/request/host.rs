//! The normal form of a host.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// `Host` or `:authority`, one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host<'h> {
    /// Lower case, without port and without one dot at the end; an IPv6 address
    /// in brackets and in its short form.
    pub(crate) name: Cow<'h, str>,
    pub(crate) port: Option<u16>,
}

impl<'h> Host<'h> {
    /// `None` of what is no `host[:port]`: user information, lists, blanks,
    /// escapes, bytes that are not ASCII, labels of no length.
    #[must_use]
    pub(crate) fn parse(raw: &'h [u8]) -> Option<Self> {
        let raw = std::str::from_utf8(raw).ok()?;
        if let Some(bracketed) = raw.strip_prefix('[') {
            let (address, behind) = bracketed.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self {
                name: Cow::Owned(format!("[{address}]")),
                port: port(behind)?,
            });
        }
        let (name, behind) = raw.split_at(raw.find(':').unwrap_or(raw.len()));
        Some(Self {
            name: lower(name.strip_suffix('.').unwrap_or(name))?,
            port: port(behind)?,
        })
    }

    /// The same host and port, where no port is the scheme's own.
    #[must_use]
    pub(crate) fn is_same(&self, other: &Self, default_port: u16) -> bool {
        let port = |host: &Self| host.port.unwrap_or(default_port);
        self.name == other.name && port(self) == port(other)
    }
}

/// `Some(None)` of nothing, or a colon alone.
fn port(behind: &str) -> Option<Option<u16>> {
    match behind.strip_prefix(':') {
        None if behind.is_empty() => Some(None),
        Some("") => Some(None),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().map(Some)
        }
        _ => None,
    }
}

fn lower(name: &str) -> Option<Cow<'_, str>> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte);
    let has_empty_label = name.is_empty() || name.split('.').any(str::is_empty);
    if has_empty_label || !name.bytes().all(is_allowed) {
        return None;
    }
    Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Form = (&'static str, Option<u16>);

    #[test]
    fn hosts_have_one_form_or_are_refused() {
        let table: &[(&str, Option<Form>)] = &[
            ("shop", Some(("shop", None))),
            ("Shop.Prod.SVC.", Some(("shop.prod.svc", None))),
            ("shop:80", Some(("shop", Some(80)))),
            ("shop:", Some(("shop", None))),
            ("shop.:0080", Some(("shop", Some(80)))),
            ("my_shop", Some(("my_shop", None))),
            (
                "xn--bcher-kva.example",
                Some(("xn--bcher-kva.example", None)),
            ),
            ("10.0.0.1:8080", Some(("10.0.0.1", Some(8080)))),
            ("[::1]", Some(("[::1]", None))),
            ("[0:0:0:0:0:0:0:1]:81", Some(("[::1]", Some(81)))),
            ("[2001:DB8::1]", Some(("[2001:db8::1]", None))),
            ("::1", None),
            ("[::1%eth0]", None),
            ("[::1]x", None),
            ("[::1", None),
            ("", None),
            (".", None),
            (":80", None),
            ("a..b", None),
            (".a", None),
            ("a..", None),
            ("a b", None),
            ("a,b", None),
            ("a/b", None),
            ("a\\b", None),
            ("a?b", None),
            ("a#b", None),
            ("u@a", None),
            ("u:p@a", None),
            ("a%2e", None),
            ("bücher", None),
            ("a:65536", None),
            ("a:+80", None),
            ("a:8 0", None),
            ("a:80:80", None),
        ];
        for (raw, wanted) in table {
            let host = Host::parse(raw.as_bytes());
            let found = host.as_ref().map(|host| (&*host.name, host.port));
            assert_eq!(found, *wanted, "{raw:?}");
        }
    }

    #[test]
    fn no_port_is_the_default_port() {
        let host = |raw: &'static str| Host::parse(raw.as_bytes()).expect("a host");
        assert!(host("A.").is_same(&host("a:80"), 80));
        assert!(!host("a").is_same(&host("a:80"), 443));
        assert!(!host("a").is_same(&host("b"), 80));
    }
}
