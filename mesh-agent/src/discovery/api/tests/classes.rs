//! Runtime classes: who may not read them, or has none of them, is not let pass for that.

use serde_json::{Value, json};

use super::{Agent, pod, server};
use crate::discovery::publish::Update;

fn of_class(name: &str, address: &str, class: &str) -> Value {
    let mut pod = pod(name, address);
    pod["spec"]["runtimeClassName"] = json!(class);
    pod
}

fn class(name: &str, handler: &str) -> Value {
    json!({
        "kind": "RuntimeClass", "apiVersion": "node.k8s.io/v1",
        "metadata": {"name": name}, "handler": handler,
    })
}

/// Why it cannot be the mesh's: `None` where it is not known, empty where it can.
fn unfit(update: &Update, name: &str) -> Option<String> {
    let mut pods = update.snapshot.workloads.values();
    let pod = pods.find(|pod| pod.key.name.as_str() == name)?;
    let unfit = pod.on_node.unfit.as_ref();
    Some(unfit.map(ToString::to_string).unwrap_or_default())
}

fn says(update: &Update, name: &str, what: &str) -> bool {
    unfit(update, name).is_some_and(|said| match what {
        "" => said.is_empty(),
        what => said.contains(what),
    })
}

#[tokio::test]
async fn a_class_that_is_not_among_those_that_are_listed_is_refused_until_it_is() {
    let server = server().await;
    server.put("runtimeclasses", class("secure", "runsc"));
    server.put("runtimeclasses", class("fast", "runc"));
    server.put("pods", of_class("a", "10.0.0.1", "secure"));
    server.put("pods", of_class("b", "10.0.0.2", "fast"));
    server.put("pods", of_class("c", "10.0.0.3", "late"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    agent
        .until("told apart", |update| {
            says(update, "a", "runsc")
                && says(update, "b", "")
                && says(update, "c", "late is not known")
        })
        .await;
    server.put("runtimeclasses", class("late", "runc"));
    agent.until("there", |update| says(update, "c", "")).await;
}

#[tokio::test]
async fn where_the_api_has_no_classes_their_names_decide() {
    let server = server().await;
    server.install("runtimeclasses", false);
    server.put("pods", of_class("a", "10.0.0.1", "secure"));
    server.put("pods", of_class("b", "10.0.0.2", "kata"));
    let dir = tempfile::tempdir().expect("a directory");
    let state_dir = dir.path().join("state");
    let by_name = |update: &Update| says(update, "a", "") && says(update, "b", "kata is a sandbox");
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent.until("by name", by_name).await;
    agent.end().await;
    // Nor did it have any, as the disk knows.
    server.forbid("runtimeclasses", true);
    let mut agent = Agent::start(server.kubeconfig(), &state_dir).await;
    agent.until("by name again", by_name).await;
    server.forbid("runtimeclasses", false);
    server.install("runtimeclasses", true);
    server.put("runtimeclasses", class("secure", "runsc"));
    agent
        .until("by its handler", |update| says(update, "a", "runsc"))
        .await;
}

#[tokio::test]
async fn classes_that_may_not_be_read_keep_out_their_own_pods_alone() {
    let server = server().await;
    server.forbid("runtimeclasses", true);
    server.put("runtimeclasses", class("fast", "runc"));
    server.put("pods", of_class("a", "10.0.0.1", "fast"));
    server.put("pods", pod("b", "10.0.0.2"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut agent = Agent::start(server.kubeconfig(), dir.path()).await;
    agent
        .until("known", |update| {
            says(update, "a", "fast is not known") && says(update, "b", "")
        })
        .await;
    server.forbid("runtimeclasses", false);
    agent.until("read", |update| says(update, "a", "")).await;
}
