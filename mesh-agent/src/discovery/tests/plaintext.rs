//! Plaintext that one configuration has chosen, when another one is in force.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{SHOP, load};
use crate::model::{Name, OrigDst, PodIps, RefuseReason, Snapshot, TrustDomain};
use crate::plan::{DecisionContext, InForce, Outside, SourcePod, Transport};
use crate::policy::Authorizer;

/// What the pods of SHOP are set to.
fn set_to(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: m, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn shop(mode: &str) -> Snapshot {
    let (snapshot, problems) = load(&format!("{SHOP}\n---\n{}", set_to(mode)));
    assert_eq!(problems, [""; 0]);
    snapshot
}

fn asked<T>(snapshot: &Snapshot, ask: impl FnOnce(&DecisionContext<'_>) -> T) -> T {
    let published = InForce {
        policy: Arc::new(Authorizer::compile(snapshot)),
        snapshot: Arc::new(snapshot.clone()),
        ..InForce::default()
    };
    ask(&DecisionContext {
        published: &published,
        node: "n2",
        node_zone: None,
        trust_domain: &TrustDomain::new("cluster.local").expect("a trust domain"),
        same_node_tls: false,
    })
}

/// What plaintext from another node to the pod of SHOP is dialled by.
fn outside(snapshot: &Snapshot) -> Outside {
    asked(snapshot, |context| {
        let address = IpAddr::from([10, 9, 9, 9]);
        let source = SourcePod {
            own: PodIps::from(address),
            address,
            egress: PodIps::default(),
            pod: &Name::from("client"),
        };
        let to = OrigDst::new("10.0.0.5:8080".parse().expect("an address"));
        let backends = context.backends(&source, to).expect("one");
        let (targets, _) = backends.list(1).expect("one");
        let target = targets.into_iter().next().expect("one");
        match context.transport(&target, Instant::now()) {
            Ok(Transport::Plain(outside)) => outside,
            Ok(Transport::Mesh(_) | Transport::SameNode(_)) => panic!("not in plaintext"),
            Err(reason) => panic!("{reason}"),
        }
    })
}

#[test]
fn plaintext_goes_nowhere_that_is_in_mutual_tls_by_now() {
    let not_enrolled = SHOP.replace("\"true\"", "\"false\"");
    let (outsider, _) = load(&not_enrolled);
    let (disabled, strict, permissive) = (shop("DISABLE"), shop("STRICT"), shop("PERMISSIVE"));
    let twice = format!("{SHOP}\n---\n{}", SHOP.replace("web-0", "web-1"));
    let (contested, _) = load(&twice);
    let (contested_plain, _) = load(&format!("{twice}\n---\n{}", set_to("DISABLE")));
    let (service, _) = load(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n\
         spec: {clusterIP: 10.0.0.5, ports: [{port: 8080}]}\n",
    );
    let (nobody, _) = load("");
    let refused = Err(RefuseReason::WrongWorkload);
    for (what, chosen_by, in_force, expected) in [
        ("nothing changed", &outsider, &outsider, Ok(())),
        ("nothing changed", &disabled, &disabled, Ok(())),
        ("it is gone", &outsider, &nobody, Ok(())),
        ("it has left the mesh", &disabled, &outsider, Ok(())),
        ("it joined in plaintext", &outsider, &disabled, Ok(())),
        ("it joined", &outsider, &strict, refused),
        ("it joined", &outsider, &permissive, refused),
        ("two pods claim it", &outsider, &contested, refused),
        ("two pods claim it", &disabled, &contested_plain, refused),
        ("it is a Service's", &outsider, &service, refused),
        ("it is strict", &disabled, &strict, refused),
        ("it takes mutual TLS", &disabled, &permissive, refused),
    ] {
        let outside = outside(chosen_by);
        let now = asked(in_force, |context| {
            context.still_outside(&outside, Instant::now())
        });
        assert_eq!(now, expected, "{what}");
    }
}
