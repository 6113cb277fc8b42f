//! Who says of an object how it fares, and the task that writes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{api_callers, route_status};
use crate::ca;
use crate::cluster::{Access, Client};
use crate::discovery;
use crate::identity::report::{Answer, Report};
use crate::model::policy::MeshSettings;
use crate::status::{self, About, Condition, Events, Holds, Judge, Nodes, Verdict, Warning};

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
            holds: Holds::True,
            reason: "Accepted",
            message: "all of it is understood".to_owned(),
        },
        false => Condition {
            kind: "Accepted",
            holds: Holds::False,
            reason: "Invalid",
            message: format!(
                "{}; it is not in force as written: agents go on with its last good version, where they know one",
                message.join("; ")
            ),
        },
    }
}

/// What agents tell of their nodes.
#[derive(Debug, Default)]
pub(super) struct Reported {
    nodes: Arc<Nodes>,
    events: Arc<Events>,
}

impl Reported {
    /// Where agents are, when it can be known.
    pub(super) fn set_agents(&self, handle: ca::Handle) {
        self.nodes.set_agents(Box::new(move || handle.nodes()));
    }
}

impl ca::Reports for Reported {
    fn take(&self, node: &str, report: Report) -> Answer {
        let in_force = report.in_force.into_iter();
        let in_force = in_force.map(|one| status::Said {
            kind: one.kind,
            version: one.version,
            held_back: one.held_back,
        });
        let Some(pace) = self.nodes.take(node, in_force, Instant::now()) else {
            return Answer::default();
        };
        for pod in report.pods {
            self.events.note(Warning {
                about: About {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    namespace: pod.namespace,
                    name: pod.name,
                    uid: pod.uid,
                },
                reason: pod.reason,
                message: pod.message,
                node: node.to_owned(),
                path: String::new(),
            });
        }
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Answer {
            is_taken: true,
            spread_ms: millis(pace.spread),
            again_ms: millis(pace.again),
        }
    }
}

/// Until cancelled. `me`: another one for each replica.
pub(super) async fn write(
    access: Access,
    settings: MeshSettings,
    (namespace, me): (String, String),
    reported: Arc<Reported>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let api = Arc::new(Client::start(&access).await?);
    let config = status::Config {
        namespace,
        me,
        lists: POLICIES.to_vec(),
        by_others: route_status::LISTS.to_vec(),
        beside: route_status::BESIDE.to_vec(),
        nodes: Some(reported.nodes.clone()),
        events: reported.events.clone(),
    };
    let warning = api_callers::warn(api.clone(), settings, config.events.clone(), cancel.clone());
    tokio::join!(
        status::run(api, Arc::new(Reader::default()), config, cancel),
        warning
    );
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
        assert_eq!(good.holds, Holds::True, "{good:?}");
        let bad = said(json!({"action": "ALLOW", "rules": rules, "rule": []}));
        assert!(
            bad.holds == Holds::False && bad.reason == "Invalid",
            "{bad:?}"
        );
        assert!(bad.message.contains("rule"), "{bad:?}");
    }
}
