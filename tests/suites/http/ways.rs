//! Whichever way a request comes, a rule about it says the same: each kind of rule, on each way.

use super::*;

/// Where nginx speaks HTTP/2.
const CALLS: u16 = 7070;
/// Of curl.
const ONE: &str = "--http1.1";
const TWO: &str = "--http2-prior-knowledge";

/// More arguments of curl, a path, and what comes of it: of a pod of the mesh, and of one that
/// proves nothing.
type Row = (&'static [&'static str], &'static str, [&'static str; 2]);

struct Kind {
    rules: &'static str,
    rows: &'static [Row],
}

const ALLOWED: [&str; 2] = ["200"; 2];
const DENIED: [&str; 2] = ["403"; 2];

const KINDS: [Kind; 7] = [
    Kind {
        rules: "{action: DENY, rules: [{to: [{operation: {methods: [DELETE, PUT]}}]}]}",
        rows: &[
            (&["-X", "DELETE"], "/x", DENIED),
            (&["-X", "PUT", "-d", "a"], "/x", DENIED),
            (&["-X", "PATCH", "-d", "a"], "/x", ALLOWED),
            (&[], "/DELETE", ALLOWED),
        ],
    },
    Kind {
        rules: "{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}",
        rows: &[
            (&[], "/x", ALLOWED),
            (&["-d", "a"], "/x", DENIED),
            (&["-X", "GETS"], "/x", DENIED),
        ],
    },
    Kind {
        rules: "{action: DENY, rules: [{to: [{operation: {hosts: [admin.test, \"admin.test:*\"]}}]}]}",
        rows: &[
            (&["-H", "Host: admin.test"], "/x", DENIED),
            (&["-H", "Host: ADMIN.test"], "/x", DENIED),
            (&["-H", "Host: admin.test."], "/x", DENIED),
            (&["-H", "Host: admin.test:81"], "/x", DENIED),
            (&["-H", "Host: administrator.test"], "/x", ALLOWED),
            (&["-H", "X-Forwarded-Host: admin.test"], "/x", ALLOWED),
        ],
    },
    Kind {
        rules: "{action: DENY, rules: [{when: [{key: \"request.headers[x-env]\", values: [prod]}]}]}",
        rows: &[
            (&["-H", "x-env: prod"], "/x", DENIED),
            (&["-H", "X-Env:   prod"], "/x", DENIED),
            (&["-H", "x-env: test", "-H", "x-env: prod"], "/x", DENIED),
            (&["-H", "x-env: test, prod"], "/x", ALLOWED),
            (&["-H", "x_env: prod"], "/x", DENIED),
            (&["-H", "x-env: production"], "/x", ALLOWED),
            (&["-H", "x-other: prod"], "/x", ALLOWED),
        ],
    },
    Kind {
        rules: "{action: DENY, rules: [{to: [{operation: {paths: [\"/users/{*}/orders\", \"/files/{**}\"]}}]}]}",
        rows: &[
            (&[], "/users/7/orders", DENIED),
            (&[], "/users/%37/./orders", DENIED),
            (&[], "/x/..//users/7/orders", DENIED),
            (&[], "/users/7;v=1/orders?all", DENIED),
            (&[], "/files/a/b", DENIED),
            (&[], "/users/7%2forders", ["400"; 2]),
            (&[], "/users/7/orders/1", ALLOWED),
            (&[], "/users/orders", ALLOWED),
            (&[], "/x?/users/7/orders", ALLOWED),
        ],
    },
    Kind {
        rules: "{action: DENY, rules: [{from: [{source: {notPrincipals: [\"*/sa/a\"]}}], to: [{operation: {paths: [/ours]}}]}]}",
        rows: &[
            (&[], "/ours", ["200", "403"]),
            (&[], "//ours", ["200", "403"]),
            (&[], "/theirs", ALLOWED),
        ],
    },
    Kind {
        rules: "{action: ALLOW, rules: [{from: [{source: {principals: [\"*/sa/a\"]}}]}, {to: [{operation: {paths: [/open]}}]}]}",
        rows: &[(&[], "/open", ALLOWED), (&[], "/ours", ["200", "403"])],
    },
];

struct Ways {
    world: World,
    a: Pod,
    outsider: Pod,
    servers: [Pod; 2],
    agents: Agents,
}

impl Ways {
    /// Servers b on n1 and c on n2 of both versions, and two clients on n1.
    fn new() -> Self {
        let mut world = World::new(2).expect("a world");
        let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
        let a = world.add(&spec("n1", "a")).expect("a pod");
        let outsider = world.add_pod("n1", "plain", None).expect("a pod");
        let servers = [("n1", "b"), ("n2", "c")].map(|(node, name)| {
            let ports = [
                Port::new("first", 80, Target::Number(APP_PORT)),
                Port::new("calls", CALLS, Target::Number(CALLS)),
            ];
            let pod = world.add(&spec(node, name).ports(ports)).expect("a pod");
            world.nginx_http2(&pod, CALLS).expect("nginx");
            let mut server = world.in_pod(&pod, PYTHON);
            server.args(["-c", SCRIPT, "serve", name, &APP_PORT.to_string()]);
            let started = world.start_server(&pod, APP_PORT, server);
            started.expect("a server");
            pod
        });
        let agents = Agents::start(&world, &[]).expect("agents");
        Self {
            world,
            a,
            outsider,
            servers,
            agents,
        }
    }

    /// Name, client, version, and where to.
    fn all(&self) -> Vec<(&'static str, &Pod, &'static str, String)> {
        let [b, c] = &self.servers;
        let vip = |pod: &Pod, port: u16| format!("{}:{port}", pod.vip_addresses()[0]);
        let own = |pod: &Pod, port: u16| format!("{}:{port}", pod.v4());
        let (a, outsider) = (&self.a, &self.outsider);
        vec![
            ("HTTP/2 between agents", a, TWO, vip(c, CALLS)),
            ("HTTP/1 inside mesh/1", a, ONE, vip(c, 80)),
            ("HTTP/2 between agents, a pod", a, TWO, own(c, CALLS)),
            ("HTTP/1 inside mesh/1, a pod", a, ONE, own(c, APP_PORT)),
            ("HTTP/2 within the node", a, TWO, vip(b, CALLS)),
            ("HTTP/1 within the node", a, ONE, vip(b, 80)),
            ("HTTP/2 in plaintext", outsider, TWO, own(c, CALLS)),
            ("HTTP/1 in plaintext", outsider, ONE, own(c, APP_PORT)),
            (
                "HTTP/2 in plaintext within the node",
                outsider,
                TWO,
                own(b, CALLS),
            ),
            (
                "HTTP/1 in plaintext within the node",
                outsider,
                ONE,
                own(b, APP_PORT),
            ),
        ]
    }

    /// Statuses of all rows: on one connection, where curl can do that.
    fn statuses(&self, from: &Pod, version: &str, to: &str, rows: &[Row]) -> Vec<String> {
        let at_once = if version == ONE { rows.len() } else { 1 };
        let mut statuses = vec![];
        for rows in rows.chunks(at_once) {
            let mut curl = self.world.in_pod(from, "curl");
            for (i, (args, path, _)) in rows.iter().enumerate() {
                curl.args((i > 0).then_some("--next"));
                curl.args(["-sS", "--path-as-is", "-g", "--max-time", "20", version]);
                curl.args(["-o", "/dev/null", "-w", "%{http_code}\n"])
                    .args(*args);
                curl.arg(format!("http://{to}{path}"));
            }
            let told = curl.output().expect("curl runs");
            let told = String::from_utf8_lossy(&told.stdout);
            statuses.extend(told.lines().map(str::to_owned));
        }
        statuses
    }

    /// Where it comes to something else than the rows say.
    fn wrong(&self, policy: &str, rows: &[Row]) -> Vec<String> {
        let read = self.agents.read_file(&self.world, "kind", policy);
        read.expect("in force");
        let all = self.all().into_iter();
        let wrong = all.filter_map(|(name, from, version, to)| {
            let who = usize::from(from.name == self.outsider.name);
            let got = self.statuses(from, version, &to, rows);
            let expected: Vec<&str> = rows.iter().map(|(_, _, codes)| codes[who]).collect();
            (got != expected).then(|| format!("{name}: {policy}: {got:?}, not {expected:?}"))
        });
        wrong.collect()
    }
}

#[test]
fn each_kind_of_rule_says_the_same_on_each_way() {
    let ways = Ways::new();
    let paths = ADMIN_AND_NEIGHBOURS.map(|(path, code)| (&[][..], path, [code; 2]));
    let mut wrong = ways.wrong(&DENY_ADMIN.replace("no-admin", "kind"), &paths);
    for Kind { rules, rows } in &KINDS {
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: kind, namespace: shop}}\nspec: {rules}\n"
        );
        wrong.extend(ways.wrong(&policy, rows));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
