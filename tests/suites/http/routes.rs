//! Routes of the Gateway API, as clients and servers see them.

use super::*;

/// A route of b's Service.
fn route(kind: &str, spec: &str) -> String {
    let version = "gateway.networking.k8s.io/v1";
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: b, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: b, port: 80}}]\n  {spec}\n"
    )
}

fn http(rules: &str) -> String {
    route("HTTPRoute", &format!("rules: {rules}"))
}

fn to(name: &str, weight: u32) -> String {
    format!("{{name: {name}, port: 80, weight: {weight}}}")
}

fn split(b: u32, c: u32) -> String {
    http(&format!(
        "[{{backendRefs: [{}, {}]}}]",
        to("b", b),
        to("c", c)
    ))
}

fn names(answers: &Value) -> Vec<String> {
    let answers = answers.as_array().expect("answers").iter();
    let name = |answer: &Value| {
        assert_eq!(answer[0], 200, "{answer}");
        answer[1]["name"].as_str().expect("a name").to_owned()
    };
    answers.map(name).collect()
}

impl Mesh {
    /// What the server says of a request of curl's.
    fn told(&self, args: &[&str]) -> Value {
        let told = self.curl(args);
        serde_json::from_str(&told).unwrap_or_else(|e| panic!("{args:?}: {e}: {told}"))
    }

    fn code(&self, url: &str) -> String {
        self.curl(&["-o", "/dev/null", "-w", "%{http_code}", url])
    }
}

#[test]
fn a_canary_gets_its_share_of_the_requests_of_one_connection() {
    let mesh = Mesh::new();
    mesh.policy("b-route", &split(70, 30));
    for vip in mesh.servers[0].vips() {
        let names = names(&mesh.client(&["keep_alive", &vip, "4500"]));
        let of_c = names.iter().filter(|name| *name == "c").count();
        // Six times the standard deviation.
        assert!((1165..=1535).contains(&of_c), "{of_c}");
    }
    mesh.policy("b-route", &split(0, 1));
    let vip = &mesh.servers[0].vips()[0];
    let told = mesh.client(&["counted", vip, "10000", "4"]);
    assert_eq!(told, json!({"c": 10_000}));
}

/// One percent is five times the standard deviation.
#[test]
fn of_many_requests_each_backend_gets_its_share_within_one_percent() {
    let mesh = Mesh::new();
    mesh.policy("b-route", &split(70, 30));
    let vip = &mesh.servers[0].vips()[0];
    let told = mesh.client(&["counted", vip, "52000", "4"]);
    let of = |name: &str| told[name].as_f64().expect("a number") / 52_000.0;
    assert!((of("b") - 0.7).abs() < 0.01, "{told}");
    assert!((of("b") + of("c") - 1.0).abs() < 1e-9, "{told}");
}

/// 600 changes, and always 60,000 requests: one that is late is made all the same, so a slow
/// machine takes longer over them.
#[test]
fn each_request_is_of_one_configuration_however_often_it_changes() {
    let mesh = Mesh::new();
    let vip = mesh.servers[0].vips()[0].clone();
    let turn = |number: u32| {
        let mark = |kind: &str| {
            let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
            format!("{{type: {kind}, {field}: {{set: [{{name: x-turn, value: \"{number}\"}}]}}}}")
        };
        http(&format!(
            "[{{filters: [{}, {}], backendRefs: [{}]}}]",
            mark("RequestHeaderModifier"),
            mark("ResponseHeaderModifier"),
            to(["b", "c"][number as usize % 2], 1)
        ))
    };
    mesh.policy("b-route", &turn(0));
    let mut number = 0;
    let told = std::thread::scope(|scope| {
        let load = scope.spawn(|| mesh.client(&["turns", &vip, "60", "8", "1000"]));
        while !load.is_finished() {
            number += 1;
            let text = turn(number);
            mesh.world.write_config("b-route", &text).expect("a file");
            // The pace of the changes, not a wait for anything.
            std::thread::sleep(Duration::from_millis(100));
        }
        load.join().expect("the load")
    });
    eprintln!("{number} changes: {told}");
    assert_eq!(told["odd"], json!([]), "{told}");
    assert_eq!(told["right"], 60_000, "{told}");
    assert!(
        told["turns"].as_u64() > Some(u64::from(number) / 4),
        "{number}: {told}"
    );
}

#[test]
fn a_part_without_a_backend_is_that_part_of_errors() {
    let mesh = Mesh::new();
    let elsewhere = "{name: b, namespace: elsewhere, port: 80, weight: 20}";
    let backends = [to("b", 50), to("nobody", 30), elsewhere.to_owned()];
    let rules = format!("[{{backendRefs: [{}]}}]", backends.join(", "));
    mesh.policy("b-route", &http(&rules));
    let vip = &mesh.servers[0].vips()[0];
    let told = mesh.client(&["counted", vip, "4000", "2"]);
    let errors = told["500"].as_f64().expect("errors");
    // Five times the standard deviation.
    assert!((errors / 4_000.0 - 0.5).abs() < 0.04, "{told}");
    assert_eq!(told["b"].as_f64(), Some(4_000.0 - errors), "{told}");
}

#[test]
fn a_header_chooses_the_backend_and_filters_change_what_goes_on() {
    let mesh = Mesh::new();
    let canary = format!(
        "{{matches: [{{path: {{value: /b}}, headers: [{{name: x-canary, value: \"1\"}}]}}], backendRefs: [{}], filters: [\
         {{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: x-added, value: \"yes\"}}]}}}}, \
         {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-seen, value: \"c\"}}]}}}}]}}",
        to("c", 1)
    );
    let moved = "{matches: [{path: {type: Exact, value: /moved}}], filters: [\
         {type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 301}}]}";
    let rewritten = format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /old}}}}], backendRefs: [{}], filters: [\
         {{type: URLRewrite, urlRewrite: {{hostname: new.example, path: \
         {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}]}}",
        to("b", 1)
    );
    let rest = format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /b}}}}], backendRefs: [{}]}}",
        to("b", 1)
    );
    mesh.policy(
        "b-route",
        &http(&format!("[{canary}, {moved}, {rewritten}, {rest}]")),
    );
    let url = |path: &str| format!("http://{}{path}", mesh.servers[0].vips()[0]);
    let told = mesh.told(&["-H", "X-Canary: 1", &url("/b")]);
    assert_eq!(told["name"], "c");
    let headers = told["headers"].as_array().expect("headers");
    assert!(headers.contains(&json!(["x-added", "yes"])), "{told}");
    let answer = mesh.curl(&["-i", "-H", "X-Canary: 1", &url("/b")]);
    assert!(answer.contains("\r\nx-seen: c\r\n"), "{answer}");
    assert_eq!(mesh.told(&[&url("/b")])["name"], "b");
    let told = mesh.told(&[&url("/old/way?and=%7e")]);
    assert_eq!(told["first"], "GET /new/way?and=%7e HTTP/1.1");
    let headers = told["headers"].as_array().expect("headers");
    assert!(headers.contains(&json!(["host", "new.example"])), "{told}");
    let answer = mesh.curl(&["-i", &url("/moved")]);
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(
        answer.contains("location: http://other.example/moved"),
        "{answer}"
    );
    assert_eq!(mesh.code(&url("/none")), "404");
    assert_eq!(mesh.code(&url("/b%2fc")), "400", "no one path");
}

#[test]
fn a_browser_of_an_allowed_origin_is_told_so_and_others_are_not() {
    let mesh = Mesh::new();
    let cors = "{type: CORS, cors: {allowOrigins: [\"https://shop.example\"], allowMethods: [PUT], maxAge: 60}}";
    let rules = format!("[{{filters: [{cors}], backendRefs: [{}]}}]", to("c", 1));
    mesh.policy("b-route", &http(&rules));
    let url = format!("http://{}/", mesh.servers[0].vips()[0]);
    let asked = "Access-Control-Request-Method: PUT";
    for (origin, is_allowed) in [
        ("https://shop.example", true),
        ("https://other.example", false),
    ] {
        let line = format!("access-control-allow-origin: {origin}\r\n");
        let origin = format!("Origin: {origin}");
        let preflight = ["-i", "-X", "OPTIONS", "-H", &origin, "-H", asked, &url];
        let told = mesh.curl(&preflight);
        assert!(told.starts_with("HTTP/1.1 204 "), "{told}");
        assert_eq!(told.contains(&line), is_allowed, "{told}");
        let told = mesh.curl(&["-i", "-H", &origin, &url]);
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        assert_eq!(told.contains(&line), is_allowed, "{told}");
    }
}

#[test]
fn a_route_for_every_path_leaves_the_target_as_it_is() {
    let mesh = Mesh::new();
    mesh.policy("b-route", &split(1, 0));
    let url = format!("http://{}/a/./b//%7e%2F?x=\"|", mesh.servers[0].vips()[0]);
    let told = mesh.told(&["--path-as-is", "-g", &url]);
    assert_eq!(told["first"], "GET /a/./b//%7e%2F?x=\"| HTTP/1.1");
}

#[test]
fn a_backend_that_is_not_there_has_its_share_of_errors_and_a_pod_is_called_without_routes() {
    let mesh = Mesh::new();
    let backends = to("nobody", 1);
    mesh.policy(
        "b-route",
        &http(&format!("[{{backendRefs: [{backends}]}}]")),
    );
    let url = format!("http://{}/", mesh.servers[0].vips()[0]);
    assert_eq!(mesh.code(&url), "500");
    let url = format!("http://{}:{APP_PORT}/", mesh.servers[0].v4());
    assert_eq!(mesh.code(&url), "200", "its own address has no routes");
}

#[test]
fn a_timeout_of_the_route_ends_a_request_that_gets_no_answer() {
    let mesh = Mesh::new();
    let rules = format!(
        "[{{timeouts: {{request: 300ms}}, backendRefs: [{}]}}]",
        to("c", 1)
    );
    mesh.policy("b-route", &http(&rules));
    let vip = &mesh.servers[0].vips()[0];
    let told = mesh.curl(&["-i", &format!("http://{vip}/silent")]);
    assert!(told.starts_with("HTTP/1.1 504 "), "{told}");
    assert!(told.contains("request_timeout"), "{told}");
    let told = mesh.told(&[&format!("http://{vip}/")]);
    assert_eq!(told["name"], "c", "the next one is served");
}

#[test]
fn a_route_that_changes_under_load_loses_no_request() {
    let mesh = Mesh::new();
    let vip = mesh.servers[0].vips()[0].clone();
    mesh.policy("b-route", &split(1, 1));
    let told = std::thread::scope(|scope| {
        let load = scope.spawn(|| mesh.client(&["load", &vip, "6", "8"]));
        let mut turn = 0;
        while !load.is_finished() {
            turn += 1;
            let rules = split(1 + turn % 3, 1 + (turn + 1) % 3);
            mesh.world.write_config("b-route", &rules).expect("a file");
            // The pace of the changes, not a wait for anything.
            std::thread::sleep(Duration::from_millis(100));
        }
        load.join().expect("the load")
    });
    let statuses = told["statuses"].as_object().expect("statuses");
    assert_eq!(statuses.keys().collect::<Vec<_>>(), ["200"], "{told}");
    let names = told["names"].as_object().expect("names");
    assert_eq!(names.keys().collect::<Vec<_>>(), ["b", "c"], "{told}");
}

#[test]
fn blue_gives_way_to_green_at_once() {
    let mesh = Mesh::new();
    let vip = &mesh.servers[0].vips()[0];
    mesh.policy("b-route", &split(1, 0));
    for (b, c, name) in [(0, 1, "c"), (1, 0, "b")] {
        mesh.policy("b-route", &split(b, c));
        let names = names(&mesh.client(&["keep_alive", vip, "100"]));
        assert!(names.iter().all(|n| n == name), "{names:?}");
    }
}

#[test]
fn connections_that_are_no_http_go_where_a_tcp_route_leads() {
    let mesh = Mesh::serving(&["names"]);
    let vip = &mesh.servers[0].vips()[0];
    assert_eq!(mesh.client(&["name_of", vip]), "b");
    let rules = format!("rules: [{{backendRefs: [{}]}}]", to("c", 1));
    mesh.policy("b-route", &route("TCPRoute", &rules));
    assert_eq!(mesh.client(&["name_of", vip]), "c");
    assert_eq!(mesh.client(&["name_by_hello", vip, "any.example"]), "c");
}

#[test]
fn tls_goes_where_the_name_in_its_hello_leads_and_nowhere_without_one() {
    let mesh = Mesh::serving(&["names"]);
    let vip = &mesh.servers[0].vips()[0];
    let spec = format!(
        "hostnames: [\"*.shop.example\"]\n  rules: [{{backendRefs: [{}]}}]",
        to("c", 1)
    );
    mesh.policy("b-route", &route("TLSRoute", &spec));
    assert_eq!(
        mesh.client(&["name_by_hello", vip, "WWW.shop.example"]),
        "c"
    );
    let refused = mesh.client(&["name_by_hello", vip, "other.example"]);
    assert_eq!(refused, "ConnectionResetError");
}

#[test]
fn a_policy_is_asked_about_the_request_that_a_route_made() {
    let mesh = Mesh::new();
    mesh.policy("no-admin", DENY_ADMIN);
    let version = "gateway.networking.k8s.io/v1";
    for pod in &mesh.servers {
        let name = &pod.name;
        let rule = |from: &str, to: &str| {
            format!(
                "{{matches: [{{path: {{type: PathPrefix, value: {from}}}}}], backendRefs: [{}], \
                 filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, \
                 replacePrefixMatch: {to}}}}}}}]}}",
                self::to(name, 1)
            )
        };
        let rules = [rule("/x", "/admin"), rule("/admin/y", "/open")].join(", ");
        let route = format!(
            "apiVersion: {version}\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {name}, port: 80}}]\n  \
             rules: [{rules}]\n"
        );
        mesh.policy(&format!("{name}-route"), &route);
        let url = format!("http://{}", pod.vips()[0]);
        assert_eq!(mesh.code(&format!("{url}/x/secret")), "403", "{name}");
        let told = mesh.told(&[&format!("{url}/admin/y/z")]);
        assert_eq!(told["first"], "GET /open/z HTTP/1.1", "{name}");
    }
}
