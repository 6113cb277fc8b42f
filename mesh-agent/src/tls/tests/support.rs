//! A small certificate authority and pairs of sockets.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};

use crate::model::{SpiffeId, TrustDomain};
use crate::tls::{Credentials, PrivateKey, Session, Trust, accept, connect, warm};

pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
pub(super) const DOMAIN: &str = "cluster.local";

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "shop", account).expect("an identity")
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::new(DOMAIN).expect("a trust domain")
}

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(super) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn root(name: &str) -> Issuer {
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(ca_params(name), key).expect("a root")
}

pub(super) fn workload_params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

pub(super) fn trust(root: &Issuer) -> Arc<Trust> {
    Arc::new(Trust::new(domain(), root.pem().as_bytes(), None).expect("a trust"))
}

pub(super) fn private(key: &KeyPair) -> PrivateKey {
    PrivateKey::from_pem(key.serialize_pem().as_bytes()).expect("a key")
}

pub(crate) fn credentials(root: &Issuer, account: &str) -> Arc<Credentials> {
    let key = KeyPair::generate().expect("a key");
    let certificate = workload_params(id(account).as_str())
        .signed_by(&key, root)
        .expect("a certificate");
    Credentials::new(
        &id(account),
        &certificate.pem(),
        &private(&key),
        trust(root),
    )
    .expect("credentials")
}

pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("an address");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (client, (server, _)) = (client.expect("a connection"), server.expect("a connection"));
    for end in [&client, &server] {
        end.set_nodelay(true).expect("no delay");
    }
    (client, server)
}

/// A blocking socket for a peer that is driven by rustls itself.
pub(super) fn blocking(stream: TcpStream) -> std::net::TcpStream {
    let stream = stream.into_std().expect("a socket");
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Our server's session with a client of plain rustls.
pub(super) async fn with_rustls_client() -> (Session, ClientConnection) {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let (c, s) = sockets().await;
    let config = client.client_config(&[id("db")], crate::model::PeerProtocol::Mesh1);
    let peer = tokio::task::spawn_blocking(move || {
        let name = ServerName::try_from("ignored").expect("a name");
        let mut peer = ClientConnection::new(config, name).expect("a connection");
        peer.complete_io(&mut blocking(c)).expect("a handshake");
        peer
    });
    let session = accept(&s, &server, DEADLINE).await.expect("a session");
    (session, peer.await.expect("a peer"))
}

/// Our client's session with a server of plain rustls, which sends two tickets.
pub(super) async fn with_rustls_server() -> (Session, ServerConnection) {
    warm();
    let root = root("root");
    let (client, server) = (credentials(&root, "web"), credentials(&root, "db"));
    let (c, s) = sockets().await;
    let mut config = ServerConfig::clone(&server.server_config());
    config.session_storage = ServerSessionMemoryCache::new(4);
    config.send_tls13_tickets = 2;
    let peer = tokio::task::spawn_blocking(move || {
        let mut peer = ServerConnection::new(Arc::new(config)).expect("a connection");
        let mut stream = blocking(s);
        while peer.is_handshaking() {
            peer.complete_io(&mut stream).expect("a handshake");
        }
        peer.write_tls(&mut stream).expect("tickets");
        peer
    });
    let expected = [id("db")];
    let session = connect(
        &c,
        &client,
        &expected,
        crate::model::PeerProtocol::Mesh1,
        DEADLINE,
    )
    .await;
    let peer = peer.await.expect("a peer");
    let mut session = session.expect("a session");
    // All that the server sent is in the socket or in `early` by now.
    while let Ok(count) = c.try_read_buf(&mut session.early) {
        if count == 0 {
            break;
        }
    }
    (session, peer)
}
