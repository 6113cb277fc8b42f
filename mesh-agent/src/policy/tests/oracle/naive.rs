//! The documented semantics, written down once more as they are read.

use super::*;

/// What policies are asked together, and the ports that their rules are held to.
type Group<'s> = (Option<&'s ServiceKey>, Vec<u16>);

/// What is never known, SNI or identity, is read the way that allows less.
pub(super) fn naive(snapshot: &Snapshot, request: &Request<'_>, head: Head<'_>) -> bool {
    let mut groups: BTreeMap<Option<&ServiceKey>, bool> = BTreeMap::new();
    for policy in snapshot.policies.iter().filter(|p| !p.dry_run) {
        let deny = policy.action == Action::Deny;
        let broken = policy.broken.is_some() || names_nobody(snapshot, policy);
        for (group, ports) in concerns(snapshot, policy, request) {
            let asked = Asked {
                settings: &snapshot.settings,
                request,
                head,
                ports: &ports,
                deny,
            };
            let matched = match broken {
                true => deny,
                false if !deny && ports.is_empty() && group.is_none() => false,
                false => policy.rules.iter().any(|r| rule(r, &asked)),
            };
            if deny && matched {
                return false;
            }
            if !deny {
                *groups.entry(group).or_default() |= matched;
            }
        }
    }
    let own = groups.remove(&None);
    own == Some(true)
        || match groups.is_empty() {
            true => own.is_none(),
            false => groups.values().all(|allowed| *allowed),
        }
}

fn has<'l>(
    workload: &Workload,
    mut labels: impl Iterator<Item = (&'l String, &'l String)>,
) -> bool {
    labels.all(|l| workload.labels.iter().any(|own| own == l))
}

/// No ports where the Service is missing, so that nobody knows which.
fn concerns<'s>(
    snapshot: &'s Snapshot,
    policy: &'s AuthorizationPolicy,
    request: &Request<'_>,
) -> Vec<Group<'s>> {
    let workload = request.destination;
    let own = vec![request.destination_port];
    let near = policy.namespace == "istio-system" || policy.namespace == workload.key.namespace;
    let of_workload = |selected: bool, ports| match selected {
        true => vec![(None, ports)],
        false => vec![],
    };
    // Headless and without ports, so that it may be any.
    let is_name = |name: &Option<&ServiceKey>| {
        name.is_some_and(|name| snapshot.services[name].ports.is_empty())
    };
    match &policy.scope {
        Scope::Mesh => of_workload(true, own),
        Scope::Namespace => of_workload(near, own),
        Scope::Labels(labels) => of_workload(near && has(workload, labels.iter()), own),
        Scope::Services(names) if names.iter().any(|n| n.name == "gone") => {
            of_workload(near, vec![])
        }
        Scope::Services(names) => names
            .iter()
            .filter(|name| {
                let selector = &snapshot.services[*name].selector;
                name.namespace == workload.key.namespace
                    && !selector.is_empty()
                    && has(workload, selector.iter())
            })
            .map(|name| (Some(name), leading(&snapshot.services[name], request)))
            .filter(|(name, ports)| !ports.is_empty() || is_name(name))
            .collect(),
    }
}

/// Ports of the Service by which a connection may have come.
fn leading(service: &Service, request: &Request<'_>) -> Vec<u16> {
    let to = |own: u16| own == request.destination_port;
    let leads = |port: &&ServicePort| {
        port.endpoints.iter().any(|e| {
            let key = e.workload.as_ref().map(|w| &w.key);
            to(e.addr.port()) && key == Some(&request.destination.key)
        }) || match &port.target {
            TargetPort::Number(number) => to(*number),
            TargetPort::Name(name) => {
                let ports = &request.destination.ports;
                ports.iter().any(|p| p.name == *name && to(p.port))
            }
        }
    };
    service.ports.iter().filter(leads).map(|p| p.port).collect()
}

/// A principal that is nobody's, whatever names the mesh's trust domain has.
fn names_nobody(snapshot: &Snapshot, policy: &AuthorizationPolicy) -> bool {
    let settings = &snapshot.settings;
    let domains: Vec<&str> = settings.own_names().collect();
    let anybody = |pattern: &Pattern| {
        domains.iter().any(|domain| {
            NAMESPACES.iter().any(|ns| {
                let mut accounts = ACCOUNTS.iter();
                accounts.any(|sa| text(pattern, &format!("{domain}/ns/{ns}/sa/{sa}").as_str()))
            })
        })
    };
    let lists = policy.rules.iter().flat_map(|rule| {
        let from = rule.from.iter().map(|source| &source.principals);
        from.chain(rule.when.iter().filter_map(|when| match when {
            Condition::Principal(list) => Some(list),
            _ => None,
        }))
    });
    let mut all = lists.flat_map(|list| list.values.iter().chain(&list.not_values));
    all.any(|pattern| !anybody(pattern))
}

/// What a rule is held to.
pub(super) struct Asked<'a> {
    settings: &'a MeshSettings,
    request: &'a Request<'a>,
    pub(super) head: Head<'a>,
    ports: &'a [u16],
    pub(super) deny: bool,
}

fn rule(rule: &Rule, asked: &Asked<'_>) -> bool {
    let from = rule.from.is_empty() || rule.from.iter().any(|s| source(s, asked));
    let to = rule.to.is_empty()
        || rule
            .to
            .iter()
            .any(|o| ports(&o.ports, asked) && heads::operation(o, asked));
    from && to && rule.when.iter().all(|c| when(c, asked))
}

/// Several ports may lead there: then all have to say the same.
fn ports(list: &Match<u16>, asked: &Asked<'_>) -> bool {
    let among = |values: &[u16]| {
        let within = asked.ports.iter().filter(|p| values.contains(p)).count();
        match within {
            _ if asked.ports.is_empty() => None,
            0 => Some(false),
            all if all == asked.ports.len() => Some(true),
            _ => None,
        }
    };
    let positive = list.values.is_empty() || among(&list.values).unwrap_or(asked.deny);
    let not = |found: bool| !found;
    let negative = list.not_values.is_empty() || among(&list.not_values).map_or(asked.deny, not);
    positive && negative
}

/// By any name that the trust domain goes by.
fn principals(list: &Match<Pattern>, asked: &Asked<'_>) -> bool {
    let path = parts(asked.request).map(|id| id.0);
    both(list, path, asked.deny, false, |pattern, path| {
        let mut names = asked.settings.own_names();
        names.any(|domain| text(pattern, &format!("{domain}{path}").as_str()))
    })
}

/// `value` is none where nobody knows it.
fn both<T, V: Copy>(
    list: &Match<T>,
    value: Option<V>,
    deny: bool,
    deny_unknown: bool,
    equal: impl Fn(&T, &V) -> bool,
) -> bool {
    let positive = list.values.is_empty()
        || match value {
            Some(value) => list.values.iter().any(|v| equal(v, &value)),
            None => deny && deny_unknown,
        };
    let negative = list.not_values.is_empty()
        || match value {
            Some(value) => !list.not_values.iter().any(|v| equal(v, &value)),
            None => deny,
        };
    positive && negative
}

pub(super) fn text(pattern: &Pattern, value: &&str) -> bool {
    let written = match pattern {
        Pattern::Exact(t) => t.clone(),
        Pattern::Prefix(t) => format!("{t}*"),
        Pattern::Suffix(t) => format!("*{t}"),
        Pattern::Present => "*".to_owned(),
    };
    match written.find('*') {
        None => written == **value,
        Some(at) => {
            let (head, tail) = (&written[..at], &written[at + 1..]);
            !value.is_empty()
                && value.len() >= head.len() + tail.len()
                && value[..head.len()] == *head
                && value[value.len() - tail.len()..] == *tail
        }
    }
}

fn block(block: &ipnet::IpNet, ip: &IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (32_u32, u128::from(u32::from(ip))),
        IpAddr::V6(ip) => (128, u128::from(ip)),
    };
    let ((width, net), (other, ip)) = (bits(block.network()), bits(ip.to_canonical()));
    let shift = width - u32::from(block.prefix_len());
    width == other && net.checked_shr(shift) == ip.checked_shr(shift)
}

fn account(account: &ServiceAccount, id: &(&str, &str)) -> bool {
    (account.namespace.as_str(), account.name.as_str()) == *id
}

/// Path, namespace and account, taken from the URI anew.
fn parts<'a>(request: &Request<'a>) -> Option<(&'a str, &'a str, &'a str)> {
    let principal = request.source?.as_str().strip_prefix("spiffe://")?;
    let path = &principal[principal.find('/')?..];
    let parts: Vec<&str> = path.split('/').collect();
    Some((path, parts[2], parts[4]))
}

fn source(source: &Source, asked: &Asked<'_>) -> bool {
    let (request, deny) = (asked.request, asked.deny);
    let id = parts(request);
    (deny || source.request_principals.is_empty())
        && principals(&source.principals, asked)
        && both(&source.namespaces, id.map(|i| i.1), deny, false, text)
        && both(
            &source.service_accounts,
            id.map(|i| (i.1, i.2)),
            deny,
            false,
            account,
        )
        && both(
            &source.ip_blocks,
            Some(request.source_ip),
            deny,
            false,
            block,
        )
}

fn when(condition: &Condition, asked: &Asked<'_>) -> bool {
    let (request, deny) = (asked.request, asked.deny);
    let id = parts(request);
    match condition {
        Condition::Principal(m) => principals(m, asked),
        Condition::Namespace(m) => both(m, id.map(|i| i.1), deny, false, text),
        Condition::ServiceAccount(m) => both(m, id.map(|i| (i.1, i.2)), deny, false, account),
        Condition::SourceIp(m) => both(m, Some(request.source_ip), deny, false, block),
        Condition::DestinationIp(m) => both(m, Some(request.destination_ip), deny, false, block),
        Condition::DestinationPort(m) => ports(m, asked),
        Condition::Sni(m) => both(m, request.sni, deny, true, text),
        Condition::Header { values, .. } => heads::header(values, asked),
        Condition::Unserved { .. } | Condition::Host(_) | Condition::Method(_) => deny,
    }
}
