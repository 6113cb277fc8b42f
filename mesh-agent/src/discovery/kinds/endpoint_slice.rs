//! EndpointSlice: which addresses and ports are behind a Service.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::about::{About, Contradiction, Fact, Followed};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::intern::Interner;
use crate::discovery::tree::{Node, View};
use crate::model::{Name, Place, WorkloadKey};

const ENDPOINT_SLICE: &[&str] = &[
    "addressType",
    "apiVersion",
    "endpoints",
    "kind",
    "metadata",
    "ports",
];

const ENDPOINT: &[&str] = &[
    "addresses",
    "conditions",
    "deprecatedTopology",
    "hints",
    "hostname",
    "nodeName",
    "targetRef",
    "zone",
];

const CONDITIONS: &[&str] = &["ready", "serving", "terminating"];

const HINTS: &[&str] = &["forNodes", "forZones"];

const ENDPOINT_PORT: &[&str] = &["appProtocol", "name", "port", "protocol"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointSlice {
    pub(crate) endpoints: Vec<Endpoint>,
    /// TCP ports.
    pub(crate) ports: Vec<EndpointPort>,
}

/// Whose addresses an endpoint has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TargetRef {
    /// Nobody is named.
    #[default]
    None,
    Pod(WorkloadKey),
    /// Somebody is named, and it cannot be understood who.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) addresses: SmallVec<[IpAddr; 1]>,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) target: TargetRef,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointPort {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Fact for EndpointSlice {
    const ABOUT: About = About {
        name: "EndpointSlice",
        group: "discovery.k8s.io",
        versions: &["v1"],
        plural: "endpointslices",
        namespaced: true,
        followed: Followed::Whole,
        meaning: "which addresses and TCP ports are behind a Service, which of them are ready, where they are and for whom",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        slice(value, found)
    }

    fn fill(&mut self, before: &Self, _part: Part) -> bool {
        self.fill_all(before);
        true
    }

    fn share(&mut self, names: &mut Interner) {
        for endpoint in &mut self.endpoints {
            endpoint
                .place
                .iter_mut()
                .for_each(|place| names.share_place(place));
            if let TargetRef::Pod(key) = &mut endpoint.target {
                names.share(&mut key.namespace);
                names.share(&mut key.name);
            }
        }
        self.endpoints.shrink_to_fit();
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let all = self.endpoints.iter().flat_map(|e| &e.addresses);
        all.copied().collect()
    }

    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        Contradiction::unless(one.1 == other.1 && one.0.labels == other.0.labels)
    }
}

impl EndpointSlice {
    /// Endpoints that cannot be understood now, as `before` gave them.
    fn fill_all(&mut self, before: &Self) {
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

fn slice(value: &Node<'_>, found: &mut Found) -> EndpointSlice {
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
        if let TargetRef::Pod(key) = &read.target
            && key.namespace != *own
        {
            // Nobody's: neither an endpoint, nor an address that is withheld.
            let message = format!("{key} is of another namespace: this endpoint is not used");
            found.advise(&format!("{at}.targetRef"), message);
            continue;
        }
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::{
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
    };

    use super::super::api::{fields, is_of_the_api};
    use super::{EndpointSlice as Kind, Fact as _};

    #[test]
    fn the_fields_are_those_of_the_api() {
        is_of_the_api::<EndpointSlice>(&Kind::ABOUT);
        assert_eq!(super::ENDPOINT_SLICE, fields::<EndpointSlice>());
        assert_eq!(super::ENDPOINT, fields::<Endpoint>());
        assert_eq!(super::CONDITIONS, fields::<EndpointConditions>());
        assert_eq!(super::HINTS, fields::<EndpointHints>());
        assert_eq!(super::ENDPOINT_PORT, fields::<EndpointPort>());
    }
}
