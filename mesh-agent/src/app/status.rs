//! Who says of an object how it fares, and the task that writes it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::route_status;
use crate::cluster::{Access, Client};
use crate::discovery;
use crate::status::{self, Condition, Judge, Verdict};

/// What is judged.
const POLICIES: [&str; 2] = [
    "/apis/security.istio.io/v1/authorizationpolicies",
    "/apis/security.istio.io/v1/peerauthentications",
];
/// Mistakes that are told of one object.
const TOLD: usize = 5;

/// By the reader that the agents read with.
#[derive(Default)]
struct Reader {
    routes: route_status::Routes,
}

impl Judge for Reader {
    fn hear(&self, path: &str, json: Option<&str>) -> Vec<String> {
        self.routes.hear(path, json)
    }

    fn judge(&self, path: &str, json: &str) -> Verdict {
        if let Some(verdict) = self.routes.judge(path, json) {
            return verdict;
        }
        let mistakes = discovery::mistakes("object", json.as_bytes());
        Verdict::Conditions(vec![accepted(&mistakes)])
    }
}

fn accepted(mistakes: &[String]) -> Condition {
    let mut message = mistakes.iter().take(TOLD).cloned().collect::<Vec<_>>();
    if let more @ 1.. = mistakes.len().saturating_sub(TOLD) {
        message.push(format!("and {more} more"));
    }
    match mistakes.is_empty() {
        true => Condition {
            kind: "Accepted",
            holds: true,
            reason: "Accepted",
            message: "all of it is understood".to_owned(),
        },
        false => Condition {
            kind: "Accepted",
            holds: false,
            reason: "Invalid",
            message: format!(
                "{}; it is not in force as written: agents go on with its last good version, where they know one",
                message.join("; ")
            ),
        },
    }
}

/// Until cancelled. `me`: another one for each replica.
pub(super) async fn write(
    access: Access,
    namespace: String,
    me: String,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let api = Arc::new(Client::start(&access).await?);
    let config = status::Config {
        namespace,
        me,
        lists: POLICIES.to_vec(),
        by_others: route_status::LISTS.to_vec(),
        beside: route_status::BESIDE.to_vec(),
    };
    status::run(api, Arc::new(Reader::default()), config, cancel).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> Value {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {
                "name": "a", "namespace": "shop", "generation": 2, "resourceVersion": "7",
                "uid": "u", "managedFields": [{"manager": "kubectl"}],
            },
            "spec": spec,
            "status": {"conditions": [{"type": "Reconciled", "status": "True"}]},
        })
    }

    #[test]
    fn a_policy_that_is_understood_is_accepted_and_a_mistake_is_named_with_its_field() {
        let rules = json!([{"from": [{"source": {"namespaces": ["shop"]}}]}]);
        let path = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/a";
        let said = |spec| match Reader::default().judge(path, &policy(spec).to_string()) {
            Verdict::Conditions(mut all) => all.remove(0),
            other => panic!("{other:?}"),
        };
        let good = said(json!({"action": "ALLOW", "rules": rules}));
        assert!(good.holds, "{good:?}");
        let bad = said(json!({"action": "ALLOW", "rules": rules, "rule": []}));
        assert!(!bad.holds && bad.reason == "Invalid", "{bad:?}");
        assert!(bad.message.contains("rule"), "{bad:?}");
    }
}
