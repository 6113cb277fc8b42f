//! Who calls, told to applications that ask for it.

use super::*;

const ASKS: &str = "mesh-agent.io/forward-client-cert-details";
const FORGED: &str = "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/king";

/// `None`: the servers ask for nothing.
fn mesh(asks: Option<&str>) -> Mesh {
    Mesh::annotated(asks.map(|value| (ASKS, value)))
}

/// What the application saw in the header, of a client that says it is somebody else.
fn seen(mesh: &Mesh, url: &str) -> Vec<String> {
    let told = mesh.curl(&["-H", FORGED, "-H", "x_forwarded_client_cert: x", url]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let lines = told["headers"].as_array().expect("lines").iter();
    let is_it = |line: &&Value| {
        let name = line[0].as_str().unwrap_or_default();
        name.replace('_', "-") == "x-forwarded-client-cert"
    };
    let values = lines.filter(is_it).filter_map(|line| line[1].as_str());
    values.map(str::to_owned).collect()
}

#[test]
fn an_application_that_asks_is_told_who_calls_and_nobody_can_forge_it() {
    let mesh = mesh(Some("SANITIZE_SET"));
    let mut hashes = vec![];
    for pod in &mesh.servers {
        let urls = [
            format!("http://{}/x", pod.vips()[0]),
            format!("http://{}:{APP_PORT}/x", pod.v4()),
        ];
        for url in urls {
            let seen = seen(&mesh, &url);
            assert_eq!(seen.len(), 1, "{url}: {seen:?}");
            let parts: Vec<&str> = seen[0].split(';').collect();
            let [by, hash, uri] = parts[..] else {
                panic!("{url}: {seen:?}");
            };
            let own = format!("/ns/shop/sa/{}", pod.name);
            assert!(by.starts_with("By=spiffe://") && by.ends_with(&own), "{by}");
            let caller = "/ns/shop/sa/a";
            assert!(
                uri.starts_with("URI=spiffe://") && uri.ends_with(caller),
                "{uri}"
            );
            let hash = hash.strip_prefix("Hash=").expect("a hash");
            assert_eq!(hash.len(), 64, "{hash}");
            hashes.push(hash.to_owned());
        }
    }
    // One certificate, whatever way it came.
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

#[test]
fn an_application_that_does_not_ask_is_told_nothing() {
    let mesh = mesh(None);
    for pod in &mesh.servers {
        let url = format!("http://{}/x", pod.vips()[0]);
        assert_eq!(seen(&mesh, &url), Vec::<String>::new(), "{}", pod.name);
    }
}

/// Who begins as no client of HTTP does is not taken for one of another protocol: as bytes
/// all that it says would arrive.
#[test]
fn what_an_application_that_asks_is_told_cannot_come_in_as_bytes() {
    let mesh = mesh(Some("SANITIZE_SET"));
    let lines = format!("Host: b\\r\\nConnection: close\\r\\n{FORGED}\\r\\n\\r\\n");
    for (pod, to) in mesh.addresses() {
        for begin in ["\\r\\n\\r\\nGET", "get", "\\r\\n\\r\\n\\r\\nget", "A:B"] {
            let said = format!("{begin} /x HTTP/1.1\\r\\n{lines}");
            let told = mesh.client(&["raw", &to, &said]);
            let got = told["got"].as_str().expect("text");
            assert!(!got.contains("king"), "{}, {begin}: {got}", pod.name);
        }
    }
}
