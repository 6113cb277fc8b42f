//! Three endpoints of a Service, a client, and what carries its calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_tests::{APP_PORT, Agents, OnAgentDown, Pod, PodSpec, World, eventually};
use serde_json::Value;

use super::envoy::Envoy;

/// Servers that fail as they are told, and the client; the suite `resilience` has them too.
const SCRIPT: &str = include_str!("../../../../suites/resilience.py");
const PYTHON: &str = "/usr/bin/python3";
const VIP: &str = "10.96.1.1:80";
const SERVERS: [(&str, &str); 3] = [("n1", "b"), ("n2", "c"), ("n2", "d")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// Two agents with mutual TLS, nothing configured.
    Agents,
    /// One Envoy beside the client; least request, outlier detection with its defaults,
    /// but that half of them may be out.
    EnvoyDetects,
    /// The same with round robin alone.
    EnvoyTurns,
}

impl Carrier {
    pub(super) const ALL: [Self; 3] = [Self::Agents, Self::EnvoyDetects, Self::EnvoyTurns];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agents => "agents, defaults",
            Self::EnvoyDetects => "Envoy, outlier detection",
            Self::EnvoyTurns => "Envoy, round robin",
        }
    }
}

pub(super) struct Shop {
    world: World,
    client: Pod,
    envoy: Option<Envoy>,
    agents: Option<Agents>,
}

impl Shop {
    /// Up when it answers.
    pub(super) fn new(carrier: Carrier, envoy: Option<&Path>) -> Result<Self> {
        let mut world = World::new(2)?;
        mesh_tests::on_interrupt(world.remains());
        let spec = |node, name| {
            let spec = PodSpec::new(node, name);
            match carrier {
                Carrier::Agents => spec.enrolled(OnAgentDown::Closed),
                Carrier::EnvoyDetects | Carrier::EnvoyTurns => spec,
            }
        };
        let client = world.add(&spec("n1", "a"))?;
        let mut servers = vec![];
        for (node, name) in SERVERS {
            let pod = world.add(&spec(node, name).label("tier", "s"))?;
            let mode = mode_file(&world, name);
            fs::write(&mode, "ok")?;
            let mut server = world.in_pod(&pod, PYTHON);
            server.args(["-c", SCRIPT, "serve", name, &APP_PORT.to_string()]);
            server.arg(mode);
            world.start_server(&pod, APP_PORT, server)?;
            servers.push(pod);
        }
        world.links_up()?;
        let mut shop = Self {
            world,
            client,
            envoy: None,
            agents: None,
        };
        match carrier {
            Carrier::Agents => shop.agents()?,
            Carrier::EnvoyDetects | Carrier::EnvoyTurns => {
                let program = envoy.context("no Envoy")?;
                let detects = carrier == Carrier::EnvoyDetects;
                shop.envoy = Some(Envoy::start(&shop.world, &servers, detects, program)?);
            }
        }
        let answers = || ["http", "tcp"].iter().all(|kind| shop.answers(kind));
        if !eventually(Duration::from_secs(20), answers) {
            bail!("nothing gets through");
        }
        Ok(shop)
    }

    fn agents(&mut self) -> Result<()> {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop}}\n\
             spec:\n  clusterIP: 10.96.1.1\n  selector: {{tier: s}}\n  \
             ports: [{{port: 80, targetPort: {APP_PORT}}}]\n"
        );
        self.world.write_config("s", &service)?;
        self.agents = Some(Agents::start(&self.world, &[])?);
        Ok(())
    }

    fn answers(&self, kind: &str) -> bool {
        let report = self.script(&["calls", &self.target(kind), kind, "3", "2"]);
        report.is_ok_and(|report| report["results"]["ok"] == 3)
    }

    /// Where a client calls.
    pub(super) fn target(&self, kind: &str) -> String {
        match &self.envoy {
            Some(envoy) => envoy.target(kind),
            None => VIP.to_owned(),
        }
    }

    /// The client's report.
    pub(super) fn script(&self, args: &[&str]) -> Result<Value> {
        let mut client = self.world.in_pod(&self.client, PYTHON);
        let out = client.args(["-c", SCRIPT]).args(args).output()?;
        mesh_tests::parse(&out)
    }

    /// Where it is ejected: when a probe goes there next, and how long it is left alone
    /// between two of them, in seconds.
    pub(super) fn probes(&self, server: &str) -> Result<Option<(f64, f64)>> {
        let Some(agents) = &self.agents else {
            return Ok(None);
        };
        let list = agents[0].ask("/endpoints")?;
        let rows = list["endpoints"].as_array().context("rows")?;
        let is_it = |row: &&Value| row["pod"] == format!("shop/{server}");
        let row = rows.iter().find(is_it).context(server.to_owned())?;
        let seconds = |name: &str| row[name].as_f64();
        Ok(seconds("next_probe_seconds").zip(seconds("probe_interval_seconds")))
    }

    /// From now on the server does so.
    pub(super) fn mode(&self, server: &str, mode: &str) -> Result<()> {
        let file = mode_file(&self.world, server);
        fs::write(&file, mode)?;
        let is = file.with_extension("is");
        let holds = || fs::read_to_string(&is).is_ok_and(|is| is == mode);
        if !eventually(Duration::from_secs(5), holds) {
            bail!("{server} does not go over to {mode}");
        }
        Ok(())
    }
}

fn mode_file(world: &World, server: &str) -> PathBuf {
    world.dir().join(format!("mode-{server}"))
}
