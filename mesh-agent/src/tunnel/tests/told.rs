//! What a client hears of its stream: that it was taken, or whose rule denied it.

use std::sync::Arc;

use super::*;
use crate::model::{ByteMeter, PeerRule, RuleRef};

#[tokio::test(flavor = "local")]
async fn a_denial_names_its_rule_to_a_client_that_takes_it_and_another_gets_the_reason_alone() {
    for takes_rule in [true, false] {
        let (mut near, mut far) = connections().await;
        let (agent, _application) = sockets().await;
        let rule = RuleRef {
            policy: "shop/no-web".into(),
            rule: Some(2),
            generation: 9,
        };
        let mut relay = near.open(&Open {
            takes_rule,
            ..open()
        });
        let destination = async {
            let taken = far.accept().await.expect("a stream").expect("a stream");
            let IncomingStream { open, mut relay } = *taken;
            let rule = Some(&rule).filter(|_| open.takes_rule);
            relay.finish_reset(&mut far, Reset::denied(rule)).await
        };
        let client = async {
            let end = relay.run(&agent, &mut near).await;
            assert_eq!(end, StreamEnd::ResetByPeer(ResetReason::Denied));
            let named = relay.take_denied_by();
            (
                named,
                relay.finish_reset(&mut near, ResetReason::Answer).await,
            )
        };
        let (whole, (named, reusable)) = tokio::join!(destination, client);
        assert!(whole && reusable, "the connection carries the next stream");
        let expected = takes_rule.then(|| PeerRule {
            policy: rule.policy.clone(),
            rule: rule.rule,
        });
        assert_eq!(named.as_deref(), expected.as_ref());
    }
}

#[tokio::test(flavor = "local")]
async fn the_acceptance_is_told_once_and_bytes_show_while_the_stream_lasts() {
    let (mut near, mut far) = connections().await;
    let (agent, mut application) = sockets().await;
    let (backend, mut server) = sockets().await;
    let mut relay = near.open(&open());
    let destination = async {
        let taken = far.accept().await.expect("a stream").expect("a stream");
        let mut relay = taken.relay;
        relay.accept();
        relay.run(&backend, &mut far).await
    };
    let meter = Arc::new(ByteMeter::default());
    let client = async {
        assert!(!relay.is_accepted());
        assert_eq!(relay.advance(&agent, &mut near).await, None);
        assert!(relay.is_accepted());
        relay.show(meter.clone());
        relay.advance(&agent, &mut near).await
    };
    let applications = async {
        application.write_all(b"question").await.expect("written");
        let mut read = [0; 8];
        server.read_exact(&mut read).await.expect("read");
        server.write_all(b"answer").await.expect("written");
        let mut read = [0; 6];
        application.read_exact(&mut read).await.expect("read");
        // Both are still open.
        let bytes = meter.get();
        assert_eq!((bytes.sent, bytes.received), (8, 6));
        drop((application, server));
    };
    let (_, end, ()) = tokio::join!(destination, client, applications);
    assert_eq!(end, Some(StreamEnd::Finished));
}
