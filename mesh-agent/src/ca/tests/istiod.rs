//! Another authority in place of ours: what istiod and istio-csr demand and answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::server::UnaryService;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::*;
use crate::ca::authority::{Authority, Record};
use crate::ca::calls::CreateCertificate;
use crate::ca::csr;
use crate::ca::served::Served;
use crate::identity::Roots;
use crate::identity::grpc::CertificateResponse;
use crate::tls::{CaServer, CaStream};

const JWT: &str = "e30.e30.c2ln";

struct Istiod {
    authority: Authority,
    /// Requests as they were taken.
    asked: parking_lot::Mutex<Vec<String>>,
}

impl Istiod {
    /// Its signing certificate is not its root.
    fn new() -> Self {
        let params = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![
                rcgen::KeyUsagePurpose::KeyCertSign,
                rcgen::KeyUsagePurpose::CrlSign,
            ];
            params
        };
        let key = || rcgen::KeyPair::generate().expect("a key");
        let root = rcgen::CertifiedIssuer::self_signed(params("root"), key()).expect("a root");
        let signing = key();
        let text = signing.serialize_pem();
        let signing = rcgen::CertifiedIssuer::signed_by(params("istiod"), signing, &root);
        let chain = signing.expect("a certificate").pem() + &root.pem();
        let record = Record::import(&chain, text.into(), SystemTime::now());
        Self {
            authority: record.and_then(|r| r.load()).expect("an authority"),
            asked: parking_lot::Mutex::default(),
        }
    }

    fn server(&self) -> CaServer {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["istiod.istio-system.svc".to_owned()];
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        let signed = self.authority.sign_server(&names, &key, hour, now);
        let chain = signed.expect("signed").pem + &self.authority.intermediates.concat();
        let key = PrivateKey::from_pem(key.serialize_pem().as_bytes()).expect("a key");
        CaServer::new(&chain, &key).expect("a server")
    }

    /// As its authenticator and its node authorizer: a bearer token, the cluster's
    /// name, and the identity that is asked for, in the metadata.
    fn answer(&self, request: &Request<CertificateRequest>) -> Result<CertificateResponse, Status> {
        let header = |name: &str| {
            let value = request.metadata().get(name);
            value.and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let bearer = format!("Bearer {JWT}");
        if header("authorization") != Some(bearer) {
            return Err(Status::unauthenticated("authentication failure"));
        }
        if header("clusterid").as_deref() != Some("Kubernetes") {
            return Err(Status::unauthenticated(
                "client claims to be in another cluster",
            ));
        }
        let message = request.get_ref();
        let asked = message.impersonated().ok().flatten();
        let asked = asked.ok_or_else(|| Status::unauthenticated("no identity"))?;
        self.asked.lock().push(asked.to_owned());
        // The names in the request do not count.
        let (_, key) = csr::read(&message.csr).map_err(|_| Status::internal("CSR sign error"))?;
        let id = SpiffeId::parse(asked).map_err(|_| Status::internal("CSR sign error"))?;
        let seconds = u64::try_from(message.validity_duration).unwrap_or(0);
        let life = Duration::from_secs(seconds);
        let signed = self.authority.sign(&id, &key, life, SystemTime::now());
        let signed = signed.map_err(|_| Status::internal("CSR sign error"))?;
        // Leaf, what is between, and the root last.
        let mut cert_chain = vec![signed.pem];
        cert_chain.extend(self.authority.intermediates.iter().cloned());
        cert_chain.push(self.authority.root.clone());
        Ok(CertificateResponse { cert_chain })
    }
}

struct Stream(CaStream);

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[derive(Clone)]
struct Answering(Arc<Istiod>);

impl UnaryService<CertificateRequest> for Answering {
    type Response = CertificateResponse;
    type Future = std::future::Ready<Result<Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        std::future::ready(self.0.answer(&request).map(Response::new))
    }
}

fn agent_of_istiod(dir: &Path, address: SocketAddr, cluster_id: Option<&str>) -> Identities {
    Identities::start(identity::Config {
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        trust_domain_aliases: vec![],
        source: SourceConfig::Ca(Box::new(CaConfig {
            address: address.to_string(),
            server_name: "istiod.istio-system.svc".to_owned(),
            roots: Roots::File(dir.join("root-cert.pem")),
            token: dir.join("token"),
            node: "n1".to_owned(),
            cluster_id: cluster_id.map(str::to_owned),
            lifetime: Some(Duration::from_secs(60)),
        })),
        crl_file: None,
        crl_kept: None,
    })
}

#[tokio::test]
async fn istiod_in_place_of_our_authority_gives_certificates_with_its_chain() {
    let dir = tempfile::tempdir().expect("a directory");
    let istiod = Arc::new(Istiod::new());
    std::fs::write(dir.path().join("root-cert.pem"), &istiod.authority.root).expect("write");
    // The kubelet has not written it yet.
    std::fs::write(dir.path().join("token"), "").expect("write");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let (streams, incoming) = tokio::sync::mpsc::channel::<io::Result<Stream>>(4);
    let server = istiod.server();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = server.accept(stream).await {
                let _ended = streams.send(Ok(Stream(stream))).await;
            }
        }
    });
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(Served::<CreateCertificate, _>::by(Answering(
                istiod.clone(),
            )))
            .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming)),
    );
    let agent = agent_of_istiod(dir.path(), address, Some("Kubernetes"));
    assert!(
        get(&agent, "web", 1).await.is_err(),
        "an empty token is none"
    );
    std::fs::write(dir.path().join("token"), format!("{JWT}\n")).expect("write");
    let got = get(&agent, "web", 10).await.expect("a certificate");
    assert_eq!(got.id(), &id("web"));
    got.is_trusted().expect("by its chain, up to the root");
    assert_eq!(*istiod.asked.lock(), [id("web").to_string()]);
    assert!(agent.status().token.is_none(), "it does not tell of tokens");
    let other = agent_of_istiod(dir.path(), address, None);
    let refused = get(&other, "web", 2).await.map(|c| c.id().clone());
    assert!(
        matches!(&refused, Err(IdentityError::Unavailable(why)) if why.contains("another cluster")),
        "{refused:?}"
    );
    agent.stop().await;
    other.stop().await;
    serving.abort();
    accepting.abort();
}
