//! Calls to the API server, each with a deadline.
//!
//! A stack of layers of our own, for kube's has no keepalive, no deadline, and
//! an error in the log for each failure. A connection that the network lost
//! without a word is seen by the kernel: by keepalives where nothing is sent, by
//! `TCP_USER_TIMEOUT` where something is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder};

use super::access::{Access, AccessError};
use super::fault::{Fault, Refused};

/// Of an answer that is a `Status`.
const MAX_STATUS: usize = 64 << 10;

/// How long each thing is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// For a TCP connection: a lost SYN is sent again this soon.
    pub(crate) connect: Duration,
    /// For the head of an answer: a connection and TLS included.
    pub(crate) head: Duration,
    /// For more of an answer that has begun.
    pub(crate) more: Duration,
    /// For a whole list.
    pub(crate) list: Duration,
    /// How long the API server is to let a watch stand, in seconds; half of it
    /// is chance. A watch ends `grace` later at the latest, whatever it thinks.
    pub(crate) watch: u32,
    pub(crate) grace: Duration,
    /// Between tries while it is away.
    pub(crate) away: Duration,
    /// Between tries of what is refused.
    pub(crate) refused: Duration,
    /// Between looks at what is not installed.
    pub(crate) absent: Duration,
    /// How long what was installed is looked for in vain before that is believed.
    pub(crate) gone: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(1),
            head: seconds(10),
            more: seconds(20),
            list: seconds(180),
            watch: 50,
            grace: seconds(5),
            away: Duration::from_millis(600),
            refused: seconds(5),
            absent: seconds(5),
            gone: seconds(60),
        }
    }
}

/// Cheap to clone. Lives in the runtime in which it was made.
#[derive(Clone)]
pub(crate) struct Client {
    inner: kube::Client,
    cluster: Arc<Cluster>,
    patience: Arc<Patience>,
}

/// Which cluster it is, as far as the configuration of the client says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Where its API server is: many have it at one address.
    pub(crate) server: String,
    /// Digests of the roots that its API server must have a certificate of.
    pub(crate) roots: Vec<String>,
}

impl Client {
    pub(crate) async fn new(access: &Access, patience: Patience) -> Result<Self, AccessError> {
        let config = access.config().await?;
        let wrong = |error| AccessError::Credentials(Box::new(error));
        let inner = stack(&config, &patience).map_err(wrong)?;
        Ok(Self {
            inner,
            cluster: Arc::new(Cluster::of(&config)),
            patience: Arc::new(patience),
        })
    }

    /// For calls with kube's own types. They have no deadlines: give them some.
    pub(crate) fn inner(&self) -> kube::Client {
        self.inner.clone()
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// The head of a good answer, within a deadline.
    pub(super) async fn open(&self, path: &str) -> Result<Answer, Fault> {
        let request = Request::get(path).body(Body::empty());
        let request = request.map_err(|error| Fault::Garbled(error.to_string()))?;
        let patience = self.patience.head;
        let sent = timeout(patience, self.inner.send(request)).await;
        let sent = sent.map_err(|_| Fault::Silent(patience))?;
        let response = sent.map_err(|error| Fault::unreachable(&error))?;
        let code = response.status();
        let mut answer = Answer(response);
        if code.is_success() {
            return Ok(answer);
        }
        let after = answer.0.headers().get("retry-after");
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = answer.whole(MAX_STATUS, self.patience.more).await;
        let mut refused = Refused::of(Some(code.as_u16()), &body.unwrap_or_default());
        refused.retry_after = refused.retry_after.or(after.map(Duration::from_secs));
        Err(Fault::Refused(refused))
    }

    /// A small answer as a whole, and who gave it.
    pub(super) async fn get(
        &self,
        path: &str,
        most: usize,
    ) -> Result<(Vec<u8>, Option<Connection>), Fault> {
        let mut answer = self.open(path).await?;
        let info = answer.0.extensions().get::<HttpInfo>();
        let by = info.map(|info| Connection(info.local_addr(), info.remote_addr()));
        let whole = answer.whole(most, self.patience.more).await?;
        Ok((whole, by))
    }
}

impl Cluster {
    fn of(config: &kube::Config) -> Self {
        let roots = config.root_cert.iter().flatten();
        let digest = |root: &Vec<u8>| {
            let digest = Sha256::digest(root);
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Self {
            server: config.cluster_url.to_string(),
            roots: roots.map(digest).collect(),
        }
    }
}

/// Behind one there is one API server, however many share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection(SocketAddr, SocketAddr);

/// One whose body is still to come.
pub(super) struct Answer(Response<Body>);

impl Answer {
    /// The next bytes, within a deadline; `None` at its end.
    pub(super) async fn more(&mut self, patience: Duration) -> Result<Option<Bytes>, Fault> {
        loop {
            let frame = timeout(patience, self.0.body_mut().frame()).await;
            let frame = frame.map_err(|_| Fault::Silent(patience))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Fault::unreachable(&error))?;
            // Trailers say nothing.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    async fn whole(&mut self, most: usize, patience: Duration) -> Result<Vec<u8>, Fault> {
        let read = async {
            let mut all = Vec::new();
            while let Some(bytes) = self.more(patience).await? {
                if all.len() + bytes.len() > most {
                    return Err(Fault::Garbled(format!(
                        "an answer of more than {most} bytes"
                    )));
                }
                all.extend_from_slice(&bytes);
            }
            Ok(all)
        };
        let read = timeout(patience, read).await;
        read.map_err(|_| Fault::Silent(patience))?
    }
}

fn stack(config: &kube::Config, patience: &Patience) -> kube::Result<kube::Client> {
    let seconds = Duration::from_secs;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(patience.connect));
    // Seen within 20 s where nothing is sent.
    connector.set_keepalive(Some(seconds(10)));
    connector.set_keepalive_interval(Some(seconds(5)));
    connector.set_keepalive_retries(Some(2));
    connector.set_tcp_user_timeout(Some(seconds(20)));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(seconds(30))
        .pool_max_idle_per_host(2)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    let namespace = config.default_namespace.clone();
    Ok(kube::Client::new(service, namespace))
}
