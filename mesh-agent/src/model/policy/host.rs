//! Hosts as rules write them.

use smallvec::SmallVec;

use super::Pattern;
use crate::model::Host;

/// Istio's way: the whole of `Host` or `:authority` is compared, port included,
/// whatever the case: `example.com`, `example.com:*`, `*.example.com`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPattern {
    /// In lower case, without the dot at a name's end.
    whole: Pattern,
    /// Without the port, where one is written.
    name: Pattern,
    names_port: bool,
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("no host is like {text:?}: {why}"));
        let is_sign = |b: u8| b.is_ascii_alphanumeric() || b"-._*:[]".contains(&b);
        if !text.bytes().all(is_sign) {
            return wrong("a name has ASCII letters, digits, \"-\", \"_\" and \".\" only");
        }
        let text = text.to_ascii_lowercase();
        let (name, port) = split(&text);
        let name = match name.strip_suffix('.') {
            Some(absolute) if !absolute.is_empty() => absolute,
            _ => name,
        };
        let port = port.filter(|port| !port.is_empty());
        let number = |port: &str| {
            port.parse::<u16>()
                .is_ok_and(|p| p > 0 && port == p.to_string())
        };
        if port.is_some_and(|port| port != "*" && !number(port.trim_end_matches('*'))) {
            return wrong("its port is none");
        }
        let whole = match port {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        match (Pattern::parse(&whole), Pattern::parse(name)) {
            (Some(whole), Some(name)) => Ok(Self {
                whole,
                name,
                names_port: port.is_some(),
            }),
            _ => wrong("\"*\" may be its first or its last sign"),
        }
    }

    #[cfg(test)]
    pub(crate) fn written(&self) -> String {
        self.whole.to_string()
    }

    /// `None` where it depends on how the server takes the port: a host that leaves it out
    /// may mean any, and many servers never look at it.
    #[must_use]
    pub(crate) fn matches(&self, host: &Host<'_>) -> Option<bool> {
        let said = match host.port {
            None => self.whole.matches(&*host.name),
            Some(port) => {
                let default = port == 80 && self.whole.matches(&*host.name);
                default || self.whole.matches(with_port(&host.name, port))
            }
        };
        let may_be = match self.names_port {
            false => self.name.matches(&*host.name),
            true => host.port.is_none() && self.name.matches(&*host.name),
        };
        match (said, may_be) {
            (true, _) => Some(true),
            (false, false) => Some(false),
            (false, true) => None,
        }
    }
}

fn with_port(name: &str, port: u16) -> SmallVec<[u8; 64]> {
    let mut whole = SmallVec::from_slice(name.as_bytes());
    whole.push(b':');
    let places = [10_000, 1_000, 100, 10, 1].into_iter();
    let digits = places.filter(|place| port >= *place);
    whole.extend(digits.map(|place| b'0' + (port / place % 10) as u8));
    whole
}

/// Name and port; the colons of an IPv6 address are in brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    let from = text.rfind(']').map_or(0, |at| at + 1);
    match text[from..].find(':') {
        Some(at) => (&text[..from + at], Some(&text[from + at + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_with_its_port_and_what_that_leaves_open_is_told() {
        let cases = [
            // pattern, name, port, matches
            ("example.com", "example.com", None, Some(true)),
            ("EXAMPLE.com.", "example.com", None, Some(true)),
            ("example.com", "example.com", Some(80), Some(true)),
            ("example.com", "example.com", Some(8080), None),
            ("example.com", "a.example.com", None, Some(false)),
            ("example.com", "example.com.evil", None, Some(false)),
            ("example.com:*", "example.com", Some(8080), Some(true)),
            ("example.com:*", "example.com", None, None),
            ("example.com:8080", "example.com", Some(8080), Some(true)),
            ("example.com:8080", "example.com", Some(80), Some(false)),
            ("example.com:8080", "example.com", None, None),
            ("*.example.com", "a.example.com", None, Some(true)),
            ("*.example.com", "a.example.com", Some(8080), None),
            ("*.example.com", "example.com", None, Some(false)),
            ("example.*", "example.org", Some(8080), Some(true)),
            ("*", "x", None, Some(true)),
            ("[fd00::1]:80", "[fd00::1]", Some(80), Some(true)),
            ("[fd00::1]", "[fd00::1]", None, Some(true)),
        ];
        for (pattern, name, port, expected) in cases {
            let parsed = HostPattern::parse(pattern).expect(pattern);
            let host = Host {
                name: name.into(),
                port,
            };
            assert_eq!(parsed.matches(&host), expected, "{pattern} {name} {port:?}");
        }
        for wrong in [
            "", "a*b", "*a*", "a/b", "a@b", "a b", "é", "a:x", "a:0", "a:080",
        ] {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
