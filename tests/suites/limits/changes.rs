//! What becomes of who waits for a place when that changes which they wait for.

use std::time::{Duration, Instant};

use mesh_tests::{Pod, eventually};

use super::{Mesh, PYTHON, SCRIPT};

impl Mesh {
    /// How many wait for a place now.
    pub(super) fn waits(&self) -> f64 {
        let waits = self.agents[0].metric("mesh_agent_pending ", "");
        waits.expect("a metric")
    }

    /// Two requests to the server, one of which has the only place for some seconds, and what
    /// is done while the other one waits: status and time of each.
    fn meanwhile(&self, server: &Pod, then: impl FnOnce()) -> Vec<(u64, f64)> {
        std::thread::scope(|scope| {
            let both = scope.spawn(|| {
                let args = ["crowd", &server.vips()[0], "2", "6"];
                self.client(&self.clients[0], &args)
            });
            assert!(eventually(Duration::from_secs(20), || self.waits() == 1.0));
            then();
            let told = both.join().expect("it ran");
            let told = told.as_array().expect("answers").iter();
            told.map(|one| {
                let (status, at) = (one[0].as_u64(), one[2].as_f64());
                (status.expect("a status"), at.expect("a time"))
            })
            .collect()
        })
    }
}

#[test]
fn who_waits_gets_a_place_when_the_limit_is_raised_and_so_does_who_comes() {
    let mesh = Mesh::new("serve");
    for server in &mesh.servers {
        for raised in [
            "limits: {maxRequests: 9, maxPendingRequests: 1}",
            "limits: {maxPendingRequests: 0}",
        ] {
            mesh.says("limits: {maxRequests: 1, maxPendingRequests: 1, maxPendingTime: 20s}");
            let told = mesh.meanwhile(server, || {
                mesh.says(raised);
                assert!(eventually(Duration::from_secs(20), || mesh.waits() == 0.0));
                let asked = Instant::now();
                assert_eq!(mesh.some(1, server, 1, &[]), [200], "{raised}");
                assert!(asked.elapsed() < Duration::from_secs(2), "{raised}");
            });
            // Six seconds each: one behind the other would take twelve.
            let is_served = told.iter().all(|(status, at)| *status == 200 && *at < 11.5);
            assert!(is_served, "{}: {raised}: {told:?}", server.name);
        }
    }
}

#[test]
fn who_waits_is_told_at_once_when_the_service_or_its_pod_goes() {
    let mut mesh = Mesh::new("serve");
    mesh.says("limits: {maxRequests: 1, maxPendingRequests: 1, maxPendingTime: 20s}");
    let [here, there] = mesh.servers.clone();
    let mut slow = mesh.world.in_pod(&mesh.clients[1], PYTHON);
    let slow = slow.args(["-c", SCRIPT, "crowd", &there.vips()[0], "2", "15"]);
    let mut slow = slow.spawn().expect("a client");
    assert!(eventually(Duration::from_secs(20), || mesh.waits() == 1.0));
    // The only endpoint.
    mesh.world.remove_pod(&there).expect("removed");
    let told = eventually(Duration::from_secs(8), || mesh.waits() == 0.0);
    assert!(told, "there is nothing left to wait for");
    slow.kill().expect("it ends");
    let _ended = slow.wait();
    // And the pod that asks.
    let client = mesh.clients[2].clone();
    let mut slow = mesh.world.in_pod(&client, PYTHON);
    let slow = slow.args(["-c", SCRIPT, "crowd", &here.vips()[0], "2", "15"]);
    let mut slow = slow.spawn().expect("a client");
    assert!(eventually(Duration::from_secs(20), || mesh.waits() == 1.0));
    let left = mesh.agents[0].metric("mesh_agent_pending_seconds_count", "end=\"left\"");
    mesh.world.remove_pod(&client).expect("removed");
    assert!(eventually(Duration::from_secs(8), || mesh.waits() == 0.0));
    let all = left.expect("a metric") + 1.0;
    // Of the wait that is over it is counted next how it ended.
    let name = "mesh_agent_pending_seconds_count";
    let now = mesh.agents[0].comes_to(name, "end=\"left\"", all);
    assert_eq!(now, all);
    let _killed = slow.kill();
    let _ended = slow.wait();
}
