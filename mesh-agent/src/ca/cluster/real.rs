//! The same before a real control plane: what its answers are in truth, and that
//! the accounts may do what they must and no more is needed.
//!
//! `MESH_TEST_KUBECONFIG` names an administrator's; the control plane needs no nodes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tests::{Replica, agent_with_roots, cluster, get, until, why};
use super::*;
use crate::ca::Step;
use crate::ca::errors::Refusal;
use crate::cluster::rbac;
use crate::cluster::{Access, Client, Verb};

/// What stays of an earlier run is taken as it is.
async fn make(api: &dyn Api, list: &str, object: Value) {
    match api.call(list, Verb::Create(object)).await {
        Ok(_) | Err(ApiError::Exists(_)) => {}
        Err(error) => panic!("{list}: {error}"),
    }
}

async fn token(api: &dyn Api, of: (&str, &str), audience: &str, pod: Option<&str>) -> String {
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", of.0, of.1);
    let bound = pod.map(|name| json!({"kind": "Pod", "apiVersion": "v1", "name": name}));
    let audiences = match audience {
        "" => json!([]),
        one => json!([one]),
    };
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound},
    });
    let answer = api
        .call(&path, Verb::Create(request))
        .await
        .expect("a token");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["status"]["token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

async fn real_pod(api: &dyn Api, (namespace, name): (&str, &str), account: &str, node: &str) {
    let list = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node, "serviceAccountName": account,
            "containers": [{"name": "c", "image": "none"}],
        },
    });
    make(api, &list, pod).await;
}

async fn provide(api: &dyn Api) {
    for node in ["n1", "n2"] {
        make(api, "/api/v1/nodes", json!({"metadata": {"name": node}})).await;
    }
    for (namespace, accounts) in [
        ("mesh-system", ["mesh-agent", "mesh-agent-ca"]),
        ("shop", ["web", "db"]),
    ] {
        make(
            api,
            "/api/v1/namespaces",
            json!({"metadata": {"name": namespace}}),
        )
        .await;
        let list = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        for account in accounts {
            make(api, &list, json!({"metadata": {"name": account}})).await;
        }
    }
    for (list, object) in rbac::objects() {
        make(api, &list, object).await;
    }
    for node in ["n1", "n2"] {
        real_pod(
            api,
            ("mesh-system", &format!("agent-{node}")),
            "mesh-agent",
            node,
        )
        .await;
    }
    real_pod(api, ("shop", "web-0"), "web", "n1").await;
    real_pod(api, ("shop", "db-0"), "db", "n2").await;
}

/// The administrator's, with the account's token instead of the certificate.
async fn as_account(api: &dyn Api, admin: &Path, dir: &Path, account: &str) -> Client {
    let token = token(api, ("mesh-system", account), "", None).await;
    let text = std::fs::read_to_string(admin).expect("a kubeconfig");
    let without = text
        .lines()
        .filter(|line| !line.contains("client-key-data"));
    let lines = without.map(|line| match line.split_once("client-certificate-data") {
        Some((indent, _)) => format!("{indent}token: {token}\n"),
        None => format!("{line}\n"),
    });
    let path = dir.join(account);
    std::fs::write(&path, lines.collect::<String>()).expect("write");
    let access = Access::Kubeconfig(path);
    Client::start(&access).await.expect("a client")
}

#[tokio::test]
#[ignore = "needs a control plane: MESH_TEST_KUBECONFIG"]
async fn the_authority_does_its_work_at_a_real_api_server_with_the_permissions_of_the_table() {
    let admin = PathBuf::from(std::env::var_os("MESH_TEST_KUBECONFIG").expect("it is set"));
    let dir = tempfile::tempdir().expect("a directory");
    let root = Client::start(&Access::Kubeconfig(admin.clone()))
        .await
        .expect("a client");
    provide(&root).await;
    let ca_account = as_account(&root, &admin, dir.path(), "mesh-agent-ca").await;
    let agent_account = as_account(&root, &admin, dir.path(), "mesh-agent").await;

    // Two at once, on an empty namespace: another name for each run.
    let name = format!("race-{:08x}", rand::random::<u32>());
    let race = Cluster {
        secret: name.clone(),
        ..cluster()
    };
    let (a, b) = tokio::join!(
        Replica::at(Arc::new(root.clone()), race.clone()),
        Replica::at(Arc::new(root.clone()), race)
    );
    let bundle = |replica: &Replica| replica.ca.fresh().expect("state").bundle();
    until("they agree", || bundle(&a) == bundle(&b)).await;
    a.end().await;
    b.end().await;

    // With the account's own permissions, under the names that they are for.
    let api: Arc<dyn Api> = Arc::new(ca_account.clone());
    let replica = Replica::at(api.clone(), cluster()).await;
    let of = ("mesh-system", "mesh-agent");
    let good = token(&root, of, "mesh-agent-ca", Some("agent-n1")).await;
    assert_eq!(replica.denies(&good, Some("n1")).await, None);
    assert_eq!(
        replica.denies(&good, Some("n2")).await,
        Some(Refusal::OtherNode)
    );
    let kubernetes = token(&root, of, "", Some("agent-n1")).await;
    assert_eq!(
        replica.denies(&kubernetes, None).await,
        Some(Refusal::Audience)
    );
    let unbound = token(&root, of, "mesh-agent-ca", None).await;
    assert_eq!(
        replica.denies(&unbound, None).await,
        Some(Refusal::NoNodeClaim)
    );
    let workload = token(&root, ("shop", "web"), "mesh-agent-ca", Some("web-0")).await;
    assert_eq!(
        replica.denies(&workload, None).await,
        Some(Refusal::Account)
    );
    let mut forged = good.clone();
    forged.replace_range(good.len() - 8.., "AAAAAAAA");
    assert_eq!(
        replica.denies(&forged, None).await,
        Some(Refusal::UnknownToken)
    );

    // An agent, with its own permissions: roots by the watch, certificates by its token.
    std::fs::write(dir.path().join("token"), &good).expect("write");
    let roots_at = dir.path().join("kept");
    let mirror = crate::identity::mirror_of("mesh-system/mesh-agent-ca-root", &roots_at);
    let following = tokio::spawn(async move { mirror.follow(&agent_account).await });
    until("roots came", || roots_at.join("root.pem").exists()).await;
    std::fs::copy(roots_at.join("root.pem"), dir.path().join("root.pem")).expect("copied");
    let n1 = agent_with_roots(dir.path(), replica.address, "n1");
    get(&n1, "web", 10).await.expect("a certificate");
    let refused = why(get(&n1, "db", 4).await);
    assert!(refused.contains("PermissionDenied"), "{refused}");
    n1.stop().await;

    // Through the Secret, the ConfigMap and the watch of the agent.
    let kept = || std::fs::read_to_string(roots_at.join("root.pem")).unwrap_or_default();
    let before = kept().matches("BEGIN").count();
    let step = if before == 1 {
        Step::Prepare(None)
    } else {
        Step::Activate
    };
    let runtime = tokio::runtime::Handle::current();
    let place = Place::open(Arc::new(Secret::new(api, &cluster(), runtime, false)));
    let taken = tokio::task::spawn_blocking(move || crate::ca::rotate(place, &step, true));
    taken.await.expect("it ran").expect("rotated");
    until("A+B", || kept().matches("BEGIN").count() == 2).await;
    following.abort();
    replica.end().await;

    // A pod's end is the end of its token, whatever the token says of itself.
    let replica = Replica::at(Arc::new(ca_account), cluster()).await;
    let ended = token(&root, of, "mesh-agent-ca", Some("agent-n2")).await;
    assert_eq!(replica.denies(&ended, None).await, None);
    replica.end().await;
}
