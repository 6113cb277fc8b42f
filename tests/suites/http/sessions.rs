//! Sessions that a route keeps (`sessionPersistence`).

use super::mirrors::NO_A;
use super::*;

/// Of b's Service, to these backends with their weights.
fn kept(says: &str, backends: &[(&str, u32)]) -> String {
    let all: Vec<String> = backends
        .iter()
        .map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: b, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: b, port: 80}}]\n  rules:\n  \
         - sessionPersistence: {says}\n    backendRefs: [{}]\n",
        all.join(", ")
    )
}

/// A Service with these endpoints.
fn service(addresses: &[String]) -> String {
    let all: Vec<String> = addresses
        .iter()
        .map(|address| format!("{{addresses: [{address}], conditions: {{ready: true}}}}"))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: some, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.9.8, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: some-1, namespace: shop, labels: {{kubernetes.io/service-name: some}}}}\n\
         addressType: IPv4\nports: [{{port: {APP_PORT}}}]\nendpoints: [{}]\n",
        all.join(", ")
    )
}

const COOKIE: &str = "{type: Cookie, sessionName: at}";

impl Mesh {
    /// Who answers, and what the client is to keep.
    fn asked(&self, args: &[&str]) -> (String, Option<String>) {
        let url = format!("http://{}/x", self.servers[0].vips()[0]);
        let mut all = vec!["-D", "-"];
        all.extend(args);
        all.push(&url);
        let told = self.curl(&all);
        let (head, body) = told.split_once("\r\n\r\n").expect("a head");
        let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {told}"));
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let value = lines.find(|(name, _)| {
            name.eq_ignore_ascii_case("set-cookie") || name.eq_ignore_ascii_case("at")
        });
        let name = body["name"].as_str().expect("a name");
        (name.to_owned(), value.map(|(_, value)| value.to_owned()))
    }
}

#[test]
fn who_has_the_cookie_comes_back_to_the_same_server_whatever_the_weights() {
    let mesh = Mesh::new();
    mesh.policy("route", &kept(COOKIE, &[("b", 1), ("c", 1)]));
    let mut kept_by = std::collections::BTreeMap::new();
    for _ in 0..60 {
        let (name, cookie) = mesh.asked(&[]);
        let cookie = cookie.expect("a cookie");
        assert!(
            cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"),
            "{cookie}"
        );
        let pair = cookie.split(';').next().expect("a pair").to_owned();
        kept_by.entry(name).or_insert(pair);
        if kept_by.len() == 2 {
            break;
        }
    }
    assert_eq!(kept_by.keys().collect::<Vec<_>>(), ["b", "c"]);
    // Also where what is new goes elsewhere.
    for weights in [[1, 0], [0, 1]] {
        mesh.policy(
            "route",
            &kept(COOKIE, &[("b", weights[0]), ("c", weights[1])]),
        );
        for (name, pair) in &kept_by {
            let cookie = format!("Cookie: a=b; {pair}");
            for _ in 0..10 {
                let (told, again) = mesh.asked(&["-H", &cookie]);
                assert_eq!((&told, again), (name, None), "{weights:?}");
            }
        }
    }
    // What nobody has made leads nowhere, nor what is half of one.
    let of_b = &kept_by["b"];
    let forged = format!("{}{}", &of_b[..of_b.len() - 16], "f".repeat(16));
    let elsewhere = of_b.replace("at=", "at=f");
    for made_up in ["at=0000000000000000", &forged, &elsewhere] {
        let (told, again) = mesh.asked(&["-H", &format!("Cookie: {made_up}")]);
        assert_eq!(told, "c", "{made_up}");
        assert!(again.is_some(), "{made_up}");
    }
    // It is no leave.
    let no_a = NO_A.replace('@', "b");
    mesh.policy("no-a", &no_a);
    let url = format!("http://{}/x", mesh.servers[0].vips()[0]);
    let code = ["-o", "/dev/null", "-w", "%{http_code}"];
    let ask =
        |pair: &str| mesh.curl(&[&code[..], &["-H", &format!("Cookie: {pair}"), &url]].concat());
    assert_eq!((ask(of_b).as_str(), ask("x=y").as_str()), ("403", "200"));
}

#[test]
fn a_header_does_the_same_and_where_a_service_is_empty_another_follows() {
    let mesh = Mesh::new();
    let says = "{type: Header, sessionName: at}";
    let c = [mesh.servers[1].v4()];
    mesh.policy("some", &service(&c));
    mesh.policy("route", &kept(says, &[("b", 0), ("some", 1)]));
    let (name, value) = mesh.asked(&[]);
    assert_eq!(name, "c");
    let header = format!("at: {}", value.expect("a value"));
    mesh.policy("route", &kept(says, &[("b", 1), ("some", 0)]));
    assert_eq!(mesh.asked(&["-H", &header]), ("c".to_owned(), None));
    mesh.policy("some", &service(&[]));
    let (name, value) = mesh.asked(&["-H", &header]);
    assert_eq!(name, "b");
    assert!(value.is_some(), "it is told where it goes now");
}

#[test]
fn a_session_with_a_service_or_port_that_is_gone_goes_elsewhere() {
    let mesh = Mesh::new();
    let c = [mesh.servers[1].v4()];
    let some = service(&c);
    for gone in [String::new(), some.replace("port: 80", "port: 81")] {
        mesh.policy("some", &some);
        mesh.policy("route", &kept(COOKIE, &[("b", 0), ("some", 1)]));
        let (name, cookie) = mesh.asked(&[]);
        assert_eq!(name, "c");
        let cookie = cookie.expect("a cookie");
        let pair = format!("Cookie: {}", cookie.split(';').next().expect("a pair"));
        mesh.policy("route", &kept(COOKIE, &[("b", 1), ("some", 0)]));
        assert_eq!(mesh.asked(&["-H", &pair]), ("c".to_owned(), None));
        mesh.policy("some", &gone);
        let (name, cookie) = mesh.asked(&["-H", &pair]);
        assert_eq!(name, "b", "{gone:?}");
        assert!(cookie.is_some(), "it is told where it goes now");
    }
}

#[test]
fn a_session_keeps_to_one_endpoint_of_a_service() {
    let mesh = Mesh::new();
    let addresses = mesh.servers.each_ref().map(Pod::v4);
    mesh.policy("some", &service(&addresses));
    mesh.policy("route", &kept(COOKIE, &[("some", 1)]));
    let (name, cookie) = mesh.asked(&[]);
    let cookie = cookie.expect("a cookie");
    let pair = format!("Cookie: {}", cookie.split(';').next().expect("a pair"));
    for _ in 0..30 {
        assert_eq!(mesh.asked(&["-H", &pair]), (name.clone(), None));
    }
    let at = usize::from(name == "b");
    mesh.policy("some", &service(&addresses[at..=at]));
    let (other, cookie) = mesh.asked(&["-H", &pair]);
    assert_ne!(other, name);
    assert!(cookie.is_some(), "it is told where it goes now");
}
