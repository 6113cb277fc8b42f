//! One test's namespace, and applications in it.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::cluster::Cluster;
use crate::steady::Steady;
use crate::wait::parse;

/// Where applications serve.
const PORT: u16 = 8080;

/// A namespace, until it is dropped.
pub struct Namespace<'c> {
    pub cluster: &'c Cluster,
    pub name: String,
}

/// A pod of the test application.
pub struct AppPod {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

impl AppPod {
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        self.of_family(IpAddr::is_ipv4)
    }

    #[must_use]
    pub fn v6(&self) -> IpAddr {
        self.of_family(IpAddr::is_ipv6)
    }

    fn of_family(&self, is: impl Fn(&IpAddr) -> bool) -> IpAddr {
        let found = self.addresses.iter().copied().find(|a| is(a));
        found.unwrap_or_else(|| panic!("{} has {:?}", self.name, self.addresses))
    }
}

impl<'c> Namespace<'c> {
    /// Enrolled, unless `enrolled` is false.
    pub fn new(cluster: &'c Cluster, name: &str, enrolled: bool) -> Result<Self> {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{mesh-agent.io/enrolled: \"{enrolled}\"}}}}\n"
        ))?;
        let name = name.to_owned();
        Ok(Self { cluster, name })
    }

    /// Objects of this namespace: `@NS@` stands for its name.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.apply(&yaml.replace("@NS@", &self.name))
    }

    /// Would the API server take them?
    pub fn try_apply(&self, yaml: &str) -> Result<()> {
        self.cluster.try_apply(&yaml.replace("@NS@", &self.name))
    }

    /// A pod of the test application that serves, and its Service of the same name
    /// on port 80; its account has the same name, too.
    pub fn add_app(&self, name: &str, node: usize) -> Result<()> {
        self.apply(&app(name, node))
    }

    /// Waits until it is ready, and says where it is.
    pub fn app(&self, name: &str) -> Result<AppPod> {
        self.wait_ready(name)?;
        let pod = self.get(&format!("pod {name}"))?;
        let ips = pod["status"]["podIPs"]
            .as_array()
            .context("its addresses")?;
        let addresses = ips
            .iter()
            .map(|ip| Ok(ip["ip"].as_str().context("an address")?.parse()?))
            .collect::<Result<_>>()?;
        Ok(AppPod {
            namespace: self.name.clone(),
            name: name.to_owned(),
            addresses,
        })
    }

    pub fn wait_ready(&self, name: &str) -> Result<()> {
        let wait = format!(
            "-n {} wait --for=condition=Ready pod/{name} --timeout=60s",
            self.name
        );
        let waited = self.cluster.kubectl(&wait);
        waited.map(drop).with_context(|| self.cluster.state())
    }

    pub fn get(&self, what: &str) -> Result<Value> {
        self.cluster.get(&format!("-n {} {what}", self.name))
    }

    /// The Service's address of that family.
    pub fn vip(&self, service: &str) -> Result<String> {
        let service = self.get(&format!("service {service}"))?;
        let ip = service["spec"]["clusterIP"].as_str();
        Ok(ip.context("its address")?.to_owned())
    }

    /// The test application, run in that pod.
    #[must_use]
    pub fn run_app(&self, pod: &str, args: &[&str]) -> Command {
        let mut all = vec!["-n", &self.name, "exec", "-i", pod, "--", "/mesh-app"];
        all.extend(args);
        self.cluster.kubectl_command(&all)
    }

    /// `count` checked connections from the pod; what became of them.
    pub fn storm(&self, pod: &str, targets: &[String], count: usize) -> Result<Value> {
        let count = count.to_string();
        let mut args = vec!["storm", "--count", &count, "--inflight", "2"];
        args.extend(targets.iter().map(String::as_str));
        parse(&self.run_app(pod, &args).output()?)
    }

    /// A client in the pod that connects all the time, 200 times a second: it has ports
    /// for more than two minutes of that.
    pub fn steady(&self, pod: &str, targets: &[String]) -> Result<Steady> {
        self.steady_at("200", pod, targets)
    }

    /// As many a second as `rate` says.
    pub fn steady_at(&self, rate: &str, pod: &str, targets: &[String]) -> Result<Steady> {
        let mut args = vec!["steady", "--rate", rate];
        args.extend(targets.iter().map(String::as_str));
        self.steady_with(pod, &args)
    }

    /// The test application's mode `steady`, as these arguments say.
    pub fn steady_with(&self, pod: &str, args: &[&str]) -> Result<Steady> {
        Steady::start(self.run_app(pod, args))
    }

    /// Ends it, and waits until nothing of it is left.
    pub fn delete(self) -> Result<()> {
        let name = self.name.clone();
        let delete = format!("delete namespace {name} --timeout=60s");
        self.cluster.kubectl(&delete).map(drop)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let delete = format!("delete namespace {} --wait=false", self.name);
        // Gone already where the test deleted it.
        let _ = self.cluster.kubectl(&delete);
    }
}

fn app(name: &str, node: usize) -> String {
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: @NS@}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: @NS@}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{app: {name}}}
  ports: [{{name: app, port: 80, targetPort: {PORT}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: @NS@, labels: {{app: {name}}}}}
spec:
  nodeName: node{node}
  serviceAccountName: {name}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: cluster.local/mesh-app:dev
    imagePullPolicy: Never
    args: [serve, \"{PORT}\"]
"
    )
}
