//! Who says of an object how it fares, and the task that writes it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cluster::{Access, Client};
use crate::discovery;
use crate::status::{self, Condition, Judge, Verdict};

/// What is judged.
const LISTS: [&str; 2] = [
    "/apis/security.istio.io/v1/authorizationpolicies",
    "/apis/security.istio.io/v1/peerauthentications",
];
/// Mistakes that are told of one object.
const TOLD: usize = 5;

/// By the reader that the agents read with.
struct Reader;

impl Judge for Reader {
    fn judge(&self, json: &str) -> Verdict {
        Verdict {
            conditions: vec![accepted(&discovery::mistakes("object", json.as_bytes()))],
        }
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
        lists: LISTS.to_vec(),
    };
    status::run(api, Arc::new(Reader), config, cancel).await;
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
        let said = |spec| Reader.judge(&policy(spec).to_string()).conditions.remove(0);
        let good = said(json!({"action": "ALLOW", "rules": rules}));
        assert!(good.holds, "{good:?}");
        let bad = said(json!({"action": "ALLOW", "rules": rules, "rule": []}));
        assert!(!bad.holds && bad.reason == "Invalid", "{bad:?}");
        assert!(bad.message.contains("rule"), "{bad:?}");
    }
}
