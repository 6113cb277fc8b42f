//! The routes of the Gateway API: HTTPRoute, GRPCRoute, TLSRoute, TCPRoute.
//!
//! A route says what there is: where its present version is not understood in
//! full, its last good one holds, and without one it is as if there were none.
//! Unknown fields and values are such faults, for a route that does less than it
//! says sends requests elsewhere. What the API has and this agent has not makes
//! an error of the rule, never of what it would have left out.

mod backends;
mod filters;
mod matches;
mod parents;
mod reading;
mod rules;
mod targets;

use std::sync::Arc;

use super::about::{About, Contradiction, Fact, Followed};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::model::route::{Route, RouteKey, RouteKind, Rules};
pub(in crate::discovery) use reading::GROUP;
use reading::Reading;
pub(in crate::discovery) use reading::UNSERVED as NOT_YET;
pub(super) use reading::{Reading as RouteReading, duration, kind as kind_of};

/// Its kinds that the mesh has nothing to do with, and those that it has not (yet).
pub(in crate::discovery) const FOREIGN: [&str; 3] = ["Gateway", "GatewayClass", "ListenerSet"];
pub(in crate::discovery) const UNSERVED: [&str; 2] = ["BackendTLSPolicy", "UDPRoute"];

macro_rules! routes {
    ($($name:ident, $kind:ident, $plural:literal, $versions:expr, $meaning:literal;)*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub(crate) struct $name(pub(in crate::discovery) Arc<Route>);

            impl Fact for $name {
                const ABOUT: About = About {
                    name: stringify!($name),
                    group: GROUP,
                    versions: &$versions,
                    plural: $plural,
                    namespaced: true,
                    followed: Followed::Whole,
                    meaning: $meaning,
                };

                fn read(value: &Node<'_>, found: &mut Found) -> Self {
                    Self(Arc::new(read(RouteKind::$kind, value, found)))
                }

                fn fill(&mut self, before: &Self, part: Part) -> bool {
                    fill(&mut self.0, &before.0, part)
                }

                fn share(&mut self, names: &mut Interner) {
                    share(Arc::make_mut(&mut self.0), names);
                }

                /// Of two that differ the first one holds: which is told.
                fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
                    Contradiction::unless(one.1 == other.1)
                }
            }
        )*
    };
}

routes! {
    HTTPRoute, Http, "httproutes", ["v1", "v1beta1"],
        "which Service a request to a Service goes to, and what is changed of it";
    GRPCRoute, Grpc, "grpcroutes", ["v1", "v1alpha2"],
        "the same for calls of gRPC, by service and method";
    TLSRoute, Tls, "tlsroutes", ["v1", "v1alpha3", "v1alpha2"],
        "which Service a TLS connection goes to, by the name that it asks for";
    TCPRoute, Tcp, "tcproutes", ["v1", "v1alpha2"],
        "which Services connections go to, in shares";
}

fn read(kind: RouteKind, value: &Node<'_>, found: &mut Found) -> Route {
    let metadata = &value["metadata"];
    let text = |field: &str| metadata[field].as_text().unwrap_or_default();
    let namespace = match text("namespace") {
        "" => "default",
        namespace => namespace,
    };
    let key = RouteKey {
        kind,
        namespace: namespace.into(),
        name: text("name").into(),
    };
    let created = text("creationTimestamp");
    let mut reading = Reading::new(found);
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    reading.known(value, "", &top);
    let spec = &value["spec"];
    if !spec.is_mapping() {
        reading.wrong("spec", "expected a mapping");
    }
    let fields = ["parentRefs", "hostnames", "rules", "useDefaultGateways"];
    match kind {
        RouteKind::Tcp => {
            reading.known(spec, "spec", &["parentRefs", "rules", "useDefaultGateways"]);
        }
        _ => reading.known(spec, "spec", &fields),
    }
    let parents = parents::parents(&mut reading, spec);
    let hostnames = parents::hostnames(&mut reading, spec, kind);
    let rules = match kind.is_http() {
        true => Rules::Http(rules::http(&mut reading, spec, kind, namespace)),
        false => Rules::Connections(rules::connections(&mut reading, spec, namespace)),
    };
    let fault = reading.fault;
    Route {
        key,
        created: humantime::parse_rfc3339(created).ok(),
        parents,
        hostnames,
        rules,
        is_known: fault.is_none(),
        fault,
    }
}

/// The rules of the last version that was understood, beside what is wrong now.
fn fill(now: &mut Arc<Route>, before: &Arc<Route>, part: Part) -> bool {
    if part != Part::Route || !before.is_known {
        return false;
    }
    let mut filled = (**before).clone();
    filled.fault.clone_from(&now.fault);
    *now = Arc::new(filled);
    true
}

fn share(route: &mut Route, names: &mut Interner) {
    names.share(&mut route.key.namespace);
    names.share(&mut route.key.name);
    for parent in &mut route.parents {
        names.share(&mut parent.group);
        names.share(&mut parent.kind);
        names.share(&mut parent.name);
        parent
            .namespace
            .iter_mut()
            .for_each(|name| names.share(name));
    }
}
