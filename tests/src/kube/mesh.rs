//! The mesh in the cluster: installed by the first test that needs it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::cluster::{Cluster, NODES, SYSTEM};

/// deploy/ and deploy/uninstall with the images of this build.
const OVERLAY: &str = "tests/kube/mesh";
const UNINSTALL: &str = "tests/kube/uninstall";
/// Not where somebody else has them: a step of its own.
const KINDS: &str = "deploy/components/istio-crds";

/// The installed mesh.
pub struct Mesh {
    pub cluster: &'static Cluster,
    /// What was on each node before.
    before: Vec<Vec<String>>,
    pub applied: Instant,
}

/// The cluster; none where there is none, which counts as skipped.
pub fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(Cluster::of_environment).as_ref();
    if cluster.is_none() {
        skip("kube: no cluster: `cargo xtask test --kube` starts one");
    }
    cluster
}

/// The mesh for one test, where there is a cluster.
pub fn mesh() -> Option<MutexGuard<'static, Mesh>> {
    static MESH: OnceLock<Mutex<Mesh>> = OnceLock::new();
    let cluster = cluster()?;
    let mesh = MESH.get_or_init(|| {
        let mesh = Mesh::new(cluster).expect("the mesh is installed");
        Mutex::new(mesh)
    });
    // What a test that failed left is no worse for the next.
    let mut mesh = mesh.lock().unwrap_or_else(PoisonError::into_inner);
    mesh.ensure().expect("the mesh is installed");
    Some(mesh)
}

fn traces(cluster: &Cluster) -> Result<Vec<Vec<String>>> {
    NODES.map(|node| cluster.traces(node)).into_iter().collect()
}

fn skip(why: &str) {
    println!("SKIPPED {why}");
    let log = std::env::var_os("MESH_SKIP_LOG");
    let file = log.and_then(|log| {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).open(log).ok()
    });
    if let Some(mut file) = file {
        let _told_above = writeln!(file, "SKIPPED {why}");
    }
}

impl Mesh {
    fn new(cluster: &'static Cluster) -> Result<Self> {
        cluster.load_image("mesh-agent")?;
        cluster.load_image("mesh-app")?;
        Ok(Self {
            cluster,
            before: traces(cluster)?,
            applied: Instant::now(),
        })
    }

    /// What is there now is what has to be there afterwards.
    pub fn remember(&mut self) -> Result<()> {
        self.before = traces(self.cluster)?;
        Ok(())
    }

    fn is_there(&self) -> Result<bool> {
        let namespaces = self.cluster.kubectl("get namespaces -o name")?;
        Ok(namespaces.contains(&format!("namespace/{SYSTEM}")))
    }

    /// Installs it where it is not, and waits until it is there.
    fn ensure(&mut self) -> Result<()> {
        if !self.is_there()? {
            self.install()?;
        }
        self.wait_rolled_out()
    }

    pub fn install(&mut self) -> Result<()> {
        self.applied = Instant::now();
        self.kubectl_kustomize("apply", OVERLAY)
    }

    /// Changes what is installed.
    pub fn apply_overlay(&self, overlay: &str) -> Result<()> {
        self.kubectl_kustomize("apply", overlay)
    }

    /// As docs/kubernetes.md says; the kinds of policies stay, and the policies.
    pub fn uninstall(&self) -> Result<()> {
        if !self.is_there()? {
            return Ok(());
        }
        self.kubectl_kustomize("apply", UNINSTALL)?;
        let wait = format!("-n {SYSTEM} rollout status daemonset/mesh-agent --timeout=120s");
        let waited = self.cluster.kubectl(&wait);
        waited.with_context(|| self.cluster.state())?;
        self.kubectl_kustomize("delete", UNINSTALL)
    }

    /// The last step, of a cluster without Istio: its kinds, and with them all policies.
    pub fn remove_kinds(&self) -> Result<()> {
        let kinds = self.cluster.file(KINDS);
        let delete = ["delete", "--ignore-not-found", "-k", &kinds];
        self.cluster.kubectl_args(&delete).map(drop)
    }

    fn kubectl_kustomize(&self, verb: &str, overlay: &str) -> Result<()> {
        let overlay = self.cluster.file(overlay);
        self.cluster.kubectl_args(&[verb, "-k", &overlay]).map(drop)
    }

    pub fn wait_rolled_out(&self) -> Result<()> {
        for what in ["deployment/mesh-agent-ca", "daemonset/mesh-agent"] {
            let wait = format!("-n {SYSTEM} rollout status {what} --timeout=120s");
            let waited = self.cluster.kubectl(&wait);
            waited.with_context(|| self.cluster.state())?;
        }
        Ok(())
    }

    /// What is on the nodes that was not before the mesh, or is not any more.
    pub fn left_behind(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        let after = traces(self.cluster)?;
        for ((node, before), after) in NODES.into_iter().zip(&self.before).zip(&after) {
            let after: BTreeSet<&String> = after.iter().collect();
            let before: BTreeSet<&String> = before.iter().collect();
            let new = after
                .difference(&before)
                .map(|l| format!("node{node}: + {l}"));
            all.extend(new);
            let gone = before
                .difference(&after)
                .map(|l| format!("node{node}: - {l}"));
            all.extend(gone);
        }
        Ok(all)
    }
}
