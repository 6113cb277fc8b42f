//! Metrics for a Prometheus that is elsewhere.

use std::time::Duration;

use mesh_tests::kube::{Mesh, mesh};

/// A pod that is told to end has half a minute for that.
const LONG: Duration = Duration::from_secs(60);

/// As much of the Prometheus Operator's kinds as deploy/ uses; fields that are not here
/// are refused.
const KINDS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, listKind: PodMonitorList, plural: podmonitors, singular: podmonitor}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              selector:
                type: object
                properties:
                  matchExpressions:
                    type: array
                    items:
                      type: object
                      properties:
                        key: {type: string}
                        operator: {type: string}
                        values: {type: array, items: {type: string}}
              podMetricsEndpoints:
                type: array
                items:
                  type: object
                  properties:
                    path: {type: string}
                    interval: {type: string}
                    scrapeTimeout: {type: string}
                    relabelings:
                      type: array
                      items:
                        type: object
                        properties:
                          sourceLabels: {type: array, items: {type: string}}
                          regex: {type: string}
                          action: {type: string}
                          targetLabel: {type: string}
                          replacement: {type: string}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PrometheusRule, listKind: PrometheusRuleList, plural: prometheusrules, singular: prometheusrule}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              groups:
                type: array
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {type: string}
                    rules:
                      type: array
                      items:
                        type: object
                        required: [expr]
                        properties:
                          alert: {type: string}
                          expr: {type: string}
                          for: {type: string}
                          labels: {type: object, additionalProperties: {type: string}}
                          annotations: {type: object, additionalProperties: {type: string}}
";

const NAMES: &str =
    "crd/podmonitors.monitoring.coreos.com crd/prometheusrules.monitoring.coreos.com";

/// Its kinds, until this is dropped.
pub(crate) struct Operator<'m>(&'m Mesh);

pub(crate) fn prometheus_operator(mesh: &Mesh) -> Operator<'_> {
    mesh.cluster.apply(KINDS).expect("kinds");
    let wait = format!("wait --for=condition=Established {NAMES}");
    mesh.cluster.kubectl(&wait).expect("they are served");
    Operator(mesh)
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        let delete = format!("delete {NAMES} --wait=true");
        // Their objects go with them.
        let _ = self.0.cluster.kubectl(&delete);
    }
}

/// The code and body of an answer to a request from another node.
fn ask(mesh: &Mesh, verb: &str, url: &str) -> (String, String) {
    let code = "\n%{http_code}";
    let curl = ["curl", "-sS", "-m", "5", "-X", verb, "-w", code, url];
    let said = mesh.cluster.in_network(1, &curl).expect("an answer");
    let (body, code) = said.rsplit_once('\n').expect("a code");
    (code.to_owned(), body.to_owned())
}

#[test]
fn metrics_are_scraped_from_another_node_and_nothing_else_is_there() {
    let Some(mesh) = mesh() else { return };
    let _operator = prometheus_operator(&mesh);
    mesh.apply_overlay("tests/kube/mesh-prometheus")
        .expect("applied");
    mesh.wait_rolled_out().expect("ready");
    let at = |page: &str| format!("http://10.250.0.12:15090{page}");
    let (code, metrics) = ask(&mesh, "GET", &at("/metrics"));
    assert_eq!(code, "200", "{metrics}");
    assert!(metrics.contains("\nmesh_agent_ready 1\n"), "{metrics}");
    // All pages and verbs are held by a test of the listener.
    assert_eq!(ask(&mesh, "GET", &at("/status")).0, "404");
    assert_eq!(ask(&mesh, "POST", &at("/metrics")).0, "405");
    // The pages of loopback are still nobody's else.
    let url = "http://10.250.0.12:15020/metrics";
    let refused = mesh.cluster.in_network(1, &["curl", "-sS", "-m", "5", url]);
    let refused = refused.expect_err("refused");
    let not_connected = format!("{refused:#}").contains("exit status: 7");
    assert!(not_connected, "{refused:#}");
    // The authority's pods have theirs.
    let list = "-n mesh-system get pods -l app.kubernetes.io/name=mesh-agent-ca --field-selector status.phase=Running -o jsonpath={.items[*].status.podIP}";
    // One that was replaced is there for a while, and answers nobody any more.
    let mut said = Vec::new();
    let theirs = mesh.cluster.wait_until("their pages", LONG, || {
        let addresses = mesh.cluster.kubectl(list).expect("addresses");
        said.clear();
        for address in addresses.split_whitespace() {
            let url = format!("http://{address}:15090/metrics");
            let page = mesh
                .cluster
                .in_network(1, &["curl", "-sSf", "-m", "5", &url]);
            said.push(page.unwrap_or_else(|error| format!("{error:#}")));
        }
        !said.is_empty() && said.iter().all(|page| page.contains("mesh_ca_"))
    });
    theirs.unwrap_or_else(|error| panic!("{error:#}: {said:?}"));
    mesh.apply_overlay("tests/kube/mesh").expect("applied");
    mesh.wait_rolled_out().expect("ready");
}
