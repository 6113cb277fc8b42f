//! Who is not in the mesh has no identity: all of them share one bucket.

use super::*;

#[test]
fn callers_without_identity_share_one_bucket_and_are_told_no_names() {
    let mut world = World::new(2).expect("a world");
    let clients = [
        world.add_pod("n1", "a", Some("closed")).expect("a pod"),
        world.add_pod("n1", "plain", None).expect("a pod"),
        world.add_pod("n2", "other", None).expect("a pod"),
    ];
    let servers = [("n1", "b"), ("n2", "c")]
        .map(|(node, name)| world.add_pod(node, name, Some("closed")).expect("a pod"));
    for pod in &servers {
        let mut server = world.in_pod(pod, PYTHON);
        server.args(["-c", SCRIPT, "serve", &APP_PORT.to_string()]);
        world.start_server(pod, APP_PORT, server).expect("a server");
    }
    let agents = Agents::start(&world, &[]).expect("agents");
    let mesh = Mesh {
        world,
        clients,
        servers,
        agents,
    };
    mesh.limit("{name: few, requests: 1, interval: 1h, burst: 3}");
    let some = |client: usize, server: &Pod| {
        let to = format!("{}:{APP_PORT}", server.v4());
        let answers = mesh.client(&mesh.clients[client], &["some", &to, "2"]);
        let all = answers.as_array().expect("answers").clone();
        all.into_iter()
            .map(|answer| (answer[0].as_u64().expect("a status"), answer[1].clone()))
            .collect::<Vec<_>>()
    };
    let statuses = |told: &[(u64, Value)]| told.iter().map(|one| one.0).collect::<Vec<_>>();
    for server in &mesh.servers {
        let first = some(1, server);
        assert_eq!(statuses(&first), [200, 200], "{}", server.name);
        let second = some(2, server);
        assert_eq!(statuses(&second), [200, 429], "{}", server.name);
        let told = &second[1].1;
        assert!(told["retry-after"].is_string(), "{told}");
        assert!(told["ratelimit-policy"].is_null(), "no outsider's: {told}");
        assert_eq!(statuses(&some(1, server)), [429, 429], "{}", server.name);
        // Who has an identity has a bucket.
        assert_eq!(statuses(&some(0, server)), [200, 200], "{}", server.name);
    }
}
