use std::net::IpAddr;
use std::sync::Arc;

use super::fields::{CONDITIONS, ENDPOINT, ENDPOINT_PORT, ENDPOINT_SLICE, HINTS};
use super::read::Found;
use crate::discovery::kinds::{Endpoint, EndpointPort, EndpointSlice, Part, TargetRef};
use crate::discovery::tree::{Node, View};
use crate::model::{Name, Place, WorkloadKey};

pub(super) fn slice(value: &Node<'_>, found: &mut Found) -> EndpointSlice {
    found.names(value, "", ENDPOINT_SLICE);
    let kind = found.text(&value["addressType"], "addressType", Part::Endpoints);
    let mut slice = EndpointSlice::default();
    if kind.as_deref() == Some("FQDN") {
        found.advise(
            "addressType",
            "FQDN is not served: these endpoints are not used",
        );
        return slice;
    }
    if !matches!(kind.as_deref(), Some("IPv4" | "IPv6")) {
        found.mistake(
            "addressType",
            "expected IPv4, IPv6 or FQDN",
            Part::Endpoints,
        );
    }
    let own = value["metadata"]["namespace"]
        .as_text()
        .unwrap_or("default");
    let endpoints = found.list(&value["endpoints"], "endpoints", Part::Endpoints);
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{i}]");
        found.is_mapping(endpoint, &at, &[Part::Endpoints]);
        found.names(endpoint, &at, ENDPOINT);
        let mut read = self::endpoint(endpoint, &at, own, found);
        for ip in &read.addresses {
            if kind.as_deref().is_some_and(|kind| kind != family(*ip)) {
                let message = format!("{ip} is not of the addressType {}", value["addressType"]);
                found.mistake(&format!("{at}.addresses"), message, Part::Endpoints);
                // Nobody's that is named, but not for that outside of the mesh.
                read.target = TargetRef::Unknown;
            }
        }
        slice.endpoints.push(read);
    }
    for (i, port) in found
        .list(&value["ports"], "ports", Part::Endpoints)
        .iter()
        .enumerate()
    {
        slice
            .ports
            .extend(self::port(port, &format!("ports[{i}]"), found));
    }
    slice
}

fn family(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

fn endpoint(value: &Node<'_>, at: &str, own: &str, found: &mut Found) -> Endpoint {
    let mut endpoint = Endpoint::default();
    let list = format!("{at}.addresses");
    for (i, address) in found
        .list(&value["addresses"], &list, Part::Endpoints)
        .iter()
        .enumerate()
    {
        let at = format!("{list}[{i}]");
        endpoint
            .addresses
            .extend(found.address(address, &at, Part::Endpoints));
    }
    let conditions = &value["conditions"];
    let conditions_at = format!("{at}.conditions");
    found.is_mapping(conditions, &conditions_at, &[Part::Endpoints]);
    found.names(conditions, &conditions_at, CONDITIONS);
    let mut condition = |name: &str| {
        let at = format!("{conditions_at}.{name}");
        found.flag(&conditions[name], &at, Part::Endpoints)
    };
    // Missing means ready (EndpointSlice API).
    endpoint.ready = condition("ready").unwrap_or(true);
    endpoint.serving = condition("serving").unwrap_or(endpoint.ready);
    endpoint.terminating = condition("terminating").unwrap_or(false);
    endpoint.place = place(value, at, found);
    endpoint.target = target(&value["targetRef"], &format!("{at}.targetRef"), own, found);
    endpoint
}

/// What cannot be read of it is told and not there: then all endpoints are used.
fn place(value: &Node<'_>, at: &str, found: &mut Found) -> Option<Arc<Place>> {
    let mut name = |field: &str| {
        let at = format!("{at}.{field}");
        let name = found.text(&value[field], &at, Part::Nothing);
        name.filter(|name| !name.is_empty()).map(Name::from)
    };
    let mut place = Place {
        node: name("nodeName"),
        zone: name("zone"),
        ..Place::default()
    };
    let (hints, at) = (&value["hints"], format!("{at}.hints"));
    found.is_mapping(hints, &at, &[]);
    found.names(hints, &at, HINTS);
    place.for_nodes = hinted(&hints["forNodes"], &format!("{at}.forNodes"), found);
    place.for_zones = hinted(&hints["forZones"], &format!("{at}.forZones"), found);
    (place != Place::default()).then(|| Arc::new(place))
}

fn hinted(list: &Node<'_>, at: &str, found: &mut Found) -> Box<[Name]> {
    let list = found.list(list, at, Part::Nothing).iter().enumerate();
    let names = list.filter_map(|(i, one)| {
        let at = format!("{at}[{i}]");
        found.is_mapping(one, &at, &[]);
        let name = found.text(&one["name"], &format!("{at}.name"), Part::Nothing)?;
        Some(Name::from(name))
    });
    names.collect()
}

fn target(value: &Node<'_>, at: &str, own: &str, found: &mut Found) -> TargetRef {
    let is_pod = value["kind"] == "Pod";
    let name = value["name"].as_text().filter(|n| !n.is_empty());
    match (value.view(), name) {
        (View::Null, _) => TargetRef::None,
        (View::Mapping(_), _) if !is_pod && value["kind"].is_text() => TargetRef::None,
        (View::Mapping(_), Some(name)) => {
            let namespace = value["namespace"].as_text().unwrap_or(own);
            TargetRef::Pod(WorkloadKey::new(namespace, name))
        }
        _ => {
            found.mistake(at, "does not say which Pod it is", Part::Endpoints);
            TargetRef::Unknown
        }
    }
}

/// `None` for a port without a number, which is all ports and nothing to dial.
fn port(value: &Node<'_>, at: &str, found: &mut Found) -> Option<EndpointPort> {
    found.is_mapping(value, at, &[Part::Endpoints]);
    found.names(value, at, ENDPOINT_PORT);
    if value["port"].is_null() && value.is_mapping() {
        found.advise(
            &format!("{at}.port"),
            "a port without a number is not served",
        );
    }
    let number = found.port(&value["port"], &format!("{at}.port"), Part::Endpoints)?;
    let is_tcp = found.is_tcp(
        &value["protocol"],
        &format!("{at}.protocol"),
        Part::Endpoints,
    );
    let name = found.text(&value["name"], &format!("{at}.name"), Part::Endpoints);
    let port = EndpointPort {
        name: name.unwrap_or_default(),
        port: number,
    };
    is_tcp.then_some(port)
}

impl EndpointSlice {
    /// Endpoints that cannot be understood now, as `before` gave them.
    pub(super) fn fill(&mut self, before: &Self) {
        let is_known = |ip: &IpAddr| self.endpoints.iter().any(|e| e.addresses.contains(ip));
        let lost = before
            .endpoints
            .iter()
            .filter(|e| !e.addresses.iter().any(is_known));
        let lost: Vec<Endpoint> = lost.cloned().collect();
        self.endpoints.extend(lost);
        if self.ports.is_empty() {
            self.ports.clone_from(&before.ports);
        }
    }
}
