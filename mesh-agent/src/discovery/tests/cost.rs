//! A change costs what it touches: counted in what is looked at, not in time.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use super::Changing;
use crate::model::Snapshot;

const PODS: usize = 10;

/// One namespace with its pods, a Service with a slice, and a policy.
fn namespace(number: usize, port: u16, ready: bool, label: &str) -> String {
    let ns = format!("ns-{number}");
    let ip = |pod: usize| format!("10.{}.{}.{}", number / 250, number % 250, pod + 1);
    let mut text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {ns}, labels: {{mesh-agent.io/enrolled: \"true\"}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {ns}}}\n\
         spec: {{clusterIP: 10.255.{}.{}, selector: {{app: web}}, ports: [{{port: {port}, targetPort: 8080}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {ns}}}\n\
         spec: {{rules: [{{from: [{{source: {{namespaces: [{ns}]}}}}]}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{port: 8080}}]\n\
         metadata: {{name: web-1, namespace: {ns}, labels: {{kubernetes.io/service-name: web}}}}\nendpoints:\n",
        number / 250,
        number % 250
    );
    for pod in 0..PODS {
        let ready = ready || pod > 0;
        // Into a String: cannot fail.
        let _ = writeln!(
            text,
            "- {{addresses: [{}], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: p{pod}}}}}",
            ip(pod)
        );
    }
    for pod in 0..PODS {
        let label = if pod == 0 { label } else { "v1" };
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{pod}, namespace: {ns}, labels: {{app: web, version: {label}}}}}\n\
             spec: {{nodeName: n{number}}}\nstatus: {{podIP: {}}}",
            ip(pod)
        );
    }
    text
}

fn cluster(namespaces: usize) -> Changing {
    let mut config = Changing::default();
    let now = Instant::now();
    for number in 0..namespaces {
        let text = namespace(number, 80, true, "v1");
        config.say(&format!("{number}.yaml"), &text, now);
    }
    config
}

/// Of which parts of the snapshot are not the very same any more.
fn copied(before: &Snapshot, after: &Snapshot) -> usize {
    let pods = before.workloads.values();
    let pods = pods.filter(|w| {
        let now = after.workloads.get(&w.key);
        now.is_none_or(|now| !Arc::ptr_eq(now, w))
    });
    let services = before.services.values();
    let services = services.filter(|s| {
        let now = after.services.get(&s.key);
        now.is_none_or(|now| !Arc::ptr_eq(now, s))
    });
    pods.count() + services.count()
}

#[test]
fn one_change_costs_the_same_in_a_small_and_in_a_large_cluster() {
    let changed = |size: usize, change: (u16, bool, &str)| {
        let mut config = cluster(size);
        let (before, work) = (config.store.snapshot().clone(), config.store.work());
        let text = namespace(size / 2, change.0, change.1, change.2);
        let file = format!("{}.yaml", size / 2);
        let after = config.say(&file, &text, Instant::now());
        (config.store.work() - work, copied(&before, &after))
    };
    for (change, copies) in [
        ((81, true, "v1"), 1),
        ((80, false, "v1"), 1),
        ((80, true, "v2"), 2),
        ((80, true, "v1"), 0),
    ] {
        let (small, large) = (changed(4, change), changed(200, change));
        assert_eq!(small, large, "{change:?}");
        assert_eq!(large.1, copies, "{change:?}");
    }
}
