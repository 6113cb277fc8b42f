//! A pod's and its service's Kubernetes YAML.

use std::fmt::Write as _;

use crate::pod::{APP_PORT, Pod};

/// What happens to an enrolled pod's connections without an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAgentDown {
    Closed,
    Open,
}

impl OnAgentDown {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "open" => Self::Open,
            _ => Self::Closed,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// A service port's target.
#[derive(Clone, Debug)]
pub enum Target {
    Number(u16),
    /// A container port with this name and number.
    Named(&'static str, u16),
}

/// A service port.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: &'static str,
    pub port: u16,
    pub target: Target,
}

impl Port {
    #[must_use]
    pub fn new(name: &'static str, port: u16, target: Target) -> Self {
        Self { name, port, target }
    }

    #[must_use]
    pub fn target_number(&self) -> u16 {
        match self.target {
            Target::Number(n) | Target::Named(_, n) => n,
        }
    }
}

/// The addresses that a pod's document names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Named {
    Both,
    V4,
    V6,
}

/// A pod to be made, with a service of its name in front of it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) enrolled: Option<OnAgentDown>,
    pub(crate) account: String,
    pub(crate) namespace: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) headless: bool,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) uid: Option<String>,
    /// Those of the pod's two addresses that the document names.
    pub(crate) named: Named,
    /// Annotation that says where it lives; its namespace's file if none.
    pub(crate) found_by: Option<(String, String)>,
    /// Its cgroup as a kubelet makes it; then no annotation says where it lives.
    pub(crate) cgroup: Option<String>,
    /// More of its document's `metadata`, `spec`, and of its container's.
    pub(crate) metadata: String,
    pub(crate) spec: String,
    pub(crate) container: String,
}

impl PodSpec {
    /// Not enrolled, service account of its own name, namespace shop, service
    /// port 80 to [`APP_PORT`].
    #[must_use]
    pub fn new(node: &str, name: &str) -> Self {
        Self {
            node: node.to_owned(),
            name: name.to_owned(),
            enrolled: None,
            account: name.to_owned(),
            namespace: "shop".to_owned(),
            ports: vec![Port::new("", 80, Target::Number(APP_PORT))],
            headless: false,
            labels: vec![("app".to_owned(), name.to_owned())],
            annotations: vec![],
            uid: None,
            named: Named::Both,
            found_by: None,
            cgroup: None,
            metadata: String::new(),
            spec: String::new(),
            container: String::new(),
        }
    }

    /// In a cgroup below its node's, of one container, as a kubelet makes it: `{uid}`
    /// stands for its UID, `{uid_}` for the same as systemd writes it. Nothing else
    /// says where it lives.
    #[must_use]
    pub fn kubelet(mut self, cgroup: &str) -> Self {
        self.cgroup = Some(cgroup.to_owned());
        self
    }

    /// Lines of YAML flow for its `metadata`, as `ownerReferences: […]`.
    #[must_use]
    pub fn metadata(mut self, yaml: &str) -> Self {
        let _ = write!(self.metadata, "\n  {yaml}");
        self
    }

    /// Lines of YAML flow for its `spec`, as `hostNetwork: true`.
    #[must_use]
    pub fn spec(mut self, yaml: &str) -> Self {
        let _ = write!(self.spec, "\n  {yaml}");
        self
    }

    /// YAML flow for its container, as `readinessProbe: {…}`.
    #[must_use]
    pub fn container(mut self, yaml: &str) -> Self {
        let _ = write!(self.container, ", {yaml}");
        self
    }

    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    #[must_use]
    pub fn only_v4(mut self) -> Self {
        self.named = Named::V4;
        self
    }

    #[must_use]
    pub fn only_v6(mut self) -> Self {
        self.named = Named::V6;
        self
    }

    #[must_use]
    pub fn enrolled(mut self, down: OnAgentDown) -> Self {
        self.enrolled = Some(down);
        self
    }

    #[must_use]
    pub fn account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.account);
        self
    }

    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    /// Service ports; more than one need names.
    #[must_use]
    pub fn ports(mut self, ports: impl Into<Vec<Port>>) -> Self {
        self.ports = ports.into();
        self
    }

    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Found by `mesh-agent.io/KIND: value` alone.
    #[must_use]
    pub fn found_by(mut self, kind: &str, value: &str) -> Self {
        self.found_by = Some((format!("mesh-agent.io/{kind}"), value.to_owned()));
        self
    }

    pub(crate) fn yaml(&self, pod: &Pod) -> String {
        format!("{}---\n{}", self.pod_yaml(pod), self.service_yaml(pod))
    }

    fn pod_yaml(&self, pod: &Pod) -> String {
        let (v4, v6) = (pod.v4(), pod.v6());
        let mut labels = self.labels.clone();
        if self.enrolled.is_some() {
            labels.push(("mesh-agent.io/enrolled".to_owned(), "true".to_owned()));
        }
        let mut annotations = self.annotations.clone();
        let down = self.enrolled.unwrap_or(OnAgentDown::Closed).as_str();
        let by_path = || {
            let path = format!("/run/netns/{}", pod.netns);
            ("mesh-agent.io/netns".to_owned(), path)
        };
        match &self.found_by {
            Some(by) => annotations.push(by.clone()),
            None if self.cgroup.is_none() => annotations.push(by_path()),
            None => {}
        }
        annotations.push(("mesh-agent.io/on-agent-down".to_owned(), down.to_owned()));
        let mut container_ports = String::new();
        for port in &self.ports {
            if let Target::Named(name, number) = &port.target {
                let _ = write!(
                    container_ports,
                    "{{name: {name}, containerPort: {number}}}, "
                );
            }
        }
        let (v4, v6) = (format!("\"{v4}\""), format!("\"{v6}\""));
        let (ip, ips) = match self.named {
            Named::Both => (&v4, format!("{{ip: {v4}}}, {{ip: {v6}}}")),
            Named::V4 => (&v4, format!("{{ip: {v4}}}")),
            Named::V6 => (&v6, format!("{{ip: {v6}}}")),
        };
        let uid = self.uid.as_ref().or(pod.uid.as_ref());
        let uid = uid.map(|uid| format!("\n  uid: {uid}"));
        let uid = uid.unwrap_or_default();
        format!(
            r#"apiVersion: v1
kind: Pod
metadata:
  name: {name}{uid}
  namespace: {namespace}
  labels: {labels}
  annotations: {annotations}{metadata}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  containers: [{{name: app, ports: [{container_ports}]{container}}}]{spec}
status: {{phase: Running, podIP: {ip}, podIPs: [{ips}]}}
"#,
            name = self.name,
            namespace = self.namespace,
            labels = map(&labels),
            annotations = map(&annotations),
            node = self.node,
            account = self.account,
            container = self.container,
            metadata = self.metadata,
            spec = self.spec,
        )
    }

    fn service_yaml(&self, pod: &Pod) -> String {
        let [vip4, vip6] = pod.vip_addresses();
        let addresses = if self.headless {
            "clusterIP: None".to_owned()
        } else {
            format!("clusterIP: {vip4}\n  clusterIPs: [{vip4}, \"{vip6}\"]")
        };
        let mut ports = String::new();
        for port in &self.ports {
            let target = match &port.target {
                Target::Number(n) => n.to_string(),
                Target::Named(name, _) => (*name).to_owned(),
            };
            let name = match port.name {
                "" => String::new(),
                name => format!("name: {name}, "),
            };
            let _ = write!(
                ports,
                "{{{name}port: {}, targetPort: {target}}}, ",
                port.port
            );
        }
        format!(
            r"apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  {addresses}
  selector: {{app: {name}}}
  ports: [{ports}]
",
            name = self.name,
            namespace = self.namespace,
        )
    }
}

/// A YAML flow mapping with quoted values.
fn map(entries: &[(String, String)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(k, v)| format!("{k}: \"{v}\""))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// PeerAuthentication of the whole mesh.
#[must_use]
pub fn mesh_mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

/// A TrafficPolicy for these Services of the namespace `shop`; `says`: the rest of its
/// spec, each line but the first behind two blanks.
#[must_use]
pub fn traffic_policy(name: &str, services: &[&str], says: &str) -> String {
    let target = |service: &&str| format!("{{group: \"\", kind: Service, name: {service}}}");
    let targets: Vec<_> = services.iter().map(target).collect();
    let targets = targets.join(", ");
    format!(
        "apiVersion: mesh-agent.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{targets}]
  {says}
"
    )
}
