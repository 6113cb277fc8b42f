//! How routes fare, for the writer of status.

use parking_lot::Mutex;
use serde_json::Value;

use crate::discovery::RouteBook;
use crate::model::route::{RouteKey, RouteKind};
use crate::status::{Condition, Parent};

/// What is judged: in the version in which the API's own CRDs store them.
const ROOT: &str = "/apis/gateway.networking.k8s.io/v1";
pub(super) const LISTS: [&str; 4] = [
    "/apis/gateway.networking.k8s.io/v1/grpcroutes",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.networking.k8s.io/v1/tlsroutes",
    "/apis/gateway.networking.k8s.io/v1/tcproutes",
];
/// What it is judged by.
pub(super) const BESIDE: [&str; 2] = [
    "/api/v1/services",
    "/apis/gateway.networking.k8s.io/v1beta1/referencegrants",
];
const KINDS: [(&str, RouteKind); 4] = [
    ("grpcroutes", RouteKind::Grpc),
    ("httproutes", RouteKind::Http),
    ("tlsroutes", RouteKind::Tls),
    ("tcproutes", RouteKind::Tcp),
];

/// By the reader that the agents read with.
#[derive(Default)]
pub(super) struct Routes(Mutex<RouteBook>);

impl Routes {
    /// Paths of the routes that may fare differently by what is there now.
    pub(super) fn hear(&self, path: &str, json: Option<&str>) -> Vec<String> {
        let plural = plural(path);
        let is_service = plural == Some("services");
        if !is_service && plural != Some("referencegrants") && kind(path).is_none() {
            return Vec::new();
        }
        let json = json.map(|json| match is_service {
            true => of_service(json),
            false => json.to_owned(),
        });
        let json = json.as_deref().map(str::as_bytes);
        let routes = self.0.lock().hear(path, json);
        routes.iter().map(self::path).collect()
    }

    /// `None` for what is no route.
    pub(super) fn judge(&self, path: &str, json: &str) -> Option<Vec<Parent>> {
        let kind = kind(path)?;
        let object: Value = serde_json::from_str(json).unwrap_or_default();
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        let key = RouteKey {
            kind,
            namespace: text("namespace").into(),
            name: text("name").into(),
        };
        let is_service = |reference: &&Value| {
            let group = reference["group"].as_str();
            reference["kind"] == "Service" && matches!(group, Some("" | "core"))
        };
        let named = object["spec"]["parentRefs"].as_array();
        let named = named.into_iter().flatten().filter(is_service);
        let all = self.0.lock().status(&key);
        let parents = named.zip(all).map(|(reference, status)| Parent {
            reference: reference.clone(),
            conditions: status
                .conditions
                .into_iter()
                .map(|one| Condition {
                    kind: one.kind,
                    holds: one.holds,
                    reason: one.reason,
                    message: one.message,
                })
                .collect(),
        });
        Some(parents.collect())
    }
}

/// In a list of the API's own kinds each item leaves out what it is.
fn of_service(json: &str) -> String {
    let mut object: Value = serde_json::from_str(json).unwrap_or_default();
    if object.is_object() {
        object["kind"] = "Service".into();
        object["apiVersion"] = "v1".into();
    }
    object.to_string()
}

/// The last but one part of a path.
fn plural(path: &str) -> Option<&str> {
    let (list, _) = path.rsplit_once('/')?;
    list.rsplit_once('/').map(|(_, plural)| plural)
}

fn kind(path: &str) -> Option<RouteKind> {
    let plural = plural(path)?;
    let one = KINDS.iter().find(|(name, _)| *name == plural);
    one.map(|(_, kind)| *kind)
}

fn path(key: &RouteKey) -> String {
    let one = KINDS.iter().find(|(_, kind)| *kind == key.kind);
    let plural = one.map_or("", |(name, _)| name);
    format!("{ROOT}/namespaces/{}/{plural}/{}", key.namespace, key.name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/a";
    const SERVICE: &str = "/api/v1/namespaces/shop/services/web";

    fn route() -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "a", "namespace": "shop", "generation": 2, "managedFields": []},
            "spec": {
                "parentRefs": [
                    {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
                    {"group": "", "kind": "Service", "name": "web", "port": 80},
                ],
                "rules": [{"backendRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}]}],
            },
        })
    }

    fn said(routes: &Routes) -> Vec<String> {
        let parents = routes.judge(ROUTE, &route().to_string()).expect("a route");
        assert_eq!(parents.len(), 1, "the gateway is somebody else's");
        assert_eq!(parents[0].reference, route()["spec"]["parentRefs"][1]);
        let all = parents[0].conditions.iter();
        all.map(|one| format!("{}={} {}", one.kind, one.holds, one.reason))
            .collect()
    }

    #[test]
    fn a_route_is_judged_by_the_services_that_are_there_now() {
        let routes = Routes::default();
        assert_eq!(routes.hear(ROUTE, Some(&route().to_string())), [ROUTE]);
        assert_eq!(
            said(&routes),
            [
                "Accepted=false NoMatchingParent",
                "ResolvedRefs=false BackendNotFound"
            ]
        );
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "1"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        assert_eq!(routes.hear(SERVICE, Some(&service.to_string())), [ROUTE]);
        assert_eq!(
            said(&routes),
            ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs"]
        );
        let mut same = service.clone();
        same["metadata"]["resourceVersion"] = json!("2");
        let again = routes.hear(SERVICE, Some(&same.to_string()));
        assert_eq!(again, [] as [&str; 0], "nothing of it is another");
        assert_eq!(routes.hear(SERVICE, None), [ROUTE]);
        assert_eq!(said(&routes)[0], "Accepted=false NoMatchingParent");
    }

    #[test]
    fn what_is_no_route_is_somebody_elses() {
        let routes = Routes::default();
        let policy = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/a";
        assert_eq!(routes.hear(policy, Some("{}")), [] as [&str; 0]);
        assert_eq!(routes.judge(policy, "{}"), None);
    }
}
