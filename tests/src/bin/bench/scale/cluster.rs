//! A cluster of many pods as a directory: one file a namespace.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;

const PODS_PER_SERVICE: usize = 10;
const PODS_PER_NODE: usize = 50;
/// Of pods, and of virtual addresses.
const NETWORKS: [u32; 2] = [0x0a00_0000, 0x6440_0000];

/// What a change changes; each in a namespace's file, as an editor would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Another port of a Service.
    Service,
    /// One endpoint of a slice is not ready any more, or again.
    Endpoint,
    /// Another caller that a policy allows.
    Policy,
}

impl Change {
    pub(crate) const ALL: [Self; 3] = [Self::Service, Self::Endpoint, Self::Policy];
}

/// The directory, and what changed in it so far.
pub(crate) struct Cluster {
    dir: PathBuf,
    pub(crate) pods: usize,
    pods_per_namespace: usize,
    /// How often each kind was changed; odd is the other form.
    changes: [usize; 3],
}

impl Cluster {
    /// Writes all of it.
    pub(crate) fn create(dir: &Path, pods: usize, pods_per_namespace: usize) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let cluster = Self {
            dir: dir.to_owned(),
            pods,
            pods_per_namespace,
            changes: [0; 3],
        };
        for namespace in 0..cluster.namespaces() {
            cluster.write(namespace)?;
        }
        Ok(cluster)
    }

    pub(crate) fn namespaces(&self) -> usize {
        self.pods.div_ceil(self.pods_per_namespace)
    }

    pub(crate) fn services(&self) -> usize {
        self.all().map(|n| self.services_of(n)).sum()
    }

    /// One a namespace of 100 pods.
    pub(crate) fn policies(&self) -> usize {
        self.all().map(|n| self.policies_of(n)).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        let sizes = self.all().map(|n| fs::metadata(self.file(n)));
        sizes.filter_map(|m| Some(m.ok()?.len())).sum()
    }

    /// Changes one object, in the middle of the directory; takes effect whole.
    pub(crate) fn change(&mut self, change: Change) -> Result<()> {
        self.changes[change as usize] += 1;
        self.write(self.namespaces() / 2)
    }

    /// A pod and a Service that are far from each other, and the pod's identity.
    pub(crate) fn question(&self) -> [String; 3] {
        let service = format!("ns-{}/svc-0", self.namespaces() - 1);
        let identity = "spiffe://cluster.local/ns/ns-0/sa/app-0".to_owned();
        ["ns-0/pod-0".to_owned(), identity, service]
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.namespaces()
    }

    fn pods_of(&self, namespace: usize) -> usize {
        let before = namespace * self.pods_per_namespace;
        self.pods_per_namespace.min(self.pods - before)
    }

    fn services_of(&self, namespace: usize) -> usize {
        self.pods_of(namespace).div_ceil(PODS_PER_SERVICE)
    }

    fn policies_of(&self, namespace: usize) -> usize {
        self.pods_of(namespace).div_ceil(100)
    }

    fn file(&self, namespace: usize) -> PathBuf {
        self.dir.join(format!("ns-{namespace}.yaml"))
    }

    fn write(&self, namespace: usize) -> Result<()> {
        let new = self.dir.join("new");
        fs::write(&new, self.yaml(namespace))?;
        fs::rename(&new, self.file(namespace))?;
        Ok(())
    }

    fn yaml(&self, namespace: usize) -> String {
        let changed = if namespace == self.namespaces() / 2 {
            self.changes
        } else {
            [0; 3]
        };
        let is_changed = |change: Change, index| index == 0 && changed[change as usize] % 2 == 1;
        let mut text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns-{namespace}\n  labels: {{mesh-agent.io/enrolled: \"true\"}}\n"
        );
        for pod in 0..self.pods_of(namespace) {
            text.push_str(&self.pod(namespace, pod));
        }
        for service in 0..self.services_of(namespace) {
            let port = 80 + u16::from(is_changed(Change::Service, service));
            text.push_str(&self.service(namespace, service, port));
            let ready = !is_changed(Change::Endpoint, service);
            text.push_str(&self.slice(namespace, service, ready));
        }
        for policy in 0..self.policies_of(namespace) {
            let other = is_changed(Change::Policy, policy);
            text.push_str(&policy_yaml(namespace, policy, other));
        }
        text
    }

    fn pod_ip(&self, namespace: usize, pod: usize) -> Ipv4Addr {
        address(0, namespace * self.pods_per_namespace + pod)
    }

    fn pod(&self, namespace: usize, pod: usize) -> String {
        let number = namespace * self.pods_per_namespace + pod;
        let (app, node) = (pod / PODS_PER_SERVICE, number / PODS_PER_NODE);
        let ip = self.pod_ip(namespace, pod);
        format!(
            "---
apiVersion: v1
kind: Pod
metadata:
  name: pod-{pod}
  namespace: ns-{namespace}
  uid: 6fa459ea-ee8a-3ca4-894e-{number:012x}
  resourceVersion: \"{number}\"
  labels: {{app: app-{app}, pod-template-hash: 5d4f8c7b9c, version: v1}}
  annotations: {{example.com/checksum: \"{number:016x}\"}}
  ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: app-{app}-5d4f8c7b9c, uid: 1b4e28ba, controller: true}}]
spec:
  nodeName: node-{node}
  serviceAccountName: app-{app}
  containers:
  - name: app
    image: registry.example.com/app:v1
    ports: [{{name: http, containerPort: 8080}}]
    resources: {{requests: {{cpu: 100m, memory: 128Mi}}}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}
"
        )
    }

    fn service(&self, namespace: usize, service: usize, port: u16) -> String {
        let vip = address(
            1,
            namespace * self.pods_per_namespace.div_ceil(PODS_PER_SERVICE) + service,
        );
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: svc-{service}, namespace: ns-{namespace}}}
spec:
  type: ClusterIP
  clusterIP: {vip}
  clusterIPs: [{vip}]
  selector: {{app: app-{service}}}
  ports: [{{name: http, port: {port}, targetPort: http, protocol: TCP}}]
"
        )
    }

    fn slice(&self, namespace: usize, service: usize, first_ready: bool) -> String {
        let mut text = format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: svc-{service}-x7b2c
  namespace: ns-{namespace}
  labels: {{kubernetes.io/service-name: svc-{service}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
"
        );
        let first = service * PODS_PER_SERVICE;
        let end = (first + PODS_PER_SERVICE).min(self.pods_of(namespace));
        for pod in first..end {
            let (ip, ready) = (self.pod_ip(namespace, pod), pod > first || first_ready);
            // Into a String: cannot fail.
            let _ = writeln!(
                text,
                "- {{addresses: [{ip}], conditions: {{ready: {ready}}}, zone: z1, targetRef: {{kind: Pod, name: pod-{pod}, namespace: ns-{namespace}}}}}"
            );
        }
        text
    }
}

fn address(network: usize, number: usize) -> Ipv4Addr {
    // Not .0 of the network.
    let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
    Ipv4Addr::from(NETWORKS[network] + number)
}

/// Two rules, of which only the second one changes.
fn policy_yaml(namespace: usize, policy: usize, other: bool) -> String {
    let caller = if other { "app-8" } else { "app-9" };
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow-{policy}, namespace: ns-{namespace}}}
spec:
  selector: {{matchLabels: {{app: app-{policy}}}}}
  action: ALLOW
  rules:
  - from: [{{source: {{namespaces: [ns-0, ns-{namespace}]}}}}]
    to: [{{operation: {{ports: [\"8080\"]}}}}]
  - from: [{{source: {{principals: [cluster.local/ns/ns-1/sa/{caller}]}}}}]
"
    )
}
