//! The mesh's certificate authority, on the first node, and agents that use it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::world::{World, program};
use crate::{Agent, net};

const NAME: &str = "mesh-ca";
const PORT: u16 = 15012;
/// Whom the nodes may vouch for: the pods of suites, and those of the examples of `docs/`.
const ALLOWED: [&str; 6] = [
    "shop/*",
    "admin/*",
    "records/*",
    "tests/*",
    "gateway-conformance-mesh/*",
    "gateway-conformance-mesh-consumer/*",
];

/// A running `mesh-agent ca run`.
pub struct Authority {
    child: Child,
    state: PathBuf,
    tokens: PathBuf,
    address: String,
}

/// Connections between nodes in plaintext: for what is not about TLS.
pub(crate) const PLAINTEXT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: DISABLE}}
";
pub(crate) const PLAINTEXT_FILE: &str = "plaintext";

impl World {
    /// Starts the authority; from now on connections between nodes are mutual TLS.
    pub fn authority(&self, args: &[&str]) -> Result<Authority> {
        let state = self.dir().join("ca");
        let tokens = self.dir().join("tokens");
        fs::create_dir_all(&tokens)?;
        let address = format!("{}:{PORT}", net::node_v4(1));
        let child = start(self, &state, &address, args)?;
        self.remove_config(PLAINTEXT_FILE)?;
        Ok(Authority {
            child,
            state,
            tokens,
            address,
        })
    }

    /// Starts the node's agent with certificates from `authority`, and waits
    /// until it is ready.
    pub fn secure_agent(&self, node: &str, authority: &Authority, args: &[&str]) -> Result<Agent> {
        let identity = authority.agent_args(node)?;
        let mut all: Vec<&str> = identity.iter().map(String::as_str).collect();
        all.extend(args);
        self.agent(node, &all)
    }
}

fn start(world: &World, state: &Path, address: &str, args: &[&str]) -> Result<Child> {
    let program = program();
    let program = program.get_program().to_string_lossy().into_owned();
    let mut child = world
        .on_node("n1", &program)
        .args(["ca", "run", "--listen", address, "--name", NAME])
        .arg("--state-dir")
        .arg(state)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start the authority")?;
    let mut line = String::new();
    let out = child.stdout.take().context("its output")?;
    BufReader::new(out).read_line(&mut line)?;
    if line.is_empty() {
        bail!("the authority did not start");
    }
    Ok(child)
}

impl Authority {
    /// Flags of an agent that gets its certificates here.
    pub fn agent_args(&self, node: &str) -> Result<Vec<String>> {
        let file = self.tokens.join(node);
        if !file.exists() {
            let mut create = vec!["token", "create", "--node", node];
            create.extend(ALLOWED.iter().flat_map(|pods| ["--allow", pods]));
            let token = self.tell(&create)?;
            fs::write(&file, token.stdout)?;
        }
        let root = self.state.join("bundle.pem").display().to_string();
        let token = file.display().to_string();
        let args = [
            "--ca-address",
            &self.address,
            "--ca-server-name",
            NAME,
            "--ca-root",
            &root,
            "--ca-token-file",
            &token,
        ];
        Ok(args.map(str::to_owned).to_vec())
    }

    /// `mesh-agent ca ARGS` on its state; an error when it fails.
    pub fn tell(&self, args: &[&str]) -> Result<Output> {
        let mut command = program();
        command.arg("ca").args(args);
        let out = command.arg("--state-dir").arg(&self.state).output()?;
        if !out.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(out)
    }

    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// After [`Authority::stop`].
    pub fn start_again(&mut self, world: &World, args: &[&str]) -> Result<()> {
        self.child = start(world, &self.state, &self.address, args)?;
        Ok(())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // Stopped already where the test did it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
