//! What the demo's steps act on.

use std::path::PathBuf;
use std::time::Duration;

use crate::http;
use anyhow::{Context as _, Result, bail};
use mesh_tests::{Agent, Authority, OnAgentDown, Pod, PodSpec, Port, Target, World};

/// Port of the load server, at every place.
pub(crate) const LOAD_PORT: u16 = 9000;
/// Of certificates: so short that the demo sees them replaced.
const LIFETIME: &str = "12s";

/// nginx in a pod with a Service of its own, and one of all versions.
pub(crate) struct Version {
    pub(crate) pod: Pod,
    /// It answers 503 while there is such a file.
    pub(crate) broken: PathBuf,
}

pub(crate) struct Scene {
    pub(crate) world: World,
    /// Client on n1.
    pub(crate) web: Pod,
    /// python's server, on n1.
    pub(crate) files: Pod,
    /// nginx, on n2.
    pub(crate) api: Pod,
    /// nginx on n2, and not enrolled.
    pub(crate) outside: Pod,
    /// Client on n2.
    pub(crate) job: Pod,
    /// Two versions of a shop, on n2.
    pub(crate) shop: [Version; 2],
    /// What is shown below the table.
    pub(crate) shown: Vec<String>,
    /// None while it is dead.
    pub(crate) near: Option<Agent>,
    pub(crate) far: Agent,
    pub(crate) authority: Authority,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let mut world = World::new(2)?;
        mesh_tests::on_interrupt(world.remains());
        let ports = || {
            vec![
                Port::new("http", 80, Target::Named("http", mesh_tests::APP_PORT)),
                Port::new("load", LOAD_PORT, Target::Number(LOAD_PORT)),
            ]
        };
        let mut enrolled = |node, name| {
            let spec = PodSpec::new(node, name).ports(ports());
            world.add(&spec.enrolled(OnAgentDown::Closed))
        };
        let web = enrolled("n1", "web")?;
        let files = enrolled("n1", "files")?;
        let api = enrolled("n2", "api")?;
        let job = enrolled("n2", "job")?;
        let mut version = |name| {
            let spec = PodSpec::new("n2", name)
                .ports(ports())
                .label("tier", "shop")
                .only_v4();
            world.add(&spec.enrolled(OnAgentDown::Closed))
        };
        let versions = [version("shop-v1")?, version("shop-v2")?];
        let outside = world.add(&PodSpec::new("n2", "outside").ports(ports()))?;
        world.python_http(&files, mesh_tests::APP_PORT)?;
        world.nginx(&api, mesh_tests::APP_PORT)?;
        world.nginx(&outside, mesh_tests::APP_PORT)?;
        let mut shop = |pod: Pod| -> Result<Version> {
            let broken = world.nginx_that_breaks(&pod, mesh_tests::APP_PORT)?;
            Ok(Version { pod, broken })
        };
        let [v1, v2] = versions;
        let shop = [shop(v1)?, shop(v2)?];
        world.write_config("shop", &http::service())?;
        for pod in [&files, &api, &outside] {
            let mut serve = world.app(pod);
            serve.args(["load-server", &LOAD_PORT.to_string()]);
            world.start_and_read(serve, "serving")?;
        }
        let authority = world.authority(&["--default-lifetime", LIFETIME])?;
        let near = Some(world.secure_agent("n1", &authority, &[])?);
        let far = world.secure_agent("n2", &authority, &[])?;
        Ok(Self {
            world,
            web,
            files,
            api,
            outside,
            job,
            shop,
            shown: Vec::new(),
            near,
            far,
            authority,
        })
    }

    pub(crate) fn near(&self) -> Result<&Agent> {
        self.near.as_ref().context("the agent of n1 is not running")
    }

    /// The body that curl gets, or its error.
    pub(crate) fn curl(&self, from: &Pod, url: &str) -> Result<String> {
        let out = self
            .world
            .in_pod(from, "curl")
            .args(["-gsS", "--fail", "--max-time", "5", url])
            .output()
            .context("start curl")?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// 64 bytes there and back on one connection, for a while.
    pub(crate) fn echo(&self, to: &str) -> Result<serde_json::Value> {
        let out = self
            .world
            .app(&self.web)
            .args(["load", "echo", to, "--millis", "500"])
            .output()?;
        mesh_tests::parse(&out)
    }

    pub(crate) fn where_to_look(&self) -> Result<String> {
        let near = self.near()?;
        Ok(format!(
            "where to look\n  metrics     {}\n              {}\n  access log  {}\n  state       \
             mesh-agent status --run-dir {run}\n  why         \
             mesh-agent explain shop/{} service/shop/{} 80 --run-dir {run}\n",
            near.metrics_command(),
            self.far.metrics_command(),
            self.world.access_log("n1").display(),
            self.web.name,
            self.api.name,
            run = near.run_dir().display(),
        ))
    }

    pub(crate) fn to_try(&self) -> String {
        let [vip4, vip6] = self.api.vips();
        format!(
            "things to try\n  ip netns exec {web} curl -s http://{vip4}/        \
             (not in the node's cgroup: not captured, so the VIP is nobody's)\n  \
             sh -c 'echo $$ > {cgroup}/cgroup.procs; exec ip netns exec {web} curl -s http://{vip4}/'\n  \
             sh -c 'echo $$ > {cgroup}/cgroup.procs; exec ip netns exec {web} curl -gs http://{vip6}/'\n  \
             ip netns exec {api} tcpdump -ni eth0 tcp\n  \
             ls {config}    (change a file: it takes effect at once)\n",
            web = self.web.netns(),
            api = self.api.netns(),
            cgroup = self.web.cgroup().display(),
            config = self.world.config_dir().display(),
        )
    }

    /// Connections that an agent carried, by source pod.
    pub(crate) fn carried(&self, agent: &Agent, from: &Pod) -> Result<f64> {
        let label = format!("source_workload=\"{}\"", from.name);
        agent.metric("istio_tcp_connections_opened_total", &label)
    }

    pub(crate) fn restart_near(&mut self) -> Result<Duration> {
        let start = std::time::Instant::now();
        let args = self.authority.agent_args("n1")?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.near = Some(self.world.spawn_agent("n1", &args)?);
        let [vip, _] = self.api.vips();
        let url = format!("http://{vip}/");
        let again = mesh_tests::eventually(Duration::from_secs(5), || {
            self.curl(&self.web, &url).is_ok()
        });
        if !again {
            bail!("not back after 5 s");
        }
        Ok(start.elapsed())
    }
}
