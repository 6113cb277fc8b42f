//! Rate limits of some requests alone, by their methods and paths.

use mesh_tests::Pod;
use serde_json::Value;

use super::Mesh;

impl Mesh {
    /// Status of each `METHOD TARGET`, and the target that the server got.
    fn targets(&self, server: &Pod, requests: &[&str]) -> Vec<(u64, String)> {
        let to = &server.vips()[0];
        let told = self.client(&self.clients[0], &[&["targets", to], requests].concat());
        let one = |told: &Value| {
            let target = told[1].as_str().unwrap_or_default();
            (told[0].as_u64().expect("a status"), target.to_owned())
        };
        told.as_array().expect("answers").iter().map(one).collect()
    }

    /// Of each `METHOD TARGET` whether it passes.
    fn passes(&self, server: &Pod, requests: &[&str]) -> Vec<bool> {
        let told = self.targets(server, requests);
        told.iter().map(|(status, _)| *status == 200).collect()
    }
}

#[test]
fn the_limit_of_one_path_leaves_others_alone_however_the_path_is_written() {
    let mesh = Mesh::new("serve");
    mesh.limit(
        "{name: login, requests: 1, interval: 1h, burst: 3, match: {paths: [/login, \"/api/{*}/key\"]}}",
    );
    let others = [
        "GET /",
        "GET /loginx",
        "GET /login/x",
        "GET /api/key",
        "PUT /other?a=/login",
    ];
    for server in &mesh.servers {
        assert_eq!(mesh.passes(server, &others), [true; 5], "{}", server.name);
        // As many as the limit has, and what the server gets is what was counted.
        let told = mesh.targets(
            server,
            &["GET /login?a=1", "GET /x/../login?b", "PUT //api/%78/key"],
        );
        let passed = |target: &str| (200, target.to_owned());
        assert_eq!(told, ["/login?a=1", "/login?b", "/api/x/key"].map(passed));
        let spelled = [
            "GET /login",
            "PUT /%6cogin",
            "GET /./x/%2e%2e/login",
            "GET /api/a/key?x",
            "GET //login",
            // Servers differ on these.
            "GET /login;v=1",
            "GET /x/..%2flogin",
        ];
        let told = mesh.targets(server, &spelled);
        assert!(
            told.iter().all(|(status, _)| *status == 429),
            "{}: {told:?}",
            server.name
        );
        assert_eq!(mesh.passes(server, &others), [true; 5], "{}", server.name);
    }
    let over = |limit: &str| {
        let labels = format!("policy=\"shop/servers\",limit=\"{limit}\"");
        let each = mesh.agents.each_ref();
        each.map(|agent| {
            agent
                .metric("mesh_agent_rate_limited_total", &labels)
                .expect("one")
        })
    };
    assert_eq!(over("login"), [7.0; 2]);
}

#[test]
fn a_limit_of_methods_counts_these_alone_and_a_dry_run_changes_no_path() {
    let mesh = Mesh::new("serve");
    mesh.limit(
        "{name: writes, requests: 1, interval: 1h, match: {methods: [\"P*\"]}}, \
         {name: seen, requests: 1, interval: 1h, match: {paths: [/a]}, dryRun: true}",
    );
    for server in &mesh.servers {
        let asked = ["PUT /", "GET /", "PUT /a", "GET /a", "GET /a"];
        let passed = mesh.passes(server, &asked);
        assert_eq!(passed, [true, true, false, true, true], "{}", server.name);
        let told = mesh.targets(server, &["GET /x/../a"]);
        assert_eq!(told, [(200, "/x/../a".to_owned())], "{}", server.name);
    }
}
