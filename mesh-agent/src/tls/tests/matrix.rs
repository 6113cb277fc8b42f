//! Wrong peers of plain rustls (and openssl) against both sides of ours.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use super::support::{DEADLINE, blocking, id, private, sockets, workload_params};
use super::wrong::Pki;
use crate::model::{PeerProtocol, TlsFailure};
use crate::tls::{Credentials, PeerId, Session, accept, connect, provider, warm};

/// Believes everybody, as a careless peer would.
#[derive(Debug)]
struct Believer;

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::chain_algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Believer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::chain_algorithms().supported_schemes()
    }
}

fn client_peer(shown: Option<Arc<CertifiedKey>>, alpn: &[&[u8]]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer));
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config
}

fn server_peer(shown: Arc<CertifiedKey>, alpn: &[&[u8]]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(Arc::new(Believer))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

fn run_client(config: ClientConfig, stream: TcpStream) {
    let name = ServerName::try_from("ignored").expect("a name");
    let mut peer = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut stream = blocking(stream);
    // How it ends for the wrong peer is not our concern.
    let _ = peer.complete_io(&mut stream);
    let _ = stream.read(&mut [0; 1024]);
}

fn run_server(config: ServerConfig, stream: TcpStream) {
    let mut peer = ServerConnection::new(Arc::new(config)).expect("a connection");
    let mut stream = blocking(stream);
    while peer.is_handshaking() && peer.complete_io(&mut stream).is_ok() {}
    let _ = stream.read(&mut [0; 1024]);
}

struct World {
    pki: Pki,
    ours: Arc<Credentials>,
}

impl World {
    fn new() -> Self {
        warm();
        let pki = Pki::new();
        let key = rcgen::KeyPair::generate().expect("a key");
        let chain = workload_params(id("ours").as_str())
            .signed_by(&key, &pki.root)
            .expect("a certificate")
            .pem();
        let trust = Arc::clone(&pki.trust);
        let ours = Credentials::new(&id("ours"), &chain, &private(&key), trust);
        let ours = ours.expect("credentials");
        Self { pki, ours }
    }

    async fn accept_from(&self, config: ClientConfig) -> (Result<PeerId, TlsFailure>, Duration) {
        let (c, s) = sockets().await;
        let peer = tokio::task::spawn_blocking(move || run_client(config, c));
        let started = Instant::now();
        let ended = accept(&s, &self.ours, DEADLINE).await;
        let took = started.elapsed();
        drop(s);
        peer.await.expect("a peer");
        (ended.map(|s: Session| s.peer).map_err(|f| f.failure), took)
    }

    async fn connect_to(&self, config: ServerConfig) -> (Result<PeerId, TlsFailure>, Duration) {
        let (c, s) = sockets().await;
        let peer = tokio::task::spawn_blocking(move || run_server(config, s));
        let started = Instant::now();
        let ended = connect(&c, &self.ours, &[id("peer")], PeerProtocol::Mesh1, DEADLINE).await;
        let took = started.elapsed();
        drop(c);
        peer.await.expect("a peer");
        (ended.map(|s: Session| s.peer).map_err(|f| f.failure), took)
    }

    fn right(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.pki.cases()[0].shown)
    }
}

/// The machine may be busy, so the bar of 50 ms is printed and not asserted;
/// none may take as long as a deadline.
fn check_times(mut times: Vec<Duration>) {
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{} certificates: median {median:?}, most {most:?}",
        times.len()
    );
    assert!(most < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn only_the_right_clients_get_in() {
    let world = World::new();
    let mut wrong = 0;
    let mut times = Vec::new();
    for case in world.pki.cases() {
        let config = client_peer(Some(Arc::clone(&case.shown)), &[PeerProtocol::Mesh1.alpn()]);
        let (ended, took) = world.accept_from(config).await;
        assert_eq!(
            ended.as_ref().err(),
            case.as_client.as_ref(),
            "{}",
            case.name
        );
        wrong += usize::from(ended.is_err());
        times.push(took);
    }
    assert!(wrong >= 40, "{wrong} wrong ones");
    check_times(times);
}

#[tokio::test]
async fn only_the_right_servers_are_talked_to() {
    let world = World::new();
    let mut wrong = 0;
    let mut times = Vec::new();
    for case in world.pki.cases() {
        let config = server_peer(Arc::clone(&case.shown), &[PeerProtocol::Mesh1.alpn()]);
        let (ended, took) = world.connect_to(config).await;
        assert_eq!(
            ended.as_ref().err(),
            case.as_server.as_ref(),
            "{}",
            case.name
        );
        wrong += usize::from(ended.is_err());
        times.push(took);
    }
    assert!(wrong >= 40, "{wrong} wrong ones");
    check_times(times);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let (ended, _) = world
        .accept_from(client_peer(None, &[PeerProtocol::Mesh1.alpn()]))
        .await;
    assert_eq!(ended.err(), Some(TlsFailure::NoCertificate));
}

#[tokio::test]
async fn another_application_protocol_or_none_is_refused() {
    let world = World::new();
    for alpn in [&[][..], &[&b"h2"[..]], &[b"mesh/2"], &[b"mesh/1x"]] {
        let config = client_peer(Some(world.right()), alpn);
        let (ended, _) = world.accept_from(config).await;
        assert_eq!(ended.err(), Some(TlsFailure::NoCommonProtocol), "{alpn:?}");
    }
    let (ended, _) = world.connect_to(server_peer(world.right(), &[])).await;
    assert_eq!(ended.err(), Some(TlsFailure::NoCommonProtocol));
    let (ended, _) = world.connect_to(server_peer(world.right(), &[b"h2"])).await;
    assert_eq!(ended.err(), Some(TlsFailure::RefusedByPeer));
}

#[tokio::test]
async fn tls_before_1_3_is_refused() {
    let world = World::new();
    let (c, s) = sockets().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    drop((c, s));
    let mut openssl = Command::new("openssl")
        .args([
            "s_client", "-tls1_2", "-alpn", "mesh/1", "-connect", &address,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_nonblocking(true).expect("nonblocking");
    let stream = TcpStream::from_std(stream).expect("a socket");
    let ended = accept(&stream, &world.ours, DEADLINE).await;
    assert_eq!(
        ended.err().map(|f| f.failure),
        Some(TlsFailure::NoCommonProtocol)
    );
    drop(stream);
    assert!(!openssl.wait().expect("an end").success());
}

#[tokio::test]
async fn what_is_no_handshake_ends_with_its_reason() {
    let world = World::new();
    for (bytes, failure) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], TlsFailure::Malformed),
        (&[0x16, 3, 1, 0, 4, 1, 0, 0, 0], TlsFailure::Malformed),
        (&[0x17, 3, 3, 0, 20], TlsFailure::Closed),
        (&[0x16, 3, 1, 0xff, 0xff], TlsFailure::Malformed),
        (&[], TlsFailure::Closed),
    ] {
        let (c, s) = sockets().await;
        c.try_write(bytes).expect("written");
        drop(c);
        let ended = accept(&s, &world.ours, DEADLINE).await;
        assert_eq!(ended.err().map(|f| f.failure), Some(failure), "{bytes:?}");
    }
    let (_c, s) = sockets().await;
    let ended = accept(&s, &world.ours, Duration::from_millis(20)).await;
    assert_eq!(ended.err().map(|f| f.failure), Some(TlsFailure::Timeout));
}

#[tokio::test]
async fn a_live_peer_is_known_as_revoked_by_the_next_list() {
    let world = World::new();
    let shown = |name: &str| {
        let case = world.pki.cases().iter().find(|case| case.name == name);
        Arc::clone(&case.expect("the case").shown)
    };
    for (name, is_revoked) in [
        ("right", false),
        ("revoked", true),
        ("revoked intermediate", true),
    ] {
        // Under a trust without a list all of them get in.
        let roots = world.pki.root.pem();
        let before = crate::tls::Trust::new(super::support::domain(), roots.as_bytes(), None);
        let before = Arc::new(before.expect("a trust"));
        let open = World {
            pki: Pki::new(),
            ours: world.ours.with_trust(before).expect("credentials"),
        };
        let config = client_peer(Some(shown(name)), &[PeerProtocol::Mesh1.alpn()]);
        let (ended, _) = open.accept_from(config).await;
        let peer = ended.expect("a peer");
        assert_eq!(open.ours.trust().still_trusts(&peer), Ok(()));
        let now = world.pki.trust.still_trusts(&peer);
        let expected = if is_revoked {
            Err(TlsFailure::Revoked)
        } else {
            Ok(())
        };
        assert_eq!(now, expected, "{name}");
    }
}
