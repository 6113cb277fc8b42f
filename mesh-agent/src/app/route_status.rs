//! How routes and TrafficPolicies fare, for the writer of status.

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::api_callers::with_kind;
use crate::discovery::{self, Book};
use crate::model::route::{RouteKey, RouteKind};
use crate::model::traffic_policy::PolicyKind;
use crate::status::{Condition, Holds, Parent, Verdict};
use crate::traffic::TargetStatus;

/// What is judged: in the version in which the API's own CRDs store them.
const ROOT: &str = "/apis/gateway.networking.k8s.io/v1";
pub(super) const LISTS: [&str; 6] = [
    "/apis/gateway.networking.k8s.io/v1/grpcroutes",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.networking.k8s.io/v1/tlsroutes",
    "/apis/gateway.networking.k8s.io/v1/tcproutes",
    "/apis/mesh-agent.io/v1alpha1/trafficpolicies",
    "/apis/gateway.networking.x-k8s.io/v1alpha1/xbackendtrafficpolicies",
];
/// In the order of `PolicyKind`: kind, where it is, and what a list of it is called.
const TRAFFIC: [(PolicyKind, &str, &str); 2] = [
    (
        PolicyKind::TrafficPolicy,
        "/apis/mesh-agent.io/v1alpha1",
        "trafficpolicies",
    ),
    (
        PolicyKind::XBackendTrafficPolicy,
        "/apis/gateway.networking.x-k8s.io/v1alpha1",
        "xbackendtrafficpolicies",
    ),
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
pub(super) struct Routes(Mutex<Book>);

impl Routes {
    /// Paths of those that may fare differently by what is there now.
    pub(super) fn hear(&self, path: &str, json: Option<&str>) -> Vec<String> {
        let plural = plural(path);
        let is_service = plural == Some("services");
        let is_heard = is_service || plural == Some("referencegrants") || policy(path).is_some();
        if !is_heard && kind(path).is_none() {
            return Vec::new();
        }
        let json = json.map(|json| match is_service {
            true => with_kind(json, "v1", "Service"),
            false => json.to_owned(),
        });
        let json = json.as_deref().map(str::as_bytes);
        let others = self.0.lock().hear(path, json);
        let policies = others.traffic_policies.iter();
        let policies = policies.map(|(kind, namespace, name)| {
            let (_, root, plural) = TRAFFIC[*kind as usize];
            format!("{root}/namespaces/{namespace}/{plural}/{name}")
        });
        others
            .routes
            .iter()
            .map(self::path)
            .chain(policies)
            .collect()
    }

    /// `None` for what is neither.
    pub(super) fn judge(&self, path: &str, json: &str) -> Option<Verdict> {
        let (kind, policy) = (kind(path), policy(path));
        let object: Value = serde_json::from_str(json).unwrap_or_default();
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let mut verdict = match (kind, policy) {
            (None, None) => return None,
            (Some(kind), _) => {
                let (namespace, name) = (namespace.into(), name.into());
                let key = RouteKey {
                    kind,
                    namespace,
                    name,
                };
                Verdict::Parents(self.parents(&key, &object))
            }
            (None, Some(policy)) => {
                let all = self.0.lock().traffic_status(policy, (namespace, name));
                Verdict::Ancestors(all.into_iter().map(ancestor).collect())
            }
        };
        // A policy for Services says so itself.
        if let Verdict::Parents(all) = &mut verdict {
            say_without_effect(all, &discovery::without_effect("object", json.as_bytes()));
        }
        Some(verdict)
    }

    fn parents(&self, key: &RouteKey, object: &Value) -> Vec<Parent> {
        let is_service = |reference: &&Value| {
            let group = reference["group"].as_str();
            reference["kind"] == "Service" && matches!(group, Some("" | "core"))
        };
        let named = object["spec"]["parentRefs"].as_array();
        let named = named.into_iter().flatten().filter(is_service);
        let all = self.0.lock().status(key);
        let parents = named.zip(all).map(|(reference, status)| Parent {
            reference: reference.clone(),
            conditions: status
                .conditions
                .into_iter()
                .map(|one| Condition {
                    kind: one.kind,
                    holds: one.holds.into(),
                    reason: one.reason,
                    message: one.message,
                })
                .collect(),
        });
        parents.collect()
    }
}

/// What is accepted is not all in force: fields that have no effect yet are named.
fn say_without_effect(all: &mut [Parent], fields: &[String]) {
    if fields.is_empty() {
        return;
    }
    let fields = fields.join(", ");
    let conditions = all.iter_mut().flat_map(|parent| &mut parent.conditions);
    let is_accepted = |one: &&mut Condition| one.kind == "Accepted" && one.holds == Holds::True;
    for condition in conditions.filter(is_accepted) {
        let so_far = &condition.message;
        condition.message = format!("{so_far}; read, but without effect yet: {fields}");
    }
}

/// One of the targets of a policy.
fn ancestor(status: TargetStatus) -> Parent {
    let mut reference = json!({"group": "", "kind": "Service", "name": &*status.target.service});
    if let Some(section) = &status.target.section {
        reference["sectionName"] = (&**section).into();
    }
    Parent {
        reference,
        conditions: vec![Condition {
            kind: "Accepted",
            holds: status.is_accepted.into(),
            reason: status.reason,
            message: status.message,
        }],
    }
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

fn policy(path: &str) -> Option<PolicyKind> {
    let plural = plural(path)?;
    let one = TRAFFIC.iter().find(|(.., name)| *name == plural);
    one.map(|(kind, ..)| *kind)
}

fn path(key: &RouteKey) -> String {
    let one = KINDS.iter().find(|(_, kind)| *kind == key.kind);
    let plural = one.map_or("", |(name, _)| name);
    format!("{ROOT}/namespaces/{}/{plural}/{}", key.namespace, key.name)
}

#[cfg(test)]
mod tests {
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
        let Some(Verdict::Parents(parents)) = routes.judge(ROUTE, &route().to_string()) else {
            panic!("no route");
        };
        assert_eq!(parents.len(), 1, "the gateway is somebody else's");
        assert_eq!(parents[0].reference, route()["spec"]["parentRefs"][1]);
        let all = parents[0].conditions.iter();
        all.map(|one| format!("{}={:?} {}", one.kind, one.holds, one.reason))
            .collect()
    }

    #[test]
    fn a_route_is_judged_by_the_services_that_are_there_now() {
        let routes = Routes::default();
        assert_eq!(routes.hear(ROUTE, Some(&route().to_string())), [ROUTE]);
        assert_eq!(
            said(&routes),
            [
                "Accepted=False NoMatchingParent",
                "ResolvedRefs=False BackendNotFound"
            ]
        );
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "1"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        assert_eq!(routes.hear(SERVICE, Some(&service.to_string())), [ROUTE]);
        assert_eq!(
            said(&routes),
            ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
        );
        let mut same = service.clone();
        same["metadata"]["resourceVersion"] = json!("2");
        let again = routes.hear(SERVICE, Some(&same.to_string()));
        assert_eq!(again, [] as [&str; 0], "nothing of it is another");
        assert_eq!(routes.hear(SERVICE, None), [ROUTE]);
        assert_eq!(said(&routes)[0], "Accepted=False NoMatchingParent");
    }

    const POLICIES: &str = "/apis/mesh-agent.io/v1alpha1/namespaces/shop/trafficpolicies";

    fn traffic_policy(name: &str, created: &str) -> String {
        let policy = json!({
            "apiVersion": "mesh-agent.io/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "timeouts": {"request": "5s"},
            },
        });
        policy.to_string()
    }

    #[test]
    fn a_policy_for_a_service_is_judged_by_that_and_by_older_ones() {
        let all = Routes::default();
        let [a, b] = ["a", "b"].map(|name| format!("{POLICIES}/{name}"));
        let texts = [("a", "2026-02-02T00:00:00Z"), ("b", "2026-01-01T00:00:00Z")];
        let [of_a, of_b] = texts.map(|(name, created)| traffic_policy(name, created));
        let said = |path: &str, json: &str| match all.judge(path, json) {
            Some(Verdict::Ancestors(ancestors)) => {
                let one = &ancestors[0];
                assert_eq!(
                    one.reference,
                    json!({"group": "", "kind": "Service", "name": "web"})
                );
                one.conditions[0].reason
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(all.hear(&a, Some(&of_a)), [a.as_str()]);
        assert_eq!(said(&a, &of_a), "TargetNotFound");
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        assert_eq!(all.hear(SERVICE, Some(&service.to_string())), [a.as_str()]);
        assert_eq!(said(&a, &of_a), "Accepted");
        assert_eq!(all.hear(&b, Some(&of_b)), [a.as_str(), &b]);
        assert_eq!(
            (said(&a, &of_a), said(&b, &of_b)),
            ("Conflicted", "Accepted")
        );
        assert_eq!(all.hear(&b, None), [a.as_str()]);
        assert_eq!(said(&a, &of_a), "Accepted");
    }

    #[test]
    fn a_field_that_has_no_effect_yet_is_named_where_the_policy_is_accepted() {
        let all = Routes::default();
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        all.hear(SERVICE, Some(&service.to_string()));
        let path = format!("{POLICIES}/a");
        let message = |limits: Value| {
            let text = traffic_policy("a", "2026-02-02T00:00:00Z");
            let mut policy: Value = serde_json::from_str(&text).expect("JSON");
            policy["spec"] = json!({"targetRefs": policy["spec"]["targetRefs"], "limits": limits});
            let text = policy.to_string();
            all.hear(&path, Some(&text));
            match all.judge(&path, &text) {
                Some(Verdict::Ancestors(mut all)) => all.remove(0).conditions.remove(0).message,
                other => panic!("{other:?}"),
            }
        };
        let said = message(json!({"maxConnections": 5, "maxPendingTime": "1s"}));
        assert!(!said.contains("without effect"), "{said}");
    }

    #[test]
    fn a_budget_of_the_gateway_api_is_judged_by_what_there_is_beside_it() {
        let all = Routes::default();
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        all.hear(SERVICE, Some(&service.to_string()));
        let path =
            "/apis/gateway.networking.x-k8s.io/v1alpha1/namespaces/shop/xbackendtrafficpolicies/a";
        let text = json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "retryConstraint": {"budget": {"percent": 7}},
                "sessionPersistence": {"type": "Cookie"},
            },
        })
        .to_string();
        let said = || match all.judge(path, &text) {
            Some(Verdict::Ancestors(mut all)) => {
                let condition = all.remove(0).conditions.remove(0);
                (condition.reason, condition.message)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(all.hear(path, Some(&text)), [path]);
        assert_eq!(said().0, "Accepted");
        let without = "without effect yet: spec.sessionPersistence";
        assert!(said().1.ends_with(without), "{}", said().1);
        let own = format!("{POLICIES}/a");
        let mut budget: Value =
            serde_json::from_str(&traffic_policy("a", "2026-02-02T00:00:00Z")).expect("JSON");
        budget["spec"]["retryBudget"] = json!({"percent": 1});
        let told = all.hear(&own, Some(&budget.to_string()));
        assert_eq!(told, [own.as_str(), path], "both are told");
        assert_eq!(said().0, "Conflicted");
    }

    #[test]
    fn what_is_no_route_is_somebody_elses() {
        let routes = Routes::default();
        let policy = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/a";
        assert_eq!(routes.hear(policy, Some("{}")), [] as [&str; 0]);
        assert!(routes.judge(policy, "{}").is_none());
    }
}
