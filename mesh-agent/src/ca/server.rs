//! The authority's port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use super::calls::{CreateCertificate, Issuing};
use super::cluster::{Cluster, InCluster, connect};
use super::connection::{Connection, proof};
use super::errors::Error;
use super::handle::Handle;
use super::publish::publish;
use super::records::REFUSED;
use super::report_calls::{ReportStatus, Reporting};
use super::seats::Seats;
use super::served::Served;
use super::signer::{Ca, Config};
use crate::cluster::Api;
use crate::tls::{CaServer, CaStream, PrivateKey};

const HANDSHAKE: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(5);
const CONNECTION_AGE: Duration = Duration::from_secs(300);
const STREAMS: u32 = 32;
const OWN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Own certificate and revocation lists are made anew after this long.
const REFRESH: Duration = Duration::from_secs(6 * 3600);
/// What cannot be published is tried again after this long.
const AGAIN: Duration = Duration::from_secs(30);
/// Name that its certificate always has.
const NAME: &str = "mesh-ca";

/// Serves until cancelled. `ready` is called with the address, and what there
/// is to look at.
pub(crate) async fn run(
    config: Config,
    cancel: CancellationToken,
    ready: impl FnOnce(SocketAddr, Handle),
) -> Result<(), Error> {
    let opened = open(config).await?;
    serve(opened, cancel, ready).await
}

/// An authority whose state is open, and what it follows of a cluster.
type Opened = (Arc<Ca>, Option<InCluster>);

pub(super) async fn serve(
    (ca, connected): Opened,
    cancel: CancellationToken,
    ready: impl FnOnce(SocketAddr, Handle),
) -> Result<(), Error> {
    let seats = Seats::new(ca.config.max_connections);
    let _running = ca.store.begin_to_run()?;
    let listen = ca.config.listen;
    let failed = |error| Error::Io {
        path: listen.to_string().into(),
        error,
    };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let writing = ca.audit.begin(ca.store.clone());
    let writing = writing.map_err(|error| Error::Io {
        path: ca.store.path(REFUSED),
        error,
    })?;
    let handle = Handle {
        ca: ca.clone(),
        seats: seats.clone(),
    };
    let tasks = TaskTracker::new();
    if let Some(connected) = connected {
        connected.start(ca.clone(), &tasks, &cancel);
    }
    tasks.spawn(publish_again(ca.clone(), cancel.clone()));
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
    let stop = cancel.clone();
    let serving = Server::builder()
        .timeout(REQUEST)
        .concurrency_limit_per_connection(STREAMS as usize)
        .max_concurrent_streams(STREAMS)
        .max_connection_age(CONNECTION_AGE)
        .max_connection_age_grace(REQUEST)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .add_service(Served::<CreateCertificate, _>::by(Issuing(ca.clone())))
        .add_service(Served::<ReportStatus, _>::by(Reporting(ca.clone())))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), cancel.cancelled_owned());
    let (served, accepted) = tokio::join!(serving, accepting);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    ca.audit.end(writing).await;
    served?;
    accepted
}

/// The store may wait for this runtime: not in its own thread.
async fn open(config: Config) -> Result<Opened, Error> {
    let Some(cluster) = config.cluster.clone() else {
        return Ok((Arc::new(Ca::open(config)?), None));
    };
    let api = connect(&cluster).await?;
    open_in(Arc::new(api), cluster, config).await
}

pub(super) async fn open_in(
    api: Arc<dyn Api>,
    cluster: Cluster,
    mut config: Config,
) -> Result<Opened, Error> {
    config.names.extend(cluster.names());
    let connected = InCluster::new(api, cluster);
    let store = connected.store();
    let opened = tokio::task::spawn_blocking(move || Ca::on(store, config)).await;
    let mut ca = opened.map_err(|error| Error::Cluster(error.to_string()))??;
    ca.cluster = Some((connected.reviews.clone(), connected.pods.clone()));
    Ok((Arc::new(ca), Some(connected)))
}

/// The revocation lists, before they are overdue.
async fn publish_again(ca: Arc<Ca>, cancel: CancellationToken) {
    // They were made at the start.
    let mut wait = REFRESH;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let store = ca.store.clone();
        let making = tokio::task::spawn_blocking(move || publish(&*store, SystemTime::now()));
        let made = making.await;
        let made = made.unwrap_or_else(|error| Err(Error::Cluster(error.to_string())));
        wait = if made.is_ok() { REFRESH } else { AGAIN };
        ca.metrics.published(made.err().as_ref());
    }
}

struct Port {
    ca: Arc<Ca>,
    seats: Arc<Seats>,
    /// Own certificate, its issuer, since when.
    own: Option<(CaServer, String, Instant)>,
    tasks: TaskTracker,
    connections: mpsc::Sender<io::Result<Connection<CaStream>>>,
}

impl Port {
    async fn accept(
        mut self,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let slots = Arc::new(Semaphore::new(self.ca.config.max_connections));
        match self.refresh() {
            // It waits for the step of a rotation that gives it one.
            Err(Error::AuthorityExpired) => tracing::error!("{}", Error::AuthorityExpired),
            refreshed => drop(refreshed?),
        }
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
            return;
        };
        let Some(server) = self.server() else { return };
        let connections = self.connections.clone();
        let displaced = seat.displaced();
        let proof = proof();
        let shaking = async move {
            // What fails here is the caller's to see.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, server.accept(stream)).await {
                let connection = Connection::new(stream, peer, seat, proof, slot);
                let _ended = connections.send_timeout(Ok(connection), HANDSHAKE).await;
            }
        };
        self.tasks.spawn(async move {
            tokio::select! {
                () = displaced => {}
                () = shaking => {}
            }
        });
    }

    /// What keeps it from being made anew keeps it from signing, and is told as
    /// that; the one that there is serves while it is valid. Where its root has ended, it
    /// tells agents so.
    fn server(&mut self) -> Option<CaServer> {
        self.refresh().ok().or_else(|| {
            let (server, _, since) = self.own.as_ref()?;
            (since.elapsed() < OWN_LIFETIME).then(|| server.clone())
        })
    }

    fn refresh(&mut self) -> Result<CaServer, Error> {
        let now = SystemTime::now();
        let loaded = self.ca.fresh()?;
        let serving = loaded.serving(now)?;
        if let Some((server, issuer, since)) = &self.own
            && *issuer == serving.id
            && since.elapsed() < REFRESH
        {
            return Ok(server.clone());
        }
        let key = rcgen::KeyPair::generate()?;
        let mut names = vec![NAME.to_owned(), "localhost".to_owned()];
        let ip = self.ca.config.listen.ip();
        if !ip.is_unspecified() {
            names.push(ip.to_string());
        }
        names.extend(self.ca.config.names.iter().cloned());
        let signed = serving.sign_server(&names, &key, OWN_LIFETIME, now)?;
        let chain = signed.pem + &serving.intermediates.concat();
        let key = zeroize::Zeroizing::new(key.serialize_pem());
        let server = CaServer::new(&chain, &PrivateKey::from_pem(key.as_bytes())?)?;
        self.own = Some((server.clone(), serving.id.clone(), Instant::now()));
        Ok(server)
    }
}
