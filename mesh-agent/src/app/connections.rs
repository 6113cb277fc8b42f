//! Connections that are asked for by names that nothing has.

use crate::model::{Snapshot, SpiffeId, WorkloadKey};
use crate::observe::{ConnectionFilter, ConnectionList};

/// Refuses a question about what there is not: no line of it would be taken for none.
pub(super) fn list(
    found: ConnectionList,
    filter: &ConnectionFilter,
    snapshot: &Snapshot,
) -> Result<ConnectionList, String> {
    // A pod that has left is known by what is remembered of it.
    if !found.connections.is_empty() {
        return Ok(found);
    }
    if let Some(pod) = &filter.pod
        && !is_pod(pod, snapshot)
    {
        return Err(format!(
            "nothing matches: the configuration has no pod {pod} (NAMESPACE/NAME)"
        ));
    }
    if let Some(principal) = &filter.principal
        && !is_principal(principal)
    {
        return Err(format!(
            "nothing matches: '{principal}' is no principal (spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT)"
        ));
    }
    Ok(found)
}

fn is_pod(text: &str, snapshot: &Snapshot) -> bool {
    let Some((namespace, name)) = text.split_once('/') else {
        return false;
    };
    let key = WorkloadKey::new(namespace, name);
    snapshot.workloads.get(&key).is_some() || snapshot.asked_on_host.contains_key(&key)
}

/// With or without its scheme.
fn is_principal(text: &str) -> bool {
    SpiffeId::parse(text).is_ok() || SpiffeId::parse(&format!("spiffe://{text}")).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::Workload;

    fn refused(pod: Option<&str>, principal: Option<&str>) -> Option<String> {
        let mut snapshot = Snapshot::default();
        let web = Workload::for_test("shop", "web");
        snapshot.workloads.insert(Arc::new(web));
        let on_host = (WorkloadKey::new("shop", "proxy"), "n1".into());
        snapshot.asked_on_host = Arc::new(BTreeMap::from([on_host]));
        let filter = ConnectionFilter {
            pod: pod.map(str::to_owned),
            principal: principal.map(str::to_owned),
            ..ConnectionFilter::default()
        };
        list(ConnectionList::default(), &filter, &snapshot).err()
    }

    #[test]
    fn who_asks_for_a_pod_or_a_principal_that_there_is_not_is_told_so() {
        for pod in ["shop/web", "shop/proxy"] {
            assert_eq!(refused(Some(pod), None), None, "{pod} is only idle");
        }
        for pod in ["nope", "", "web", "shop/nope"] {
            let why = refused(Some(pod), None).expect(pod);
            assert!(
                why.contains("nothing matches") && why.contains(pod),
                "{why}"
            );
        }
        for principal in ["spiffe://a.b/ns/x/sa/y", "a.b/ns/x/sa/y"] {
            assert_eq!(refused(None, Some(principal)), None, "{principal}");
        }
        for principal in ["x", "", "shop/web", "spiffe://a.b/ns/x"] {
            let why = refused(None, Some(principal)).expect(principal);
            assert!(why.contains("nothing matches"), "{why}");
        }
        assert_eq!(refused(None, None), None);
    }

    #[test]
    fn a_pod_that_has_left_is_listed_while_something_of_it_is_remembered() {
        let info = serde_json::json!({
            "id": "1", "state": "refused", "direction": "", "client": "", "destination": "",
            "security": "", "request_bytes": 0, "response_bytes": 0, "age_seconds": 0.0,
        });
        let found = ConnectionList {
            total: 0,
            connections: vec![serde_json::from_value(info).expect("a connection")],
        };
        let filter = ConnectionFilter {
            pod: Some("shop/left".to_owned()),
            ..ConnectionFilter::default()
        };
        list(found, &filter, &Snapshot::default()).expect("a list");
    }
}
