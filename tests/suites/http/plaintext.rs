//! Requests of a pod outside of the mesh, in permitted plaintext: the way that is open to
//! anybody. Policy and hygiene are the same there as on every other.

use super::*;

/// What says who somebody is, or what an agent does.
const FORGED: [&str; 5] = [
    "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/king",
    "x_forwarded_client_cert: URI=spiffe://cluster.local/ns/shop/sa/king",
    "X-Envoy-Original-Path: /public",
    "x-envoy-external-address: 127.0.0.1",
    "x_envoy_internal: true",
];

/// Servers b on n1 and c on n2 in the mesh, and a client of n1 that is not.
struct Outside {
    mesh: Mesh,
    outsider: Pod,
}

impl Outside {
    fn of(serve: impl Fn(&mut World, &Pod)) -> Self {
        let (mut world, [a, b, c]) = World::of_three().expect("a world");
        let outsider = world.add_pod("n1", "plain", None).expect("a pod");
        for pod in [&b, &c] {
            serve(&mut world, pod);
        }
        Self {
            mesh: Mesh::of(world, a, [b, c]),
            outsider,
        }
    }

    fn new() -> Self {
        Self::of(|world, pod| {
            let mut server = world.in_pod(pod, PYTHON);
            server.args(["-c", SCRIPT, "serve", &pod.name, &APP_PORT.to_string()]);
            world.start_server(pod, APP_PORT, server).expect("a server");
        })
    }

    /// What curl says of it.
    fn curl(&self, args: &[&str]) -> String {
        let mut curl = self.mesh.world.in_pod(&self.outsider, "curl");
        curl.args(["-sS", "--max-time", "20", "--path-as-is"])
            .args(args);
        let output = curl.output().expect("curl runs");
        let problem = String::from_utf8_lossy(&output.stderr);
        format!("{}{problem}", String::from_utf8_lossy(&output.stdout))
    }

    fn code(&self, how: &str, url: &str) -> String {
        self.curl(&[how, "-o", "/dev/null", "-w", "%{http_code}", url])
    }

    fn raw(&self, to: &str, text: &str) -> Value {
        let mut client = self.mesh.world.in_pod(&self.outsider, PYTHON);
        client.args(["-c", SCRIPT, "raw", to, text]);
        let output = client.output().expect("python runs");
        parse(&output).unwrap_or_else(|problem| panic!("{problem:#}"))
    }

    fn targets(&self) -> impl Iterator<Item = (&Pod, String)> {
        let servers = self.mesh.servers.iter();
        servers.map(|pod| (pod, format!("{}:{APP_PORT}", pod.v4())))
    }
}

#[test]
fn a_path_is_denied_however_it_is_written_and_its_neighbours_are_not() {
    let outside = Outside::new();
    outside.mesh.policy("no-admin", DENY_ADMIN);
    for (pod, to) in outside.targets() {
        for (path, code) in ADMIN_AND_NEIGHBOURS {
            let url = format!("http://{to}{path}");
            assert_eq!(outside.code("--http1.1", &url), code, "{url}");
        }
        // On one connection each is judged by itself, and refused ones end nothing.
        let requests = ["/public", "/admin/a", "/public", "/admin/b"].map(|path| {
            let last = if path == "/admin/b" {
                "Connection: close\\r\\n"
            } else {
                ""
            };
            format!("GET {path} HTTP/1.1\\r\\nHost: a\\r\\n{last}\\r\\n")
        });
        let told = outside.raw(&to, &requests.concat());
        let got = told["got"].as_str().expect("text");
        let codes: Vec<&str> = got.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
        assert_eq!(codes, ["200", "403", "200", "403"], "{}: {got}", pod.name);
        // What is no request could say anything.
        for bytes in [
            "\\0\\1bytes\\n",
            "SSH-2.0-x\\r\\n",
            "\\x16\\x03\\x01\\0\\x05\\x01",
        ] {
            let told = outside.raw(&to, bytes);
            assert_eq!(told, json!({"got": "", "end": "reset"}), "{bytes} to {to}");
        }
    }
    let refused = |agent: usize, reason: &str| {
        let reason = format!("reason=\"{reason}\"");
        let agent = &outside.mesh.agents[agent];
        agent.comes_to("mesh_agent_connections_ended_total", &reason, 3.0)
    };
    for agent in [0, 1] {
        assert!((refused(agent, "undecided_protocol") - 3.0).abs() < 0.1);
    }
    outside
        .mesh
        .policy("no-admin", "apiVersion: v1\nkind: List\nitems: []\n");
    for (_, to) in outside.targets() {
        let url = format!("http://{to}/admin/secret");
        assert_eq!(outside.code("--http1.1", &url), "200");
    }
}

#[test]
fn nobody_is_named_by_what_an_outsider_says() {
    let outside = Outside::new();
    // Where nothing depends on requests, and where something does.
    for policy in [None, Some(DENY_ADMIN)] {
        if let Some(policy) = policy {
            outside.mesh.policy("no-admin", policy);
        }
        for (pod, to) in outside.targets() {
            let mut args: Vec<&str> = FORGED.iter().flat_map(|line| ["-H", line]).collect();
            let url = format!("http://{to}/x");
            args.extend(["-H", "x-other: stays", &url]);
            let told: Value = serde_json::from_str(&outside.curl(&args)).expect("JSON");
            let lines = told["headers"].as_array().expect("lines").iter();
            let names: Vec<String> = lines
                .filter_map(|line| Some(line[0].as_str()?.replace('_', "-")))
                .collect();
            let is_forged =
                |name: &&String| name.starts_with("x-envoy") || name.contains("client-cert");
            assert_eq!(names.iter().find(is_forged), None, "{}: {told}", pod.name);
            assert!(names.iter().any(|name| name == "x-other"), "{told}");
        }
    }
}

#[test]
fn an_identity_that_a_rule_wants_is_one_that_no_outsider_has() {
    let outside = Outside::new();
    let by_path = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
        metadata: {name: by-path, namespace: shop}\n\
        spec: {action: ALLOW, rules: [{to: [{operation: {paths: [/open]}}]}, \
        {from: [{source: {principals: [\"*\"]}}], to: [{operation: {paths: [/ours]}}]}]}\n";
    outside.mesh.policy("by-path", by_path);
    for (pod, to) in outside.targets() {
        for how in ["--http1.1", "-0"] {
            for (path, code) in [("/open", "200"), ("/ours", "403"), ("/other", "403")] {
                let url = format!("http://{to}{path}");
                assert_eq!(outside.code(how, &url), code, "{how} {url}");
            }
        }
        let ours = format!("http://{to}/ours");
        let claimed = [
            "-H",
            FORGED[0],
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &ours,
        ];
        assert_eq!(outside.curl(&claimed), "403", "{}", pod.name);
        let told = outside
            .mesh
            .curl(&["-o", "/dev/null", "-w", "%{http_code}", &ours]);
        assert_eq!(told, "200", "a has one, to {}", pod.name);
    }
}

#[test]
fn http_2_in_plaintext_is_judged_by_the_same_rules() {
    let outside = Outside::of(|world, pod| {
        world.nginx_http2(pod, APP_PORT).expect("nginx");
    });
    outside.mesh.policy("no-admin", DENY_ADMIN);
    for (_, to) in outside.targets() {
        for (path, code) in [
            ("/admin/secret", "403"),
            ("//admin/secret", "403"),
            ("/public/../admin/secret", "403"),
            ("/%61dmin/secret", "403"),
            ("/administrator", "200"),
        ] {
            let url = format!("http://{to}{path}");
            let got = outside.code("--http2-prior-knowledge", &url);
            assert_eq!(got, code, "{url}");
        }
    }
}
