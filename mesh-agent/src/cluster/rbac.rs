//! What the mesh's service accounts must be allowed, as the code calls for it: the
//! reference `docs/rbac.md` is made of it, and what is deployed is held to it.

/// One rule.
pub(crate) struct Rule {
    pub(crate) account: &'static str,
    /// In the mesh's own namespace; else in the cluster.
    pub(crate) is_local: bool,
    pub(crate) group: &'static str,
    pub(crate) resources: &'static [&'static str],
    /// None: all.
    pub(crate) names: &'static [&'static str],
    pub(crate) verbs: &'static [&'static str],
    pub(crate) why: &'static str,
}

const CA: &str = "mesh-agent-ca";
const AGENT: &str = "mesh-agent";

const fn local(
    account: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Rule {
    Rule {
        account,
        is_local: true,
        group,
        resources,
        names,
        verbs,
        why,
    }
}

const fn everywhere(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Rule {
    Rule {
        account: CA,
        is_local: false,
        group,
        resources,
        names: &[],
        verbs,
        why,
    }
}

const POLICIES: &str = "security.istio.io";
const ROUTES: &str = "gateway.networking.k8s.io";
const OWN: &str = "mesh-agent.io";
const EXPERIMENTS: &str = "gateway.networking.x-k8s.io";

pub(crate) const RULES: &[Rule] = &[
    everywhere(
        "authentication.k8s.io",
        &["tokenreviews"],
        &["create"],
        "whose token an agent shows",
    ),
    everywhere(
        "",
        &["pods"],
        &["list", "watch"],
        "which account has a live pod on which node",
    ),
    everywhere(
        POLICIES,
        &["authorizationpolicies", "peerauthentications"],
        &["list", "watch"],
        "what is judged for its status",
    ),
    everywhere(
        POLICIES,
        &["authorizationpolicies/status", "peerauthentications/status"],
        &["update"],
        "conditions",
    ),
    everywhere(
        "",
        &["services"],
        &["list", "watch"],
        "what routes are for, and lead to",
    ),
    everywhere(
        ROUTES,
        &[
            "grpcroutes",
            "httproutes",
            "referencegrants",
            "tcproutes",
            "tlsroutes",
        ],
        &["list", "watch"],
        "what is judged for its status",
    ),
    everywhere(
        ROUTES,
        &[
            "grpcroutes/status",
            "httproutes/status",
            "tcproutes/status",
            "tlsroutes/status",
        ],
        &["update"],
        "how each route fares with each of its Services",
    ),
    everywhere(
        OWN,
        &["trafficpolicies"],
        &["list", "watch"],
        "what is judged for its status",
    ),
    everywhere(
        OWN,
        &["trafficpolicies/status"],
        &["update"],
        "how each fares with each of its Services",
    ),
    everywhere(
        EXPERIMENTS,
        &["xbackendtrafficpolicies"],
        &["list", "watch"],
        "what is judged for its status",
    ),
    everywhere(
        EXPERIMENTS,
        &["xbackendtrafficpolicies/status"],
        &["update"],
        "how each fares with each of its Services",
    ),
    everywhere(
        "admissionregistration.k8s.io",
        &[
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
        ],
        &["list", "watch"],
        "which Services the API server calls",
    ),
    everywhere(
        "apiregistration.k8s.io",
        &["apiservices"],
        &["list", "watch"],
        "which Services the API server calls",
    ),
    everywhere(
        "",
        &["namespaces"],
        &["list"],
        "whether pods of these Services are in the mesh",
    ),
    everywhere(
        "",
        &["events"],
        &["create"],
        "what is wrong with an object or a pod, beside it",
    ),
    local(
        CA,
        "",
        &["secrets", "configmaps"],
        &[],
        &["create"],
        "its state and the roots, once; a creation cannot be limited by name",
    ),
    local(
        CA,
        "",
        &["secrets"],
        &["mesh-agent-ca"],
        &["get", "list", "watch", "update"],
        "its state",
    ),
    local(
        CA,
        "",
        &["configmaps"],
        &["mesh-agent-ca-root"],
        &["get", "update"],
        "the roots",
    ),
    local(
        CA,
        "coordination.k8s.io",
        &["leases"],
        &[],
        &["create"],
        "who writes status, once",
    ),
    local(
        CA,
        "coordination.k8s.io",
        &["leases"],
        &["mesh-agent-status"],
        &["get", "update"],
        "who writes status",
    ),
    local(
        AGENT,
        "",
        &["configmaps"],
        &["mesh-agent-ca-root"],
        &["list", "watch"],
        "the authority's roots",
    ),
];

/// The reference.
pub(crate) fn page() -> String {
    let mut text = String::from(
        "# What the mesh's service accounts may do\n\n<!-- made from the code by `cargo xtask gen`: do not edit -->\n\n\
         Of the authority and of status. What the agents read of the configuration is not in it.\n\
         A rule with a namespace is a Role there, else it is a ClusterRole's.\n\n\
         | account | namespace | API group | resources | names | verbs | what for |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for rule in RULES {
        let names = match rule.names {
            [] => "all".to_owned(),
            names => names.join(", "),
        };
        let namespace = if rule.is_local { "mesh-system" } else { "" };
        let group = if rule.group.is_empty() {
            "(core)"
        } else {
            rule.group
        };
        text.push_str(&format!(
            "| {} | {namespace} | {group} | {} | {names} | {} | {} |\n",
            rule.account,
            rule.resources.join(", "),
            rule.verbs.join(", "),
            rule.why
        ));
    }
    text
}

/// The objects that grant it, for a real API server.
pub(crate) fn objects() -> Vec<(String, serde_json::Value)> {
    const ROOT: &str = "/apis/rbac.authorization.k8s.io/v1";
    let mut objects = Vec::new();
    for account in [CA, AGENT] {
        for is_local in [true, false] {
            let of = |rule: &&Rule| rule.account == account && rule.is_local == is_local;
            let rules: Vec<_> = RULES
                .iter()
                .filter(of)
                .map(|rule| {
                    let mut object = serde_json::json!({
                        "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs,
                    });
                    if !rule.names.is_empty() {
                        object["resourceNames"] = serde_json::json!(rule.names);
                    }
                    object
                })
                .collect();
            let (at, kind) = match is_local {
                true => (format!("{ROOT}/namespaces/mesh-system/"), "Role"),
                false => (format!("{ROOT}/"), "ClusterRole"),
            };
            let plural = format!("{}s", kind.to_lowercase());
            let metadata = serde_json::json!({"name": account});
            objects.push((
                format!("{at}{plural}"),
                serde_json::json!({"metadata": metadata, "rules": rules}),
            ));
            objects.push((
                format!("{at}{}bindings", kind.to_lowercase()),
                serde_json::json!({
                    "metadata": metadata,
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": account},
                    "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "mesh-system"}],
                }),
            ));
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const DEPLOYED: [&str; 2] = [
        include_str!("../../../deploy/base/ca-rbac.yaml"),
        include_str!("../../../deploy/base/agent-rbac.yaml"),
    ];

    /// One thing that one account may do: in the mesh's namespace or not, group,
    /// resource, name (or all), verb.
    type Grant = (String, bool, String, String, String, String);

    fn texts(value: &Value) -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.map(|text| text.as_str().expect("a text").to_owned())
            .collect()
    }

    fn grants(account: &str, is_local: bool, rule: &Value) -> Vec<Grant> {
        let mut names = texts(&rule["resourceNames"]);
        if names.is_empty() {
            names.push("all".to_owned());
        }
        let mut grants = Vec::new();
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    for verb in texts(&rule["verbs"]) {
                        let (account, name) = (account.to_owned(), name.clone());
                        let (group, resource) = (group.clone(), resource.clone());
                        grants.push((account, is_local, group, resource, name, verb));
                    }
                }
            }
        }
        grants
    }

    /// Of roles whose bindings bind the account of the same name, and no other.
    fn deployed() -> BTreeSet<Grant> {
        let documents = DEPLOYED.iter().flat_map(|text| text.split("\n---\n"));
        let documents: Vec<Value> = documents
            .map(|text| serde_saphyr::from_str(text).expect("YAML"))
            .collect();
        let mut all = BTreeSet::new();
        for object in &documents {
            let name = object["metadata"]["name"].as_str().expect("a name");
            match object["kind"].as_str().expect("a kind") {
                kind @ ("Role" | "ClusterRole") => {
                    let rules = object["rules"].as_array().expect("rules").iter();
                    all.extend(rules.flat_map(|rule| grants(name, kind == "Role", rule)));
                }
                "RoleBinding" | "ClusterRoleBinding" => {
                    let subjects = object["subjects"].as_array().expect("subjects");
                    assert_eq!(subjects.len(), 1, "{object}");
                    assert_eq!(subjects[0]["name"], name, "{object}");
                    assert_eq!(object["roleRef"]["name"], name, "{object}");
                }
                "ServiceAccount" => {}
                other => panic!("{other} among the roles"),
            }
        }
        all
    }

    #[test]
    fn what_is_deployed_is_what_the_code_calls_for_and_nothing_more() {
        // What the agents follow is held to the kinds that are served (discovery/api).
        let is_here = |grant: &Grant| grant.0 == CA || grant.1;
        let deployed: BTreeSet<Grant> = deployed().into_iter().filter(is_here).collect();
        let mut called_for = BTreeSet::new();
        for (list, object) in objects() {
            if list.ends_with("bindings") {
                continue;
            }
            let name = object["metadata"]["name"].as_str().expect("a name");
            let rules = object["rules"].as_array().expect("rules").iter();
            let is_local = list.contains("/namespaces/");
            called_for.extend(rules.flat_map(|rule| grants(name, is_local, rule)));
        }
        let more: Vec<_> = deployed.difference(&called_for).collect();
        let less: Vec<_> = called_for.difference(&deployed).collect();
        assert!(
            more.is_empty(),
            "deploy/ grants what nothing needs: {more:?}"
        );
        assert!(
            less.is_empty(),
            "deploy/ does not grant what is needed: {less:?}"
        );
    }
}
