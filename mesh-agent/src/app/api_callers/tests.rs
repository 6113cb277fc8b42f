use serde_json::{Value, json};

use super::*;
use crate::cluster::fake::Fake;
use crate::status::{self, Judge, Verdict};

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/hooks";
const SERVICE: &str = "/api/v1/namespaces/shop/services/hook";
const ROOT: &str = "/apis/security.istio.io/v1/namespaces/mesh-system/peerauthentications/all";
const OWN: &str = "/apis/security.istio.io/v1/namespaces/shop/peerauthentications/hook";

fn settings() -> MeshSettings {
    MeshSettings {
        root_namespace: "mesh-system".to_owned(),
        ..MeshSettings::default()
    }
}

/// Names the Service `hook` twice, and one that is elsewhere.
fn hooks(port: Option<u16>) -> Value {
    let at = |name: &str| json!({"clientConfig": {"service": {"namespace": "shop", "name": name, "port": port}, "caBundle": "eA=="}});
    json!({
        "metadata": {"name": "hooks"},
        "webhooks": [at("hook"), {"clientConfig": {"url": "https://example.com"}}, at("hook"), at("gone")],
    })
}

fn service() -> Value {
    json!({
        "metadata": {"name": "hook", "namespace": "shop", "uid": "u1"},
        "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "hook"},
            "ports": [{"name": "https", "port": 443, "targetPort": "tls"}, {"name": "more", "port": 8443}]},
    })
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "hook-0", "namespace": "shop", "labels": {"app": "hook"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "tls", "containerPort": 9443}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn peers(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// A namespace of the mesh, in which all is STRICT.
fn cluster() -> Fake {
    let fake = Fake::default();
    let labels = json!({"mesh-agent.io/enrolled": "true"});
    let namespace = json!({"metadata": {"name": "shop", "labels": labels}});
    fake.put("/api/v1/namespaces/shop", namespace);
    fake.put(SERVICE, service());
    fake.put("/api/v1/namespaces/shop/pods/hook-0", pod());
    let strict = peers("mesh-system", "all", json!({"mtls": {"mode": "STRICT"}}));
    fake.put(ROOT, strict);
    fake
}

async fn told(fake: &Fake, port: u16) -> Option<String> {
    let target = (ServiceKey::new("shop", "hook"), port);
    let refused = look(fake, &settings(), &target).await.expect("an answer");
    refused.map(|refused| refused.by("APIService v1.example.com").message)
}

#[tokio::test]
async fn a_port_is_told_of_where_the_data_path_takes_mutual_tls_alone() {
    let of_hook = json!({"matchLabels": {"app": "hook"}});
    let open = |port: u16| {
        let ports = json!({port.to_string(): {"mode": "PERMISSIVE"}});
        peers(
            "shop",
            "hook",
            json!({"selector": of_hook, "mtls": {"mode": "STRICT"}, "portLevelMtls": ports}),
        )
    };
    let mut on_host = pod();
    on_host["spec"]["hostNetwork"] = json!(true);
    let mut out = pod();
    out["metadata"]["labels"]["mesh-agent.io/enrolled"] = json!("false");
    let mut by_hand = service();
    by_hand["spec"]["selector"] = Value::Null;
    let pod_at = "/api/v1/namespaces/shop/pods/hook-0";
    let plain = json!({"metadata": {"name": "shop"}});
    // What is changed, the Service's port, and the port of the pods that is told of.
    type Case<'c> = (&'c str, Option<(&'c str, Value)>, u16, Option<u16>);
    let cases: [Case<'_>; 10] = [
        ("all is STRICT", None, 443, Some(9443)),
        ("its other port", None, 8443, Some(8443)),
        ("no port of its", None, 444, None),
        ("its port is open", Some((OWN, open(9443))), 443, None),
        ("another is open", Some((OWN, open(8443))), 443, Some(9443)),
        (
            "PERMISSIVE",
            Some((
                OWN,
                peers("shop", "hook", json!({"mtls": {"mode": "PERMISSIVE"}})),
            )),
            443,
            None,
        ),
        (
            "no namespace of the mesh",
            Some(("/api/v1/namespaces/shop", plain)),
            443,
            None,
        ),
        ("no pod of the mesh", Some((pod_at, out)), 443, None),
        ("on the node's network", Some((pod_at, on_host)), 443, None),
        ("without a selector", Some((SERVICE, by_hand)), 443, None),
    ];
    for (what, change, port, expected) in cases {
        let fake = cluster();
        if let Some((path, object)) = change {
            fake.put(path, object);
        }
        let said = told(&fake, port).await;
        assert_eq!(said.is_some(), expected.is_some(), "{what}: {said:?}");
        if let (Some(said), Some(pods)) = (said, expected) {
            let wanted = format!("call port {port} of this Service, port {pods} of its pods");
            assert!(said.starts_with("APIService v1.example.com has"), "{said}");
            assert!(said.contains(&wanted), "{what}: {said}");
            assert!(
                said.contains(&format!("portLevelMtls: {{{pods}: {{mode: PERMISSIVE}}}}")),
                "{said}"
            );
        }
    }
    let said = told(&cluster(), 443).await.expect("it is told");
    assert!(
        said.contains("PeerAuthentication mesh-system/all"),
        "{said}"
    );
}

#[test]
fn who_is_named_is_read_of_each_kind_and_of_nothing_else() {
    let key = |name: &str| ServiceKey::new("shop", name);
    let (name, targets) = named(&hooks(Some(8443)).to_string());
    let expected = BTreeSet::from([(key("hook"), 8443), (key("gone"), 8443)]);
    assert_eq!((&*name, targets), ("hooks", expected));
    let (_, targets) = named(&hooks(None).to_string());
    assert!(targets.contains(&(key("hook"), 443)), "{targets:?}");
    let api = json!({"metadata": {"name": "v1.a"}, "spec": {"service": {"namespace": "shop", "name": "hook"}, "caBundle": "eA=="}});
    assert_eq!(
        named(&api.to_string()).1,
        BTreeSet::from([(key("hook"), 443)])
    );
    for odd in [
        json!({"metadata": {"name": "v1."}, "spec": {"service": null}}),
        json!({"metadata": {"name": "x"}, "webhooks": null}),
        json!({"metadata": {"name": "x"}, "webhooks": [{"clientConfig": {"service": {"port": 99_999}}}]}),
        json!("x"),
    ] {
        assert!(named(&odd.to_string()).1.is_empty(), "{odd}");
    }
}

#[test]
fn no_more_than_a_bound_is_held_whoever_names_them() {
    let mut all = All::default();
    let of = |n: usize| {
        let target = |m: usize| (ServiceKey::new("shop", format!("s{n}-{m}")), 443);
        (
            format!("h{n}"),
            (0..MAX_EACH).map(target).collect::<BTreeSet<_>>(),
        )
    };
    assert!(all.see(0, Seen::All((0..100).map(of).collect())));
    assert!(all.targets().len() <= MAX_NAMED);
    assert!(!all.see(0, Seen::Is(of(0))), "it is the same");
    assert!(!all.see(1, Seen::All(Vec::new())), "of another kind");
    assert!(all.see(0, Seen::All(Vec::new())));
    assert!(all.targets().is_empty());
}

/// Nothing is judged.
struct Nobody;

impl Judge for Nobody {
    fn judge(&self, _: &str, _: &str) -> Verdict {
        Verdict::Conditions(Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_written_beside_the_service_and_not_at_each_look() {
    let fake = cluster();
    fake.put(HOOKS, hooks(None));
    // Of one of the kinds nothing is known.
    let api: Arc<dyn Api> = Arc::new(fake.clone());
    let cancel = CancellationToken::new();
    let events = Arc::<Events>::default();
    let config = status::Config {
        namespace: "mesh-system".to_owned(),
        me: "me".to_owned(),
        lists: Vec::new(),
        by_others: Vec::new(),
        beside: Vec::new(),
        nodes: None,
        events: events.clone(),
    };
    let writing = tokio::spawn(status::run(
        api.clone(),
        Arc::new(Nobody),
        config,
        cancel.clone(),
    ));
    let warning = tokio::spawn(warn(api, settings(), events, cancel.clone()));
    let is_written = || fake.calls("POST /api/v1/namespaces/shop/events") > 0;
    let waited = tokio::time::timeout(LOOK / 2, async {
        while !is_written() {
            sleep(PAUSE).await;
        }
    });
    assert!(waited.await.is_ok(), "it is told");
    // Looked at again, also as somebody writes the configuration over and over.
    for port in [443, 444, 443] {
        fake.put(HOOKS, hooks(Some(port)));
        sleep(LOOK * 2).await;
    }
    // One in ten minutes of the clock, which may have passed one of them meanwhile.
    let events = fake.calls("POST /api/v1/namespaces/shop/events");
    assert!((1..=2).contains(&events), "{events}");
    let looks = fake.calls("GET /api/v1/namespaces/shop/pods");
    assert!((4..20).contains(&looks), "{looks}");
    cancel.cancel();
    writing.await.expect("it ends");
    warning.await.expect("it ends");
}
