//! Pods whose runtime class is a sandbox: by the name of the class, and by the handler
//! that it leads to.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{Said, Store, build, parse};
use crate::discovery::objects::Object;
use crate::model::Snapshot;

fn objects(text: &str) -> Vec<Arc<Object>> {
    parse(Path::new("a.yaml"), text.as_bytes()).0
}

fn pod(class: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, labels: {{mesh-agent.io/enrolled: \"true\"}}}}\n\
         spec: {{nodeName: n1, runtimeClassName: {class}}}\nstatus: {{phase: Running, podIP: 10.0.0.5}}\n"
    )
}

fn class(name: &str, handler: &str) -> String {
    format!(
        "---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n"
    )
}

/// Why the one pod cannot be the mesh's; empty where it can.
fn unfit(snapshot: &Snapshot) -> String {
    let pod = snapshot.workloads.values().next().expect("the pod");
    assert!(pod.is_enrolled());
    let unfit = pod.on_node.unfit.as_ref();
    unfit.map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_class_is_a_sandbox_by_its_handler_as_by_its_name() {
    let told = |of: &str, classes: &str| {
        let (snapshot, problems) = build(objects(&format!("{}{classes}", pod(of))).iter());
        assert!(problems.is_empty(), "{problems:?}");
        unfit(&snapshot)
    };
    for (of, handler) in [
        ("secure", "runsc"),
        ("secure", "kata-qemu"),
        ("secure", "gVisor"),
        ("kata", "vm"),
    ] {
        let said = told(of, &class(of, handler));
        assert!(said.contains("is a sandbox"), "{of} {handler}: {said:?}");
        assert!(said.contains(of) && said.contains(handler), "{said:?}");
    }
    assert_eq!(told("fast", &class("fast", "runc")), "");
    // Where no class is told at all, as of a directory of pods alone.
    assert_eq!(told("secure", ""), "");
    assert!(told("gvisor", "").contains("is a sandbox"));
    // Where classes are told, one that is not among them may be any.
    let said = told("secure", &class("fast", "runc"));
    assert!(said.contains("secure is not known"), "{said:?}");
    assert_eq!(told("\"\"", &class("fast", "runc")), "");
}

#[test]
fn what_a_class_leads_to_is_not_known_where_it_is_not_understood_or_said_in_two_ways() {
    for classes in [
        class("secure", "[runc]"),
        class("secure", "\"\""),
        class("secure", "runc").replace("handler", "runner"),
        class("secure", "runc") + &class("secure", "crun"),
    ] {
        let (snapshot, _) = build(objects(&(pod("secure") + &classes)).iter());
        let said = unfit(&snapshot);
        assert!(said.contains("secure is not known"), "{classes} {said:?}");
    }
}

#[test]
fn of_a_class_that_is_given_twice_it_is_said_what_counts() {
    let of = |other: &str| {
        let classes = class("secure", "runc") + &class("secure", other);
        let (snapshot, problems) = build(objects(&(pod("secure") + &classes)).iter());
        let [problem] = &problems[..] else {
            panic!("{problems:?}");
        };
        (unfit(&snapshot), problem.to_string())
    };
    let (unfit, problem) = of("crun");
    assert!(
        problem.contains("differently: none of them counts"),
        "{problem}"
    );
    assert!(!problem.contains("ignored"), "{problem}");
    assert!(unfit.contains("given twice"), "{unfit}");
    assert!(
        !unfit.contains("there is no such RuntimeClass, or"),
        "{unfit}"
    );
    let (unfit, problem) = of("runc");
    assert!(
        unfit.is_empty() && problem.contains("this one is ignored"),
        "{problem}"
    );
}

#[test]
fn pods_are_looked_at_again_where_their_class_changes_comes_or_goes() {
    let pods = objects(&pod("secure"));
    let mut store = Store::default();
    store.replace(&Said::NOTHING, &Said::here(&pods));
    let mut before: Vec<Arc<Object>> = Vec::new();
    for (classes, said) in [
        (String::new(), ""),
        (class("secure", "runsc"), "runsc"),
        (class("secure", "runc"), ""),
        (class("fast", "runc"), "not known"),
        (class("secure", "[]"), "not known"),
        (class("secure", "runc") + &class("fast", "runsc"), ""),
        (String::new(), ""),
    ] {
        let now = objects(&classes);
        store.replace(&Said::here(&before), &Said::here(&now));
        store.commit(Instant::now());
        let told = unfit(store.snapshot());
        let is_it = match said {
            "" => told.is_empty(),
            said => told.contains(said),
        };
        assert!(is_it, "{classes}: {told:?}");
        before = now;
    }
}
