//! What of the table of kinds the API is asked for.

use crate::discovery::kinds::{Followed, KindId};
use crate::kube::{Cut, Resource};

/// Groups that every cluster has; the others come with a CRD.
const BUILT_IN: [&str; 2] = ["", "discovery.k8s.io"];

pub(super) fn served() -> Vec<Resource> {
    let kinds = KindId::ALL.iter();
    kinds.filter_map(|kind| resource(*kind)).collect()
}

/// What the agents' role says of it, a rule for each group.
#[cfg(test)]
pub(crate) fn role_rules() -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in served() {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, plurals)) => plurals.push(kind.plural),
            None => groups.push((kind.group, vec![kind.plural])),
        }
    }
    let rule = |(group, mut plurals): (&str, Vec<&str>)| {
        plurals.sort_unstable();
        let group = if group.is_empty() { "\"\"" } else { group };
        let plurals = plurals.join(", ");
        format!("- apiGroups: [{group}]\n  resources: [{plurals}]\n  verbs: [get, list, watch]\n")
    };
    groups.into_iter().map(rule).collect()
}

/// `None` for one that the API is not asked for.
fn resource(kind: KindId) -> Option<Resource> {
    let about = kind.about();
    let (cut, dispensable) = match about.followed {
        Followed::Whole => (Cut::NOTHING, false),
        Followed::Without(cut) => (cut, false),
        Followed::Dispensable => (Cut::NOTHING, true),
        Followed::Never => return None,
    };
    Some(Resource {
        group: about.group,
        versions: about.versions,
        kind: about.name,
        plural: about.plural,
        optional: !BUILT_IN.contains(&about.group),
        dispensable,
        cut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_a_crd_is_optional() {
        let kinds = served();
        let optional = kinds.iter().filter(|r| r.optional).map(|r| r.kind);
        let optional: Vec<_> = optional.collect();
        assert!(optional.contains(&"AuthorizationPolicy"), "{optional:?}");
        assert!(optional.contains(&"PeerAuthentication"), "{optional:?}");
        let needed = kinds.iter().filter(|r| !r.optional).map(|r| r.plural);
        let needed: Vec<_> = needed.collect();
        for plural in ["namespaces", "pods", "services", "endpointslices"] {
            assert!(needed.contains(&plural), "{needed:?}");
        }
    }

    const ROLES: &str = include_str!("../../../../deploy/base/agent-rbac.yaml");

    /// Groups and plurals that rules of the document allow to be followed.
    fn followed(role: &serde_json::Value) -> Vec<(String, String)> {
        let texts = |value: &serde_json::Value| -> Vec<String> {
            let all = value.as_array().expect("a list").iter();
            all.map(|text| text.as_str().expect("a text").to_owned())
                .collect()
        };
        let rules = role["rules"].as_array().expect("rules").iter();
        let mut followed: Vec<_> = rules
            .flat_map(|rule| {
                assert_eq!(texts(&rule["verbs"]), ["get", "list", "watch"], "{rule}");
                let plurals = texts(&rule["resources"]);
                let groups = texts(&rule["apiGroups"]).into_iter();
                groups.flat_map(move |group| {
                    let plurals = plurals.clone().into_iter();
                    plurals.map(move |plural| (group.clone(), plural))
                })
            })
            .collect();
        followed.sort();
        followed
    }

    #[test]
    fn the_agents_role_is_to_follow_what_is_served_and_nothing_else() {
        let role = ROLES
            .split("\n---\n")
            .find(|document| document.contains("kind: ClusterRole\n"))
            .expect("a role");
        let role: serde_json::Value = serde_saphyr::from_str(role).expect("YAML");
        let mut kinds: Vec<_> = served()
            .iter()
            .map(|kind| (kind.group.to_owned(), kind.plural.to_owned()))
            .collect();
        kinds.sort();
        assert_eq!(followed(&role), kinds);
    }
}
