//! The four attacks of slowhttptest itself.

use super::*;

/// The program, in one of its ways, until the test has seen enough.
struct Attack(Child);

impl Attack {
    fn of(mesh: &Mesh, way: &str, to: &str, count: &str) -> Self {
        let path = match way {
            "-X" => "/bytes/4000000",
            _ => "/slow",
        };
        let mut attack = mesh.world.in_pod(&mesh.a, "slowhttptest");
        // All of them within a second, and some bytes of each in every one.
        attack.args([way, "-c", count, "-r", count, "-i", "1", "-l", "300"]);
        // What the program itself finds of the service is no part of this.
        attack.args([
            "-s",
            "1000000",
            "-p",
            "300",
            "-u",
            &format!("http://{to}{path}"),
        ]);
        attack.stdin(Stdio::null()).stdout(Stdio::null());
        Self(attack.spawn().expect("slowhttptest runs"))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn its_attacks_cost_little_and_a_quiet_client_is_served_beside_them() {
    let mesh = Mesh::new();
    let [near, far] = &mesh.services();
    let (count, seconds) = (figure("2000", "200"), figure("30", "4"));
    // A connection is a descriptor, also before there is a request on it.
    let open = || mesh.agents[0].open_fds();
    let asked = || {
        mesh.agents[0]
            .requests(&["source_workload=\"a\""])
            .expect("a page")
    };
    for way in ["-H", "-B", "-R", "-X"] {
        let (memory, before, idle) = (mesh.all(Agent::rss), asked(), open());
        let attack = Attack::of(&mesh, way, far, count);
        // Those of the third are over when they are answered.
        let has_begun = || match way {
            "-R" => asked() >= before + number(count),
            _ => open() >= idle + count.parse::<usize>().expect("a number"),
        };
        assert!(eventually(Duration::from_secs(30), has_begun), "{way}");
        let cpu = mesh.all(Agent::cpu);
        let quiet = mesh.client(&mesh.d, &["paced", near, "50", seconds]);
        let spent = mesh.all(Agent::cpu);
        assert_eq!(quiet["failed"], 0, "{way}: {quiet}");
        for (i, agent) in mesh.agents.iter().enumerate() {
            let spent = spent[i] - cpu[i];
            println!("{way}: {spent:?} of CPU in {seconds} s");
            // A byte of each a second is work; a spin is a core.
            let bound = Duration::from_secs(number(seconds)).mul_f64(0.6);
            assert!(spent < bound, "{way}: {spent:?}");
            assert!(agent.is_ready(), "{way}");
        }
        let grown = mesh.agents.grown_since(memory).expect("memory");
        println!(
            "{way}: {grown:?} bytes for {:?} connections; {quiet}",
            open()
        );
        // What nobody reads is a quarter of a MiB for each, and half as much for chance.
        let most = number(count) * 384 * 1024;
        assert!(grown.iter().all(|bytes| *bytes < most), "{way}: {grown:?}");
        drop(attack);
        // Those to the other agent are kept for who comes next, of clients none is left.
        let left = || mesh.agents[0].metric("mesh_agent_connections_active", "");
        let is_over = || left().is_ok_and(|left| left < 1.0);
        let gone = Instant::now();
        let settled = eventually(recovery("20"), is_over);
        assert!(settled, "{way}: {:?} left", left());
        println!(
            "{way}: {} ms until all had gone",
            gone.elapsed().as_millis()
        );
    }
}
