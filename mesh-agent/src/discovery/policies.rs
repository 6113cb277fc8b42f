//! AuthorizationPolicy and PeerAuthentication.
//!
//! What is not understood is reported and stays in force in its safe form: an
//! ALLOW grants nothing, a DENY denies all that it selects, a
//! PeerAuthentication is STRICT. Where the action cannot be told it is DENY,
//! where the selection cannot be told it is the namespace, and where the
//! metadata cannot be trusted the whole mesh.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::Problem;
use super::objects::{Kind, Meta, Object, Origin, typed};
use crate::model::ServiceKey;
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Operation, Pattern, PeerAuthentication,
    PeerMode, Rule, Scope, ServiceAccount, Source,
};

const GROUP: &str = "security.istio.io/";
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "deletionTimestamp",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "generateName",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
];

/// Also what only looks like a policy: it must not vanish by a misspelling.
pub(super) fn is_policy(value: &Value) -> bool {
    let kind = value["kind"].as_str().unwrap_or_default();
    let api = value["apiVersion"].as_str().unwrap_or_default();
    matches!(kind, "AuthorizationPolicy" | "PeerAuthentication")
        || (api.starts_with(GROUP) && kind != "RequestAuthentication")
}

/// A document that is not YAML but speaks of policy: something to deny by.
pub(super) fn salvage(text: &str) -> Option<Value> {
    let find = |key: &str| {
        let mut lines = text.lines().map(|l| l.trim_matches([' ', '{', '}', ',']));
        lines
            .find_map(|l| l.strip_prefix(key))
            .map(|v| v.trim().to_owned())
    };
    let peer = text.contains("PeerAuthentication");
    if !peer && !text.contains(GROUP) && !text.contains("AuthorizationPolicy") {
        return None;
    }
    let kind = if peer {
        "PeerAuthentication"
    } else {
        "AuthorizationPolicy"
    };
    let mut metadata = serde_json::Map::new();
    metadata.insert(
        "name".into(),
        find("name:").unwrap_or_else(|| "?".into()).into(),
    );
    // Without a namespace to go by, the metadata is not trusted.
    let namespace = find("namespace:").map_or(Value::Bool(false), Value::String);
    metadata.insert("namespace".into(), namespace);
    Some(serde_json::json!({
        "apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata,
        "spec": "is not YAML",
    }))
}

/// What stays of a policy when its file no longer parses: DENY as it was, no grant.
pub(super) fn restrict(object: &mut Object) {
    let reason = || Some("its file has mistakes".to_owned());
    match &mut object.kind {
        Kind::Policy(policy) if policy.action == Action::Allow => {
            policy.rules.clear();
            policy.broken = reason();
        }
        Kind::Peer(peer) => peer.broken = reason(),
        _ => {}
    }
}

/// A mistake: path of the field, and what is wrong.
type Mistake = (String, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    namespace: Option<String>,
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mtls {
    mode: Option<String>,
}

pub(super) fn parse(origin: &Origin, value: &Value, problems: &mut Vec<Problem>) -> Object {
    let mut mistakes = Vec::new();
    let peer = value["kind"] == "PeerAuthentication";
    if !peer && value["kind"] != "AuthorizationPolicy" {
        mistakes.push((
            "kind".to_owned(),
            format!("{} is not served", value["kind"]),
        ));
    }
    let api = value["apiVersion"].as_str().unwrap_or_default();
    if !matches!(api, "security.istio.io/v1" | "security.istio.io/v1beta1") {
        mistakes.push((
            "apiVersion".to_owned(),
            format!("{api:?} is not security.istio.io/v1 or v1beta1"),
        ));
    }
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    unknown(value, &top, "", &mut mistakes);
    let (meta, trusted) = metadata(value, &mut mistakes);
    let kind = if peer {
        Kind::Peer(peer_authentication(value, &meta, trusted, &mut mistakes))
    } else {
        Kind::Policy(policy(value, &meta, trusted, &mut mistakes))
    };
    let object = Object {
        origin: origin.clone(),
        meta,
        kind,
    };
    problems.extend(mistakes.into_iter().map(|(f, m)| object.problem(&f, m)));
    object
}

fn metadata(value: &Value, mistakes: &mut Vec<Mistake>) -> (Meta, bool) {
    let before = mistakes.len();
    unknown(&value["metadata"], METADATA, "metadata", mistakes);
    match typed::<Meta>(&value["metadata"], "metadata") {
        Ok(meta) => (meta, mistakes.len() == before),
        Err(mistake) => {
            mistakes.push(mistake);
            let text = |f: &str| value["metadata"][f].as_str();
            (
                Meta::salvaged(text("namespace"), text("name").unwrap_or("?")),
                false,
            )
        }
    }
}

fn policy(
    value: &Value,
    meta: &Meta,
    trusted: bool,
    mistakes: &mut Vec<Mistake>,
) -> AuthorizationPolicy {
    let spec = &value["spec"];
    let fields = [
        "selector",
        "targetRefs",
        "targetRef",
        "rules",
        "action",
        "provider",
    ];
    unknown(spec, &fields, "spec", mistakes);
    let misspelt = !mistakes.is_empty();
    let action = match &spec["action"] {
        // What says "DENY" may be misspelt.
        Value::Null if misspelt => Action::Deny,
        Value::Null => Action::Allow,
        Value::String(s) if s == "ALLOW" => Action::Allow,
        Value::String(s) if s == "DENY" => Action::Deny,
        other => {
            mistakes.push((
                "spec.action".to_owned(),
                format!(
                    "{other} is not served, only ALLOW and DENY; taken as a DENY of everything"
                ),
            ));
            Action::Deny
        }
    };
    if !spec["provider"].is_null() {
        mistakes.push(("spec.provider".to_owned(), "is not served".to_owned()));
    }
    let dry_run = match meta.annotations.get("istio.io/dry-run").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            mistakes.push((
                "metadata.annotations".to_owned(),
                format!("istio.io/dry-run is {other:?}, expected \"true\" or \"false\""),
            ));
            false
        }
    };
    let scope = scope(spec, meta, trusted, mistakes);
    let mut rules = Vec::new();
    match &spec["rules"] {
        Value::Null => {}
        Value::Array(list) => {
            for (i, raw) in list.iter().enumerate() {
                match rule(raw, &format!("spec.rules[{i}]"), meta) {
                    Ok(rule) => rules.push(rule),
                    Err(mistake) => mistakes.push(mistake),
                }
            }
        }
        _ => mistakes.push(("spec.rules".to_owned(), "expected a list".to_owned())),
    }
    let broken = reason(mistakes);
    AuthorizationPolicy {
        namespace: meta.namespace().to_owned(),
        name: meta.name.clone(),
        action,
        dry_run,
        scope,
        rules: if broken.is_some() { Vec::new() } else { rules },
        broken,
    }
}

fn reason(mistakes: &[Mistake]) -> Option<String> {
    mistakes.first().map(|(f, m)| format!("{f}: {m}"))
}

fn unknown(value: &Value, known: &[&str], at: &str, mistakes: &mut Vec<Mistake>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for key in map.keys().filter(|k| !known.contains(&k.as_str())) {
                let field = format!("{at}.{key}").trim_start_matches('.').to_owned();
                mistakes.push((
                    field,
                    format!("unknown field; known are {}", known.join(", ")),
                ));
            }
        }
        _ => mistakes.push((at.to_owned(), "expected a mapping".to_owned())),
    }
}

fn scope(spec: &Value, meta: &Meta, trusted: bool, mistakes: &mut Vec<Mistake>) -> Scope {
    let read = || -> Result<Scope, Mistake> {
        let mut targets: Vec<TargetRef> = Vec::new();
        if !spec["targetRefs"].is_null() {
            targets = typed(&spec["targetRefs"], "spec.targetRefs")?;
        }
        if !spec["targetRef"].is_null() {
            targets.push(typed(&spec["targetRef"], "spec.targetRef")?);
        }
        if spec["selector"].is_null() {
            return services(&targets, meta);
        }
        let selector: Selector = typed(&spec["selector"], "spec.selector")?;
        let wrong = |m: &str| Err(("spec.selector".to_owned(), m.to_owned()));
        if !targets.is_empty() {
            return wrong("not together with targetRefs");
        }
        let labels = selector.match_labels;
        if labels
            .iter()
            .any(|(k, v)| k.is_empty() || k.contains('*') || v.contains('*'))
        {
            return wrong("labels are compared exactly: no \"*\", no empty key");
        }
        Ok(Scope::Labels(labels))
    };
    let scope = read().unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        Scope::Namespace
    });
    if trusted { scope } else { Scope::Mesh }
}

fn services(targets: &[TargetRef], meta: &Meta) -> Result<Scope, Mistake> {
    let mut services = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        if target.kind != "Service" || !matches!(target.group.as_str(), "" | "core") {
            return Err((at, format!("{:?} is not served, only Service", target.kind)));
        }
        if target
            .namespace
            .as_deref()
            .is_some_and(|n| n != meta.namespace())
        {
            return Err((
                at,
                "the Service must be in the policy's namespace".to_owned(),
            ));
        }
        services.push(ServiceKey {
            namespace: meta.namespace().to_owned(),
            name: target.name.clone(),
        });
    }
    Ok(if services.is_empty() {
        Scope::Namespace
    } else {
        Scope::Services(services)
    })
}

fn rule(value: &Value, at: &str, meta: &Meta) -> Result<Rule, Mistake> {
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
                texts
                    .iter()
                    .map(|t| parse(t).map_err(|m| (at.clone(), m)))
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
        principals: fields.take("principals", "notPrincipals", pattern)?,
        namespaces: fields.take("namespaces", "notNamespaces", pattern)?,
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
        hosts: fields.take("hosts", "notHosts", plain)?,
        methods: fields.take("methods", "notMethods", plain)?,
        paths: fields.take("paths", "notPaths", plain)?,
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
    let known_http = [
        "remote.ip",
        "request.auth.",
        "request.headers[",
        "experimental.",
    ];
    Ok(match raw.key.as_str() {
        "source.principal" => Condition::Principal(f.take(v, n, pattern)?),
        "source.namespace" => Condition::Namespace(f.take(v, n, pattern)?),
        "source.serviceAccount" => Condition::ServiceAccount(f.take(v, n, |t| account(t, meta))?),
        "source.ip" => Condition::SourceIp(f.take(v, n, block)?),
        "destination.ip" => Condition::DestinationIp(f.take(v, n, block)?),
        "destination.port" => Condition::DestinationPort(f.take(v, n, port)?),
        "connection.sni" => Condition::Sni(f.take(v, n, pattern)?),
        key if known_http.iter().any(|k| key.starts_with(k)) => Condition::Http {
            key: key.to_owned(),
            values: f.take(v, n, plain)?,
        },
        key => return Err((format!("{at}.key"), format!("{key:?} is not a known key"))),
    })
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text)
        .ok_or_else(|| format!("{text:?} is not a value, with \"*\" at most as first or last sign"))
}

fn plain(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn block(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a CIDR block"))
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|p| *p != 0);
    port.ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
}

fn account(text: &str, meta: &Meta) -> Result<ServiceAccount, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((meta.namespace(), text));
    let fits = |t: &str| !t.is_empty() && !t.contains(['*', '/']);
    if fits(namespace) && fits(name) {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(ServiceAccount { namespace, name })
    } else {
        Err(format!(
            "{text:?} is not NAMESPACE/ACCOUNT or ACCOUNT, without \"*\""
        ))
    }
}

fn peer_authentication(
    value: &Value,
    meta: &Meta,
    trusted: bool,
    mistakes: &mut Vec<Mistake>,
) -> PeerAuthentication {
    let spec = &value["spec"];
    unknown(
        spec,
        &["selector", "mtls", "portLevelMtls"],
        "spec",
        mistakes,
    );
    let scope = scope(spec, meta, trusted, mistakes);
    let mode = mode(&spec["mtls"], "spec.mtls", mistakes);
    let mut ports = BTreeMap::new();
    match &spec["portLevelMtls"] {
        Value::Null => {}
        Value::Object(_) if !matches!(&scope, Scope::Labels(l) if !l.is_empty()) => {
            let message = "needs a selector".to_owned();
            mistakes.push(("spec.portLevelMtls".to_owned(), message));
        }
        Value::Object(map) => {
            for (key, value) in map {
                let at = format!("spec.portLevelMtls.{key}");
                let mode = self::mode(value, &at, mistakes);
                match port(key) {
                    Ok(port) => drop(ports.insert(port, mode)),
                    Err(message) => mistakes.push((at, message)),
                }
            }
        }
        _ => mistakes.push((
            "spec.portLevelMtls".to_owned(),
            "expected a mapping".to_owned(),
        )),
    }
    PeerAuthentication {
        namespace: meta.namespace().to_owned(),
        name: meta.name.clone(),
        scope,
        mode,
        ports,
        broken: reason(mistakes),
    }
}

fn mode(value: &Value, at: &str, mistakes: &mut Vec<Mistake>) -> Option<PeerMode> {
    if value.is_null() {
        return None;
    }
    let raw: Mtls = match typed(value, at) {
        Ok(raw) => raw,
        Err(mistake) => {
            mistakes.push(mistake);
            return Some(PeerMode::Strict);
        }
    };
    match raw.mode.as_deref() {
        None | Some("UNSET") => None,
        Some("STRICT") => Some(PeerMode::Strict),
        Some("PERMISSIVE") => Some(PeerMode::Permissive),
        Some("DISABLE") => Some(PeerMode::Disable),
        Some(other) => {
            let message = format!("{other:?} is not STRICT, PERMISSIVE, DISABLE or UNSET");
            mistakes.push((format!("{at}.mode"), message));
            Some(PeerMode::Strict)
        }
    }
}
