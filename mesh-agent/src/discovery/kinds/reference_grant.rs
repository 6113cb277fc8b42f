//! ReferenceGrant: whose routes may lead to Services of its namespace.

use std::sync::Arc;

use super::about::{About, Contradiction, Fact, Followed, Followers, Record, Records};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use super::route::{GROUP, RouteReading, kind_of};
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::model::route::{GrantFrom, ReferenceGrant};
use crate::model::{Name, Snapshot};

const MAX_FROM: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant(pub(in crate::discovery) Arc<ReferenceGrant>);

impl Fact for Grant {
    const ABOUT: About = About {
        name: "ReferenceGrant",
        group: GROUP,
        versions: &["v1", "v1beta1"],
        plural: "referencegrants",
        namespaced: true,
        followed: Followed::Whole,
        meaning: "routes of which namespaces may lead to Services of its own",
    };

    /// What is not understood grants nothing.
    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        let mut reading = RouteReading::new(found);
        let spec = &value["spec"];
        reading.known(spec, "spec", &["from", "to"]);
        let grant = ReferenceGrant {
            namespace: text(value, "namespace").unwrap_or("default").into(),
            name: text(value, "name").unwrap_or_default().into(),
            from: from(&mut reading, spec),
            to: to(&mut reading, spec),
        };
        let is_whole = reading.fault.is_none();
        let (from, to) = match is_whole {
            true => (grant.from, grant.to),
            false => Default::default(),
        };
        Self(Arc::new(ReferenceGrant { from, to, ..grant }))
    }

    fn fill(&mut self, before: &Self, part: Part) -> bool {
        if part == Part::Route {
            self.clone_from(before);
        }
        part == Part::Route
    }

    fn share(&mut self, names: &mut Interner) {
        names.share(&mut Arc::make_mut(&mut self.0).namespace);
    }

    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        Contradiction::unless(one.1 == other.1)
    }
}

impl Record for Grant {
    const FOLLOWERS: Followers = Followers::RoutesNaming;

    fn publish(snapshot: &mut Snapshot, namespace: &Name, all: &mut Records<'_, Self>) -> bool {
        let all = all.map(|grant| grant.0.clone());
        snapshot
            .grants
            .put(namespace, all.collect(), |grant| grant.name.clone())
    }
}

fn text<'v>(value: &'v Node<'_>, field: &str) -> Option<&'v str> {
    let text = value["metadata"][field].as_text();
    text.filter(|text| !text.is_empty())
}

/// Of kinds that are not routes it says nothing to the mesh.
fn from(reading: &mut RouteReading<'_>, spec: &Node<'_>) -> Box<[GrantFrom]> {
    let mut all = Vec::new();
    let list = reading.list(&spec["from"], "spec.from", MAX_FROM);
    for (i, value) in list.iter().enumerate() {
        let at = format!("spec.from[{i}]");
        reading.known(value, &at, &["group", "kind", "namespace"]);
        let group = reading.text(&value["group"], &format!("{at}.group"));
        let kind = reading.some(&value["kind"], &format!("{at}.kind"));
        let namespace = reading.some(&value["namespace"], &format!("{at}.namespace"));
        let kind = kind.filter(|_| group == Some(GROUP)).and_then(kind_of);
        all.extend(kind.zip(namespace).map(|(kind, namespace)| GrantFrom {
            kind,
            namespace: namespace.into(),
        }));
    }
    all.into()
}

fn to(reading: &mut RouteReading<'_>, spec: &Node<'_>) -> Box<[Option<Name>]> {
    let mut all = Vec::new();
    let list = reading.list(&spec["to"], "spec.to", MAX_FROM);
    for (i, value) in list.iter().enumerate() {
        let at = format!("spec.to[{i}]");
        reading.known(value, &at, &["group", "kind", "name"]);
        let group = reading.text(&value["group"], &format!("{at}.group"));
        let kind = reading.some(&value["kind"], &format!("{at}.kind"));
        let name = reading.text(&value["name"], &format!("{at}.name"));
        let name = name.filter(|name| !name.is_empty()).map(Name::from);
        let is_service = kind == Some("Service") && matches!(group.unwrap_or(""), "" | "core");
        if is_service {
            all.push(name);
        }
    }
    all.into()
}
