//! A closed pair on two nodes, its traffic, and whether any of it was open.

use anyhow::{Result, ensure};

use crate::{
    APP_PORT, Agent, Authority, OnAgentDown, PacketCapture, Pod, PodSpec, Steady, World, mesh_mode,
};

/// Closed client and server a on n1 and c on n2, in the mesh; p on n2 outside of
/// it. a calls c, p calls a, all the time.
pub struct ClosedPair {
    pub world: World,
    pub a: Pod,
    pub c: Pod,
    pub p: Pod,
    pub authority: Authority,
    _far: Agent,
}

fn targets(pod: &Pod) -> [String; 2] {
    [
        format!("{}:{APP_PORT}", pod.v4()),
        format!("[{}]:{APP_PORT}", pod.v6()),
    ]
}

impl ClosedPair {
    /// The agent of n1 does not run yet. `enrolled`: else no pod is in the mesh.
    pub fn new(enrolled: bool) -> Result<Self> {
        let mut world = World::new(2)?;
        let spec = |node, name| match enrolled {
            true => PodSpec::new(node, name).enrolled(OnAgentDown::Closed),
            false => PodSpec::new(node, name),
        };
        let a = world.add(&spec("n1", "a"))?;
        let c = world.add(&spec("n2", "c"))?;
        let p = world.add_pod("n2", "p", None)?;
        for pod in [&a, &c] {
            world.serve(pod)?;
        }
        let authority = world.authority(&[])?;
        world.write_config("strict", &mesh_mode("STRICT"))?;
        let far = world.secure_agent("n2", &authority, &[])?;
        Ok(Self {
            world,
            a,
            c,
            p,
            authority,
            _far: far,
        })
    }

    /// a as it is at first.
    #[must_use]
    pub fn spec(&self) -> PodSpec {
        PodSpec::new("n1", "a").enrolled(OnAgentDown::Closed)
    }

    /// Starts the agent of n1.
    pub fn agent(&self, args: &[&str]) -> Result<Agent> {
        self.world.secure_agent("n1", &self.authority, args)
    }

    /// Packets of TCP between the nodes that carry a request of a's, or an
    /// answer of a server's, in plaintext.
    pub fn leaks(&self) -> Result<PacketCapture> {
        self.leaks_of(&[&self.a])
    }

    /// The same with the requests of these pods of n1.
    pub fn leaks_of(&self, pods: &[&Pod]) -> Result<PacketCapture> {
        let begins = |bytes: [u8; 4]| {
            let word = u32::from_be_bytes(bytes);
            format!(
                "(tcp[((tcp[12] & 0xf0) >> 2):4] = {word:#x} or \
                 (ip6[6] = 6 and ip6[(40 + ((ip6[52] & 0xf0) >> 2)):4] = {word:#x}))"
            )
        };
        let sources = pods.iter().flat_map(|pod| [pod.v4(), pod.v6()]);
        let sources: Vec<String> = sources.map(|ip| format!("src host {ip}")).collect();
        let filter = format!(
            "(({}) and {}) or {} or {}",
            sources.join(" or "),
            begins(*b"who "),
            begins(*b"10.7"),
            begins(*b"fd77")
        );
        let wire = self.world.wire("n1");
        self.world.capture_packets("n1", wire, &filter)
    }

    /// Both clients, whatever becomes of their connections.
    pub fn clients(&self) -> Result<[Steady; 2]> {
        Ok([
            self.world.steady(&self.a, &targets(&self.c))?,
            self.world.steady(&self.p, &targets(&self.a))?,
        ])
    }

    /// Both clients; that of a has had answers.
    pub fn load(&self) -> Result<[Steady; 2]> {
        let mut clients = self.clients()?;
        clients[0].wait_for("carried", 20)?;
        Ok(clients)
    }

    /// Clients whose connections pass nobody.
    pub fn direct_load(&self) -> Result<[Steady; 2]> {
        let mut clients = self.clients()?;
        for client in &mut clients {
            client.wait_for("direct", 20)?;
        }
        Ok(clients)
    }

    /// `count` connections of a's to c, until the client is killed.
    pub fn hold(&self, count: usize) -> Result<std::process::Child> {
        self.world.hold(&self.a, &targets(&self.c)[0], count)
    }
}

/// None of the clients' connections came through past the agents, and no byte.
pub fn was_never_open(capture: PacketCapture, load: &mut [Steady]) -> Result<()> {
    for client in load {
        for time in 0..=client.time {
            let tally = client.tally(time)?;
            ensure!(tally["direct"].is_null(), "in time {time}: {tally}");
        }
    }
    let captured = capture.stop()?;
    ensure!(captured.packets == 0, "in plaintext: {:?}", captured.flows);
    Ok(())
}
