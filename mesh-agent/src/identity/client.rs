//! Certificates from an authority over gRPC.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::codegen::Service;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{HeaderValue, Uri};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use zeroize::Zeroizing;

use super::files::Stamp;
use super::grpc::{CertificateRequest, CertificateResponse, METHOD};
use super::roots::RootsFrom;
use super::source::{CertificateSource, Change, Fetch, Fetched, SourceError, new_token, read};
use super::token::TokenLife;
use crate::model::SpiffeId;
use crate::tls::{CaClient, CaName, CaStream, PrivateKey};

/// An authority that is away must not hold up the next attempt: recovery
/// within 5 s of its return includes this and the pause.
const CONNECT: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(5);
/// Replicas that are asked, one after the other, where one cannot say: a Service leads to
/// any, and one of two is missed once in 64 times.
const REPLICAS: u32 = 6;
/// Before the next, and so much longer before each further one.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_ANSWER: usize = 256 * 1024;
const MAX_MESSAGE: usize = 200;

/// How to reach the authority.
#[derive(Clone, Debug)]
pub(crate) struct CaConfig {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// Name that its certificate must have.
    pub(crate) server_name: String,
    pub(crate) roots: Roots,
    /// Read for each request.
    pub(crate) token: PathBuf,
    /// This node's name, told to the authority.
    pub(crate) node: String,
    /// What an authority of several clusters calls this one.
    pub(crate) cluster_id: Option<String>,
    /// Asked for; the authority may give less. None: its default.
    pub(crate) lifetime: Option<Duration>,
}

/// Roots (PEM) that the authority's own certificate must come from.
#[derive(Clone, Debug)]
pub(crate) enum Roots {
    /// Read for each connection.
    File(PathBuf),
    ConfigMap(RootsFrom),
}

impl Roots {
    fn file(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::ConfigMap(from) => from.roots(),
        }
    }
}

pub(super) struct Client {
    /// Why roots are not followed.
    unrooted: Arc<parking_lot::Mutex<Option<String>>>,
    /// The token's file, and that of the roots, when they were last looked at.
    seen: parking_lot::Mutex<(Option<Stamp>, Option<Stamp>)>,
    config: CaConfig,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    /// With the roots that it was made with.
    channel: Option<(Vec<u8>, Channel)>,
    /// Which one it is.
    number: u64,
    /// When the last attempt failed: who waited for it does not try again.
    failed: Option<Instant>,
    /// Roots of the last answer. The pinned file may be behind a rotation.
    learned: Vec<u8>,
}

impl Client {
    pub(super) fn new(config: CaConfig, unrooted: Arc<parking_lot::Mutex<Option<String>>>) -> Self {
        Self {
            unrooted,
            seen: parking_lot::Mutex::new((
                Stamp::of(&config.token),
                Stamp::of(&config.roots.file()),
            )),
            config,
            link: Mutex::default(),
        }
    }

    async fn request(self: Arc<Self>, id: SpiffeId) -> Result<Fetched, SourceError> {
        let key = PrivateKey::generate()?;
        let (mut asked, begun) = (1, Instant::now());
        loop {
            match self.ask(&key, &id).await {
                // While the API server is away, only who has seen the token knows it. Where
                // there is one replica it is the same one, and has a moment.
                Err(error)
                    if error.is_of_replica() && asked < REPLICAS && begun.elapsed() < CALL =>
                {
                    sleep(PAUSE * asked).await;
                    asked += 1;
                }
                Err(error) => return Err(error),
                Ok((chain, roots, token)) => {
                    return Ok(Fetched {
                        chain,
                        key,
                        roots,
                        token,
                    });
                }
            }
        }
    }

    /// Chain, roots, and what is said of the token.
    async fn ask(
        &self,
        key: &PrivateKey,
        id: &SpiffeId,
    ) -> Result<(String, Vec<u8>, Option<TokenLife>), SourceError> {
        let request = self.signed_request(key, id).await?;
        let (number, channel) = self.channel().await?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        let call = async {
            grpc.ready().await?;
            let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
            Ok(grpc
                .unary(request, PathAndQuery::from_static(METHOD), codec)
                .await)
        };
        let answer = match timeout(CALL, call).await {
            Ok(Ok(answer)) => answer.map_err(|status| self.refused(&status)),
            Ok(Err(error)) => Err(SourceError::Channel(error)),
            Err(_) => Err(SourceError::Timeout(self.config.address.clone())),
        };
        if answer.is_err() {
            let mut link = self.link.lock().await;
            // Another call may have a better one by now.
            if link.number == number {
                link.channel = None;
            }
        }
        let answer = answer?;
        let token = TokenLife::told(answer.metadata());
        let mut chain = answer.into_inner().cert_chain;
        let roots = chain.pop().ok_or(SourceError::Incomplete)?.into_bytes();
        if chain.is_empty() {
            return Err(SourceError::Incomplete);
        }
        self.link.lock().await.learned.clone_from(&roots);
        Ok((chain.join("\n"), roots, token))
    }

    /// The authority's own words, made safe to log.
    pub(super) fn refused(&self, status: &tonic::Status) -> SourceError {
        let message: String = status.message().chars().take(MAX_MESSAGE).collect();
        let message = message.escape_default().to_string();
        match status.code() {
            tonic::Code::Unauthenticated => SourceError::TokenRefused {
                file: self.config.token.clone(),
                node: self.config.node.clone(),
                is_of_pod: matches!(self.config.roots, Roots::ConfigMap(_)),
                message,
            },
            code => SourceError::Refused { code, message },
        }
    }

    async fn signed_request(
        &self,
        key: &PrivateKey,
        id: &SpiffeId,
    ) -> Result<tonic::Request<CertificateRequest>, SourceError> {
        let seconds = self.config.lifetime.map_or(0, |l| l.as_secs());
        let message = CertificateRequest::new(
            key.csr(id)?,
            i64::try_from(seconds).unwrap_or(i64::MAX),
            id.as_str(),
        );
        let mut request = tonic::Request::new(message);
        self.prove(request.metadata_mut()).await?;
        Ok(request)
    }

    /// Who asks.
    pub(super) async fn prove(&self, headers: &mut MetadataMap) -> Result<(), SourceError> {
        let token = Zeroizing::new(read(self.config.token.clone()).await?);
        let bearer = Zeroizing::new([b"Bearer ", token.trim_ascii()].concat());
        let bad = || SourceError::Token(self.config.token.clone());
        let mut header = HeaderValue::from_bytes(&bearer).map_err(|_| bad())?;
        if token.trim_ascii().is_empty() {
            return Err(bad());
        }
        header.set_sensitive(true);
        headers.insert(
            "authorization",
            header
                .to_str()
                .ok()
                .and_then(|h| h.parse().ok())
                .ok_or_else(bad)?,
        );
        // The token is bound to it: without it the request would be refused.
        let node = self.config.node.parse();
        let node = node.map_err(|_| SourceError::NodeName(self.config.node.clone()))?;
        headers.insert("mesh-node", node);
        if let Some(cluster) = &self.config.cluster_id {
            let cluster = cluster.parse();
            let bad = |_| SourceError::NodeName(self.config.node.clone());
            headers.insert("clusterid", cluster.map_err(bad)?);
        }
        Ok(())
    }

    pub(super) fn address(&self) -> &str {
        &self.config.address
    }

    /// Another one than all before, to whichever replica is behind the address.
    pub(super) async fn own_channel(&self) -> Result<Channel, SourceError> {
        let mut roots = self.pinned().await?;
        roots.push(b'\n');
        roots.extend_from_slice(&self.link.lock().await.learned);
        self.connect(&roots).await
    }

    /// The one channel, made anew when it broke or the pinned roots changed.
    async fn channel(&self) -> Result<(u64, Channel), SourceError> {
        let asked = Instant::now();
        let pinned = self.pinned().await?;
        let mut link = self.link.lock().await;
        if let Some((roots, channel)) = &link.channel
            && *roots == pinned
        {
            return Ok((link.number, channel.clone()));
        }
        if link.failed.is_some_and(|failed| failed > asked) {
            return Err(SourceError::Timeout(self.config.address.clone()));
        }
        let mut roots = pinned.clone();
        roots.push(b'\n');
        roots.extend_from_slice(&link.learned);
        match self.connect(&roots).await {
            Ok(channel) => {
                link.channel = Some((pinned, channel.clone()));
                link.number += 1;
                Ok((link.number, channel))
            }
            Err(error) => {
                link.failed = Some(Instant::now());
                Err(error)
            }
        }
    }

    async fn pinned(&self) -> Result<Vec<u8>, SourceError> {
        let read = read(self.config.roots.file()).await;
        let Roots::ConfigMap(from) = &self.config.roots else {
            return read;
        };
        read.map_err(|_| SourceError::NoRoots {
            configmap: from.configmap.to_string(),
            why: self.unrooted.lock().clone().unwrap_or_default(),
        })
    }

    async fn connect(&self, roots: &[u8]) -> Result<Channel, SourceError> {
        let name = CaName::Server(self.config.server_name.clone());
        let client = CaClient::new(roots, &name).map_err(SourceError::Pinned)?;
        let address = self.config.address.clone();
        let unreachable = |error| match CaClient::mistrust(&error) {
            Some(failure) => SourceError::Mistrusted {
                address: address.clone(),
                failure,
                error,
            },
            None => SourceError::Unreachable {
                address: address.clone(),
                error,
            },
        };
        let stream = timeout(CONNECT, dial(client, address.clone()))
            .await
            .map_err(|_| SourceError::Timeout(address.clone()))?
            .map_err(unreachable)?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        Ok(endpoint.connect_with_connector(Once(Some(stream))).await?)
    }
}

async fn dial(client: CaClient, address: String) -> io::Result<CaStream> {
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    client.connect(stream).await
}

impl CertificateSource for Client {
    fn name(&self) -> &'static str {
        "ca"
    }

    fn renews(&self) -> bool {
        true
    }

    fn fetch(self: Arc<Self>, id: SpiffeId) -> Fetch {
        Box::pin(self.request(id))
    }

    fn look(&self) -> Change {
        let (token, roots) = &mut *self.seen.lock();
        if is_another(token, &self.config.token) {
            // The roots are looked at next time.
            Change::Token
        } else if is_another(roots, &self.config.roots.file()) {
            Change::Roots
        } else {
            Change::Nothing
        }
    }

    fn new_token(&self) -> String {
        new_token(&self.config.node, &self.config.token)
    }
}

/// Is there another file than before?
fn is_another(seen: &mut Option<Stamp>, path: &Path) -> bool {
    let now = Stamp::of(path);
    let before = std::mem::replace(seen, now.clone());
    now.is_some() && now != before
}

/// Gives the one connection that was made; the next one is made with what is
/// trusted then, not by the channel.
struct Once(Option<CaStream>);

impl Service<Uri> for Once {
    type Response = TokioIo<CaStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        Box::pin(async move { stream.map(TokioIo::new).ok_or_else(gone) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_roots_in_the_file_and_another_token_are_seen_once_each() {
        let dir = tempfile::tempdir().expect("a directory");
        let [token, roots] = ["token", "root.pem"].map(|name| dir.path().join(name));
        std::fs::write(&token, "t").expect("written");
        let client = Client::new(
            CaConfig {
                address: "127.0.0.1:1".to_owned(),
                server_name: "ca".to_owned(),
                roots: Roots::File(roots.clone()),
                token: token.clone(),
                node: "n1".to_owned(),
                cluster_id: None,
                lifetime: None,
            },
            Arc::default(),
        );
        assert_eq!(client.look(), Change::Nothing);
        std::fs::write(&roots, "A+B").expect("written");
        std::fs::write(&token, "longer").expect("written");
        for seen in [Change::Token, Change::Roots, Change::Nothing] {
            assert_eq!(client.look(), seen);
        }
        std::fs::write(&roots, "B").expect("written");
        assert_eq!(client.look(), Change::Roots);
        std::fs::remove_file(&roots).expect("removed");
        assert_eq!(client.look(), Change::Nothing, "nothing else is known");
    }
}
