//! Modes: a topology and what carries its traffic, as [`PLANS`] has them.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_tests::{Agent, Authority, OnAgentDown, Pod, PodSpec, World};

use crate::envoy;
use crate::plan::{Carrier, PLANS, Plan};

/// The load server's echo port; bulk is the next, then HTTP/1.1, then HTTP/2.
pub(crate) const PORT: u16 = 9000;
const PORTS: [(&str, u16); 4] = [
    ("echo", PORT),
    ("bulk", PORT + 1),
    ("http", PORT + 2),
    ("grpc", PORT + 3),
];
/// Address of the Service of several servers.
const ALL: &str = "10.96.1.1";
const OPENED: &str = "istio_tcp_connections_opened_total";

pub(crate) struct Mode {
    plan: &'static Plan,
    pub(crate) name: &'static str,
    pub(crate) baseline: &'static str,
    pub(crate) world: World,
    pub(crate) client: Pod,
    /// Where clients connect to: echo, bulk, HTTP/1.1, HTTP/2.
    pub(crate) targets: [String; 4],
    pub(crate) carriers: Vec<Running>,
    /// Ends with the mode.
    _authority: Option<Authority>,
}

/// A process that carries traffic.
pub(crate) struct Running {
    node: &'static str,
    group: &'static str,
    agent: Option<Agent>,
    child: Option<Child>,
}

impl Running {
    pub(crate) fn pid(&self) -> Option<u32> {
        let child = self.child.as_ref().map(Child::id);
        self.agent.as_ref().map(Agent::pid).or(child)
    }

    pub(crate) fn rss(&self) -> Result<u64> {
        mesh_tests::rss(self.pid().context("no process")?)
    }

    pub(crate) fn cpu(&self, world: &World) -> Result<Duration> {
        world.cpu(self.node, self.group)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ended already: nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Mode {
    /// Only there for others to be compared with.
    pub(crate) fn is_baseline(&self) -> bool {
        self.name == self.baseline
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.carriers.is_empty()
    }

    /// The same once more, with carriers that have carried nothing.
    pub(crate) fn again(&self, envoy: Option<&Path>) -> Result<Self> {
        start(self.plan, envoy).with_context(|| format!("start {} again", self.name))
    }

    /// Until connections get through: certificates come after readiness.
    fn wait(&self) -> Result<()> {
        let passes = || {
            let mut load = self.world.app(&self.client);
            load.args(["load", "connections", &self.targets[0]]);
            load.args(["--width", "1", "--millis", "50"]);
            let report = load
                .output()
                .ok()
                .and_then(|out| mesh_tests::parse(&out).ok());
            report.is_some_and(|r| r["units"].as_f64() > Some(0.0) && r["errors"] == 0)
        };
        if !mesh_tests::eventually(Duration::from_secs(20), passes) {
            bail!("nothing gets through: {}", self.why());
        }
        Ok(())
    }

    /// Else another thing would be measured than what the name says. What got through may be
    /// counted a moment later.
    fn is_mutual_tls(&self) -> Result<()> {
        let agents = self.carriers.iter().filter_map(|c| c.agent.as_ref());
        for agent in agents {
            let opened = |label| agent.metric(OPENED, label).is_ok_and(|count| count > 0.0);
            if !mesh_tests::eventually(Duration::from_secs(5), || opened("mutual_tls")) {
                let all = agent.metric(OPENED, "")?;
                bail!("{all} connections, none of them in mutual TLS");
            }
        }
        Ok(())
    }

    /// How connections ended at the agents.
    pub(crate) fn why(&self) -> String {
        let agents = self.carriers.iter().filter_map(|c| c.agent.as_ref());
        let pages = agents.filter_map(|agent| agent.metrics().ok());
        let mut text = String::new();
        for page in pages {
            let ended = page
                .lines()
                .filter(|l| l.contains("connections_ended_total{"));
            text.extend(ended.map(|line| format!("\n{line}")));
        }
        text
    }

    /// Mean time to enrol a pod, where the metrics page tells it.
    pub(crate) fn enrolment_ms(&self) -> Option<f64> {
        let agent = self.carriers.first()?.agent.as_ref()?;
        let page = agent.metrics().ok()?;
        let value = |end: &str| {
            let line = page
                .lines()
                .find(|l| l.starts_with("mesh_agent_") && l.contains("enrol") && l.contains(end))?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let (sum, count) = (value("seconds_sum")?, value("seconds_count")?);
        (count > 0.0).then(|| 1000.0 * sum / count)
    }
}

/// Starts every wanted mode; all live side by side, one at a time has load.
pub(crate) fn start_all(only: Option<&str>, envoy: Option<&Path>) -> Result<Vec<Mode>> {
    let has_carrier = |plan: &&Plan| plan.carrier != Carrier::Envoys || envoy.is_some();
    let wanted: Vec<&Plan> = PLANS
        .iter()
        .filter(has_carrier)
        .filter(|p| only.map_or(!p.setting.is_extra, |only| p.name.contains(only)))
        .collect();
    let is_baseline = |p: &Plan| wanted.iter().any(|w| w.baseline == p.name);
    let is_wanted = |p: &Plan| wanted.iter().any(|w| w.name == p.name);
    PLANS
        .iter()
        .filter(|p| is_wanted(p) || is_baseline(p))
        .map(|plan| start(plan, envoy).with_context(|| format!("start {}", plan.name)))
        .collect()
}

fn start(plan: &'static Plan, envoy: Option<&Path>) -> Result<Mode> {
    let mut world = World::new(2)?;
    mesh_tests::on_interrupt(world.remains());
    let is_enrolled = matches!(plan.carrier, Carrier::Agents | Carrier::SecureAgents);
    let spec = |node, name| {
        let ports = PORTS.map(|(name, port)| {
            mesh_tests::Port::new(name, port, mesh_tests::Target::Number(port))
        });
        let role = if name == "client" { "client" } else { "server" };
        let spec = PodSpec::new(node, name).ports(ports).label("role", role);
        if is_enrolled {
            spec.enrolled(OnAgentDown::Closed)
        } else {
            spec
        }
    };
    let client = world.add(&spec("n1", "client"))?;
    let server = world.add(&spec(plan.server_node, "server"))?;
    // Where there is one endpoint, there is nothing to choose from.
    let others = match plan.setting.is_extra {
        true => &["server-2", "server-3"][..],
        false => &[],
    };
    let others = others.iter().map(|name| spec(plan.server_node, name));
    let others: Vec<Pod> = others.map(|of| world.add(&of)).collect::<Result<_>>()?;
    for place in [(&client).into(), "n1".into(), "n2".into()] {
        many_ports(&world, place)?;
    }
    for pod in std::iter::once(&server).chain(&others) {
        many_ports(&world, pod.into())?;
        let mut serve = world.app(pod);
        serve.args(["load-server", &PORT.to_string()]);
        world.start_and_read(serve, "serving")?;
    }
    world.links_up()?;
    let ports = PORTS.map(|(_, port)| port);
    let mut targets = ports.map(|port| format!("{}:{port}", server.v4()));
    let mut carriers = vec![];
    let mut authority = None;
    match plan.carrier {
        Carrier::Nothing => {}
        Carrier::Agents | Carrier::SecureAgents => {
            let [vip, _] = server.vip_addresses();
            targets = ports.map(|port| format!("{vip}:{port}"));
            if plan.setting.is_extra {
                world.write_config("all", &of_all())?;
                targets = ports.map(|port| format!("{ALL}:{port}"));
            }
            if plan.carrier == Carrier::SecureAgents {
                let configuration = plan.setting.configuration.join("---\n");
                world.write_config("bench", &configuration)?;
                authority = Some(world.authority(&[])?);
            }
            let arguments = plan.setting.arguments;
            for node in nodes(plan) {
                let agent = match &authority {
                    Some(authority) => world.secure_agent(node, authority, arguments)?,
                    None => world.agent(node, arguments)?,
                };
                carriers.push(Running {
                    node,
                    group: "agent",
                    agent: Some(agent),
                    child: None,
                });
            }
        }
        Carrier::Envoys => {
            let program = envoy.context("no Envoy")?;
            targets = envoy::targets();
            for (node, child) in envoy::start(&world, &server, program)? {
                carriers.push(Running {
                    node,
                    group: envoy::GROUP,
                    agent: None,
                    child: Some(child),
                });
            }
        }
    }
    let mode = Mode {
        plan,
        name: plan.name,
        baseline: plan.baseline,
        world,
        client,
        targets,
        carriers,
        _authority: authority,
    };
    mode.wait()?;
    if plan.carrier == Carrier::SecureAgents {
        mode.is_mutual_tls()?;
    }
    Ok(mode)
}

/// The Service `all`, of all servers.
fn of_all() -> String {
    let port = |(name, port)| format!("{{name: {name}, port: {port}, targetPort: {port}}}");
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: all, namespace: shop}}\n\
         spec:\n  clusterIP: {ALL}\n  selector: {{role: server}}\n  ports: [{}]\n",
        PORTS.map(port).join(", ")
    )
}

fn nodes(plan: &Plan) -> &'static [&'static str] {
    match plan.server_node {
        "n1" => &["n1"],
        _ => &["n1", "n2"],
    }
}

/// Else a client that makes 25,000 connections a second has no port left
/// after one, and that is what would be measured. Not below 32768: agents
/// deliver from ports there.
fn many_ports(world: &World, place: mesh_tests::Place<'_>) -> Result<()> {
    world.set_sysctl(place, "net.ipv4.ip_local_port_range", "32768 65535")?;
    world.set_sysctl(place, "net.ipv4.tcp_tw_reuse", "1")
}
