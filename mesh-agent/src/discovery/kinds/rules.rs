//! The rules of an AuthorizationPolicy.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use super::meta::Meta;
use crate::discovery::fields::{Mistake, typed};
use crate::discovery::tree::Node;
use crate::model::TrustDomain;
use crate::model::policy::{
    Condition, HostPattern, Match, Operation, PathPattern, Pattern, Rule, ServiceAccount, Source,
};

/// Keys of Istio's that are never known here.
const UNSERVED: [&str; 3] = ["remote.ip", "request.auth.", "experimental."];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    from: Option<Vec<RawFrom>>,
    to: Option<Vec<RawTo>>,
    when: Option<Vec<RawCondition>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFrom {
    source: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTo {
    operation: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawCondition {
    key: String,
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    not_values: Vec<String>,
}

pub(super) fn rule(value: &Node<'_>, at: &str, meta: &Meta) -> Result<Rule, Mistake> {
    let raw: RawRule = typed(value, at)?;
    let mut rule = Rule::default();
    for (part, empty) in [
        ("from", raw.from.as_ref().is_some_and(Vec::is_empty)),
        ("to", raw.to.as_ref().is_some_and(Vec::is_empty)),
        ("when", raw.when.as_ref().is_some_and(Vec::is_empty)),
    ] {
        if empty {
            return Err((format!("{at}.{part}"), "must not be empty".to_owned()));
        }
    }
    for (i, from) in raw.from.into_iter().flatten().enumerate() {
        rule.from.push(source(
            from.source,
            &format!("{at}.from[{i}].source"),
            meta,
        )?);
    }
    for (i, to) in raw.to.into_iter().flatten().enumerate() {
        rule.to
            .push(operation(to.operation, &format!("{at}.to[{i}].operation"))?);
    }
    for (i, when) in raw.when.into_iter().flatten().enumerate() {
        rule.when
            .push(condition(when, &format!("{at}.when[{i}]"), meta)?);
    }
    Ok(rule)
}

/// Takes fields out of a mapping; what is left is unknown.
struct Fields<'a> {
    map: BTreeMap<String, Vec<String>>,
    at: &'a str,
}

impl Fields<'_> {
    fn take<T>(
        &mut self,
        name: &str,
        not: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Match<T>, Mistake> {
        let mut list = |field: &str| match self.map.remove(field) {
            None => Ok(Vec::new()),
            Some(texts) => {
                let at = format!("{}.{field}", self.at);
                if texts.is_empty() {
                    return Err((at, "must not be empty".to_owned()));
                }
                let each = texts.iter().enumerate();
                each.map(|(i, text)| parse(text).map_err(|m| (format!("{at}[{i}]"), m)))
                    .collect()
            }
        };
        Ok(Match {
            values: list(name)?,
            not_values: list(not)?,
        })
    }

    fn end(self) -> Result<(), Mistake> {
        match self.map.into_keys().next() {
            Some(key) => Err((format!("{}.{key}", self.at), "unknown field".to_owned())),
            None => Ok(()),
        }
    }
}

fn source(map: BTreeMap<String, Vec<String>>, at: &str, meta: &Meta) -> Result<Source, Mistake> {
    if map.is_empty() {
        return Err((at.to_owned(), "must not be empty".to_owned()));
    }
    let mut fields = Fields { map, at };
    let account = |t: &str| account(t, meta);
    let source = Source {
        principals: fields.take("principals", "notPrincipals", principal)?,
        namespaces: fields.take("namespaces", "notNamespaces", namespace)?,
        service_accounts: fields.take("serviceAccounts", "notServiceAccounts", account)?,
        ip_blocks: fields.take("ipBlocks", "notIpBlocks", block)?,
        remote_ip_blocks: fields.take("remoteIpBlocks", "notRemoteIpBlocks", block)?,
        request_principals: fields.take("requestPrincipals", "notRequestPrincipals", plain)?,
    };
    fields.end()?;
    Ok(source)
}

fn operation(map: BTreeMap<String, Vec<String>>, at: &str) -> Result<Operation, Mistake> {
    if map.is_empty() {
        return Err((at.to_owned(), "must not be empty".to_owned()));
    }
    let mut fields = Fields { map, at };
    let operation = Operation {
        ports: fields.take("ports", "notPorts", port)?,
        hosts: fields.take("hosts", "notHosts", HostPattern::parse)?,
        methods: fields.take("methods", "notMethods", method)?,
        paths: fields.take("paths", "notPaths", PathPattern::parse)?,
    };
    fields.end()?;
    Ok(operation)
}

fn condition(raw: RawCondition, at: &str, meta: &Meta) -> Result<Condition, Mistake> {
    let mut map = BTreeMap::new();
    for (name, list) in [("values", raw.values), ("notValues", raw.not_values)] {
        if !list.is_empty() {
            map.insert(name.to_owned(), list);
        }
    }
    if map.is_empty() {
        return Err((
            at.to_owned(),
            "values or notValues must be given".to_owned(),
        ));
    }
    let mut f = Fields { map, at };
    let (v, n) = ("values", "notValues");
    let wrong = |why: String| (format!("{at}.key"), why);
    let header = raw.key.strip_prefix("request.headers[");
    if let Some(name) = header.and_then(|rest| rest.strip_suffix(']')) {
        let name = header_name(name).map_err(wrong)?;
        return Ok(match name.as_str() {
            "host" | ":authority" => Condition::Host(f.take(v, n, HostPattern::parse)?),
            ":method" => Condition::Method(f.take(v, n, method)?),
            _ => Condition::Header {
                values: f.take(v, n, pattern)?,
                name,
            },
        });
    }
    Ok(match raw.key.as_str() {
        "source.principal" => Condition::Principal(f.take(v, n, principal)?),
        "source.namespace" => Condition::Namespace(f.take(v, n, namespace)?),
        "source.serviceAccount" => Condition::ServiceAccount(f.take(v, n, |t| account(t, meta))?),
        "source.ip" => Condition::SourceIp(f.take(v, n, block)?),
        "destination.ip" => Condition::DestinationIp(f.take(v, n, block)?),
        "destination.port" => Condition::DestinationPort(f.take(v, n, port)?),
        "connection.sni" => Condition::Sni(f.take(v, n, server_name)?),
        key if UNSERVED.iter().any(|k| key.starts_with(k)) => Condition::Unserved {
            key: key.to_owned(),
            values: f.take(v, n, plain)?,
        },
        key => return Err(wrong(format!("{key:?} is not a known key"))),
    })
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text)
        .ok_or_else(|| format!("{text:?} is not a value, with \"*\" at most as first or last sign"))
}

/// In lower case.
fn header_name(text: &str) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match text.strip_prefix(':') {
        None if !text.is_empty() && text.bytes().all(is_token) => Ok(text.to_ascii_lowercase()),
        Some("authority" | "method") => Ok(text.to_owned()),
        Some("path") => Err("a path is named in to.operation.paths".to_owned()),
        _ => Err(format!("no header is called {text:?}")),
    }
}

/// Of a hello, which is compared in small letters: a DENY of what no hello asks for would
/// deny nobody.
fn server_name(text: &str) -> Result<Pattern, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    match text.bytes().all(allowed) && !text.ends_with('.') {
        true => pattern(&text.to_ascii_lowercase()),
        false => Err(format!(
            "no TLS hello asks for {text:?}: it is a host's name, without a dot at its end"
        )),
    }
}

/// As requests write them, which is in capitals: a DENY of `get` would deny nobody.
fn method(text: &str) -> Result<Pattern, String> {
    let parsed = pattern(text)?;
    match text
        .bytes()
        .any(|b| b.is_ascii_lowercase() || b.is_ascii_whitespace())
    {
        true => Err(format!("no method is like {text:?}: they are in capitals")),
        false => Ok(parsed),
    }
}

/// What no identity can have is a mistake: a DENY of it would deny nobody.
fn principal(text: &str) -> Result<Pattern, String> {
    let parsed = pattern(text)?;
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b'*');
    let domain = match (&parsed, text.split_once('/')) {
        (Pattern::Exact(_) | Pattern::Prefix(_), Some((domain, _))) => domain,
        _ => "any",
    };
    if text.bytes().all(allowed) && TrustDomain::new(domain).is_ok() {
        Ok(parsed)
    } else {
        Err(format!(
            "no identity is like {text:?}: it is TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT, without spiffe://"
        ))
    }
}

fn namespace(text: &str) -> Result<Pattern, String> {
    let parsed = pattern(text)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    if text.bytes().all(allowed) {
        Ok(parsed)
    } else {
        Err(format!("no namespace is like {text:?}"))
    }
}

fn plain(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// What is IPv4 in IPv6's form is IPv4, as callers' addresses are.
fn block(text: &str) -> Result<IpNet, String> {
    let wrong = |why: &str| format!("{text:?} {why}");
    let block = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| wrong("is neither an address nor a CIDR block"))?;
    let mapped = match block.addr().to_canonical() {
        IpAddr::V4(ip) if block.addr().is_ipv6() => ip,
        _ => return Ok(block),
    };
    let prefix = block.prefix_len().checked_sub(96);
    let canonical = prefix.and_then(|prefix| Ipv4Net::new(mapped, prefix).ok());
    canonical
        .map(IpNet::V4)
        .ok_or_else(|| wrong("is wider than all of IPv4: write its IPv4 part as such"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    // In one way only: two of them would be one port, and which holds?
    let is_plain = text.starts_with(|c: char| matches!(c, '1'..='9'));
    let port = text.parse().ok().filter(|_| is_plain);
    port.ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
}

fn account(text: &str, meta: &Meta) -> Result<ServiceAccount, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((meta.namespace(), text));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let fits = |t: &str| !t.is_empty() && t.bytes().all(allowed);
    if fits(namespace) && fits(name) {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(ServiceAccount { namespace, name })
    } else {
        Err(format!(
            "{text:?} is not NAMESPACE/ACCOUNT or ACCOUNT, without \"*\""
        ))
    }
}
