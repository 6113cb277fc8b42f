//! Figures for people: `cargo test --release -p mesh-agent --lib speed -- --ignored --nocapture`.

use std::time::Instant;

use super::handshakes::pair;
use super::support::{DEADLINE, credentials, id, root, sockets};
use crate::tls::{HEAD, MAX_PLAINTEXT, Opened, TAIL, accept, connect, warm};

#[tokio::test]
#[ignore = "prints figures"]
async fn records_per_second() {
    let (mut client, mut server) = pair().await;
    let mut buf = vec![0; HEAD + MAX_PLAINTEXT + TAIL];
    let rounds = 100_000_usize;
    let started = Instant::now();
    for _ in 0..rounds {
        client
            .records
            .seal(&mut buf, MAX_PLAINTEXT)
            .expect("a record");
        let opened = server.records.open(&mut buf).expect("a record");
        assert!(matches!(opened, Opened::Data { .. }));
    }
    let seconds = started.elapsed().as_secs_f64();
    let gigabytes = (rounds * MAX_PLAINTEXT) as f64 / 1e9;
    println!("seal and open: {:.2} GB/s", gigabytes / seconds);
}

#[tokio::test]
#[ignore = "prints figures"]
async fn handshakes_per_second() {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let expected = [id("db")];
    let rounds = 2_000;
    let started = Instant::now();
    for _ in 0..rounds {
        let (c, s) = sockets().await;
        let (c, s) = tokio::join!(
            connect(
                &c,
                &client,
                &expected,
                crate::model::PeerProtocol::Mesh1,
                DEADLINE
            ),
            accept(&s, &server, DEADLINE)
        );
        assert!(c.is_ok() && s.is_ok());
    }
    let each = started.elapsed() / rounds;
    println!("handshake, both sides on one thread, with TCP: {each:?}");
}
