//! The authority's port.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::audit::Who;
use super::errors::{Error, Refusal};
use super::handle::Handle;
use super::publish::publish;
use super::seats::{PROVE, Seat, Seats};
use super::signer::{Ca, Call, Config};
use super::token::{Authenticator as _, Caller, Denied, Proof};
use super::units::seconds;
use crate::identity::grpc::{CertificateRequest, CertificateResponse, METHOD, SERVICE};
use crate::tls::{CaServer, CaStream, PrivateKey};

const HANDSHAKE: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(5);
const CONNECTION_AGE: Duration = Duration::from_secs(300);
const MAX_MESSAGE: usize = 16 * 1024;
const STREAMS: u32 = 32;
const OWN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Own certificate and revocation lists are made anew after this long.
const REFRESH: Duration = Duration::from_secs(6 * 3600);
/// Name that its certificate always has.
const NAME: &str = "mesh-ca";

/// Serves until cancelled. `ready` is called with the address, and what there
/// is to look at.
pub async fn run(
    config: Config,
    cancel: CancellationToken,
    ready: impl FnOnce(SocketAddr, Handle),
) -> Result<(), Error> {
    let ca = Arc::new(Ca::open(config)?);
    let seats = Seats::new(ca.config.max_connections);
    let _running = ca.store.lock_to_run()?;
    let listen = ca.config.listen;
    let failed = |error| Error::Io {
        path: listen.to_string().into(),
        error,
    };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let handle = Handle {
        ca: ca.clone(),
        seats: seats.clone(),
    };
    ready(listener.local_addr().map_err(failed)?, handle);
    let (connections, incoming) = mpsc::channel(16);
    let port = Port {
        ca: ca.clone(),
        seats,
        own: None,
        tasks: TaskTracker::new(),
        connections,
    };
    let accepting = port.accept(listener, cancel.clone());
    let serving = Server::builder()
        .timeout(REQUEST)
        .concurrency_limit_per_connection(STREAMS as usize)
        .max_concurrent_streams(STREAMS)
        .max_connection_age(CONNECTION_AGE)
        .max_connection_age_grace(REQUEST)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .add_service(Certificates(ca))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), cancel.cancelled_owned());
    let (served, accepted) = tokio::join!(serving, accepting);
    served?;
    accepted
}

struct Port {
    ca: Arc<Ca>,
    seats: Arc<Seats>,
    /// Own certificate, its issuer, since when.
    own: Option<(CaServer, String, Instant)>,
    tasks: TaskTracker,
    connections: mpsc::Sender<io::Result<Connection>>,
}

impl Port {
    async fn accept(
        mut self,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let slots = Arc::new(Semaphore::new(self.ca.config.max_connections));
        self.refresh()?;
        loop {
            let slot = slots.clone().acquire_owned();
            let accepted = async { (slot.await, listener.accept().await) };
            let (slot, stream) = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = accepted => accepted,
            };
            match (slot, stream) {
                (Ok(slot), Ok((stream, peer))) => self.admit(stream, peer, slot),
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                (Err(_), _) => break,
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        Ok(())
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let Some(seat) = self.seats.take(peer.ip()) else {
            tracing::debug!(%peer, "too many connections that prove nothing: one more is closed");
            return;
        };
        let Some(server) = self.server() else { return };
        let connections = self.connections.clone();
        let proof = Box::pin(tokio::time::sleep(PROVE));
        self.tasks.spawn(async move {
            // What fails here is the caller's to see.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, server.accept(stream)).await {
                let connection = Connection {
                    stream,
                    peer,
                    seat,
                    proof,
                    _slot: slot,
                };
                let _ended = connections.send_timeout(Ok(connection), HANDSHAKE).await;
            }
        });
    }

    /// What cannot be made anew is told, and the one that there is serves while
    /// it is valid: most of what agents ask needs nothing else.
    fn server(&mut self) -> Option<CaServer> {
        let refreshed = self.refresh();
        self.ca.metrics.published(refreshed.as_ref().err());
        refreshed.ok().or_else(|| {
            let (server, _, since) = self.own.as_ref()?;
            (since.elapsed() < OWN_LIFETIME).then(|| server.clone())
        })
    }

    /// The own certificate comes from the oldest root, so that who pinned it
    /// needs another one only when it is retired.
    fn refresh(&mut self) -> Result<CaServer, Error> {
        let loaded = self.ca.fresh()?;
        let oldest = loaded
            .authorities
            .first()
            .ok_or(Error::Stage("there is no signing key"))?;
        if let Some((server, issuer, since)) = &self.own
            && *issuer == oldest.id
            && since.elapsed() < REFRESH
        {
            return Ok(server.clone());
        }
        let now = SystemTime::now();
        let key = rcgen::KeyPair::generate()?;
        let mut names = vec![NAME.to_owned(), "localhost".to_owned()];
        let ip = self.ca.config.listen.ip();
        if !ip.is_unspecified() {
            names.push(ip.to_string());
        }
        names.extend(self.ca.config.names.iter().cloned());
        let signed = oldest.sign_server(&names, &key, OWN_LIFETIME, now)?;
        let chain = signed.pem + &oldest.intermediates.concat();
        let key = zeroize::Zeroizing::new(key.serialize_pem());
        let server = CaServer::new(&chain, &PrivateKey::from_pem(key.as_bytes())?)?;
        {
            let _lock = self.ca.store.lock()?;
            publish(&self.ca.store, now)?;
        }
        self.own = Some((server.clone(), oldest.id.clone(), Instant::now()));
        Ok(server)
    }
}

/// Holds its slot until it ends; ends soon where nothing is proven.
struct Connection {
    stream: CaStream,
    peer: SocketAddr,
    seat: Arc<Seat>,
    proof: Pin<Box<tokio::time::Sleep>>,
    _slot: OwnedSemaphorePermit,
}

/// What a request knows of its connection.
#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    seat: Arc<Seat>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer {
            address: self.peer,
            seat: self.seat.clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seat.is_proven() && self.proof.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone)]
struct Certificates(Arc<Ca>);

impl NamedService for Certificates {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Certificates {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("").into_http());
            }
            let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(service, request).await)
        })
    }
}

impl UnaryService<CertificateRequest> for Certificates {
    type Response = CertificateResponse;
    type Future = Answer<Result<Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        Box::pin(create(self.0.clone(), request))
    }
}

async fn create(
    ca: Arc<Ca>,
    request: Request<CertificateRequest>,
) -> Result<Response<CertificateResponse>, Status> {
    let begun = Instant::now();
    let answer = answer(&ca, request).await;
    let counted = answer.as_ref().map(|_| ()).map_err(|(refusal, _)| *refusal);
    ca.metrics.answered(counted, begun.elapsed());
    answer.map_err(|(_, status)| status)
}

async fn answer(
    ca: &Arc<Ca>,
    request: Request<CertificateRequest>,
) -> Result<Response<CertificateResponse>, (Refusal, Status)> {
    let connection = request.extensions().get::<Peer>().cloned();
    let peer = connection.as_ref().map(|p| p.address.to_string());
    let peer = peer.unwrap_or_default();
    let refused = |who: Who<'_>, asked: &str, refusal, said: Option<String>| {
        ca.audit.refused(&ca.store, who, asked, refusal, &peer);
        (refusal, status(refusal, said))
    };
    let caller = match authenticate(ca, &request).await {
        Ok(caller) => caller,
        Err(denied) => {
            if let Some(token) = &denied.token {
                tracing::warn!(
                    token = token.id,
                    node = token.node,
                    %peer,
                    "{}: make one with `mesh-agent ca token create --node {} --allow …`",
                    denied.sentence(),
                    token.node
                );
            }
            let said = Some(denied.sentence());
            return Err(refused(Who::from(&denied), "", denied.why, said));
        }
    };
    if connection.is_some_and(|c| !c.seat.prove(&caller.name)) {
        return Err(refused(Who::from(&caller), "", Refusal::RateLimit, None));
    }
    let message = request.into_inner();
    let asked = message.impersonated().ok().flatten().unwrap_or_default();
    let asked: String = asked.chars().take(300).collect();
    let who = caller.clone();
    let (ca, from) = (ca.clone(), peer.clone());
    let token = caller.token;
    let work = move || {
        let call = Call {
            caller: &caller,
            peer: &from,
            request: &message,
        };
        ca.admits(&caller).and_then(|()| ca.issue(&call))
    };
    let issued = tokio::task::spawn_blocking(work).await;
    match issued.unwrap_or(Err(Refusal::Internal)) {
        Ok(cert_chain) => {
            let mut response = Response::new(CertificateResponse { cert_chain });
            if let Some(token) = token {
                token.tell(response.metadata_mut());
            }
            Ok(response)
        }
        Err(refusal) => Err(refused(Who::from(&who), &asked, refusal, None)),
    }
}

async fn authenticate(ca: &Ca, request: &Request<CertificateRequest>) -> Result<Caller, Denied> {
    let text = |name| request.metadata().get(name).and_then(|v| v.to_str().ok());
    let proof = Proof {
        token: text("authorization").and_then(|v| v.strip_prefix("Bearer ")),
        node: text("mesh-node"),
        now: seconds(SystemTime::now()),
    };
    ca.authenticate(proof).await
}

/// No more than the class: who tries tokens learns nothing. `said`: to who has
/// shown the secret of a token.
fn status(refusal: Refusal, said: Option<String>) -> Status {
    match refusal {
        Refusal::NoToken
        | Refusal::UnknownToken
        | Refusal::ExpiredToken
        | Refusal::RevokedToken
        | Refusal::OtherNode => {
            Status::unauthenticated(said.unwrap_or_else(|| "not authenticated".to_owned()))
        }
        Refusal::RateLimit | Refusal::Full => Status::resource_exhausted("too many requests"),
        Refusal::NotAllowed | Refusal::ForeignTrustDomain | Refusal::IdentityMismatch => {
            Status::permission_denied("not an identity of this node")
        }
        Refusal::Csr
        | Refusal::CsrSignature
        | Refusal::KeyType
        | Refusal::Names
        | Refusal::Lifetime => Status::invalid_argument(refusal.to_string()),
        Refusal::Internal => Status::internal("the authority cannot sign now"),
    }
}
