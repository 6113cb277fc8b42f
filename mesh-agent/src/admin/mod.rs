//! The admin pages: metrics and readiness on loopback, state on a Unix socket.
//!
//! Read-only. Nothing of it is reachable from a pod: the address must be
//! loopback, in the node's network namespace, and requests must name a
//! loopback host (against DNS rebinding). Metrics, and nothing else, can be had on one
//! more address that others reach (`--scrape-addr`). Runs on the control runtime, within
//! bounds that no client can widen (`listen`); pages are made beside it.

pub(crate) mod endpoints;
mod listed;
mod listen;
mod problem;
pub(crate) mod routes;
mod shared;
mod socket;
pub(crate) mod text;
pub(crate) mod traffic;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::observe::explanation::Explanation;
use crate::observe::{ConnectionFilter, ConnectionList, page};
pub(crate) use listed::MAX_ROWS;
use listen::DEADLINES;
pub(crate) use problem::Problem;
use shared::SharedPage;

/// How long an agent is waited for that does not take a connection, or says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// All of an answer has come by then.
const LONGEST: Duration = Duration::from_secs(30);
/// No page is longer, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// What `status` shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) node: String,
    /// No problem blocks the node.
    pub(crate) ready: bool,
    /// Ready, but `problems` is not empty.
    pub(crate) degraded: bool,
    /// Everything that keeps the agent from being ready or whole; what blocks first.
    pub(crate) problems: Vec<Problem>,
    /// Hash of the configuration in force: the same on every node that has the same.
    pub(crate) configuration: String,
    /// Changes of it since the agent started.
    pub(crate) generation: u64,
    pub(crate) active_connections: usize,
    /// In flight.
    #[serde(default)]
    pub(crate) active_requests: usize,
    /// Where the configuration is from, and how far it is known.
    pub(crate) source: serde_json::Value,
    /// AuthorizationPolicies in force, and of how many these are.
    pub(crate) policies: Vec<PolicyRow>,
    pub(crate) policies_total: usize,
    pub(crate) pods: serde_json::Value,
    /// The node's pods that are outside of the mesh, and of how many these are.
    #[serde(default)]
    pub(crate) left_alone: Vec<LeftAlone>,
    #[serde(default)]
    pub(crate) left_alone_total: usize,
    pub(crate) kernel: serde_json::Value,
    pub(crate) identities: serde_json::Value,
    /// How the CNI plugin stands, where the agent keeps it in the node's chain.
    #[serde(default)]
    pub(crate) cni_plugin: Option<String>,
}

/// A pod that is outside of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftAlone {
    pub(crate) pod: String,
    /// In one word that stays the same.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// One AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyRow {
    pub(crate) policy: String,
    pub(crate) action: String,
    pub(crate) dry_run: bool,
    /// Pods that it selects, on all nodes.
    pub(crate) workloads: usize,
    /// Why it does not do what it says.
    pub(crate) problem: Option<String>,
}

/// What anybody on the node may read.
pub(crate) trait Pages: Send + Sync + 'static {
    /// Blocks for a moment: asked beside the control runtime.
    fn metrics(&self) -> String;
    /// What keeps it from being ready or whole.
    fn problems(&self) -> Vec<Problem>;
}

/// Where the pages come from.
pub(crate) trait AdminSource: Pages {
    fn status(&self) -> Status;
    /// The error is a sentence for who asked.
    fn connections(&self, filter: &ConnectionFilter) -> Result<ConnectionList, String>;
    fn routes(&self) -> routes::RouteList;
    fn traffic(&self) -> traffic::TrafficList;
    fn endpoints(&self) -> endpoints::EndpointList;
    /// The error is a sentence for who asked.
    fn explain(&self, question: &Question) -> Result<Explanation, String>;
}

/// What `explain` is asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Question {
    /// A pod, a SPIFFE id, or an address.
    #[serde(default)]
    pub(crate) from: String,
    /// A pod, a Service, or an address.
    #[serde(default)]
    pub(crate) to: String,
    #[serde(default)]
    pub(crate) port: u16,
    /// A request to be sent: both, or a connection is asked about.
    pub(crate) method: Option<String>,
    pub(crate) url: Option<String>,
    /// Its header lines, one a line.
    #[serde(default)]
    pub(crate) headers: String,
    /// Of a connection: the name that the hello of its own TLS asks for.
    pub(crate) sni: Option<String>,
    /// Instead of the others: a connection.
    pub(crate) id: Option<String>,
}

impl Question {
    /// Its page.
    #[must_use]
    pub(crate) fn page(&self) -> String {
        if let Some(id) = &self.id {
            return format!("/explain?id={}", escaped(id));
        }
        let (from, to) = (escaped(&self.from), escaped(&self.to));
        let mut page = format!("/explain?from={from}&to={to}&port={}", self.port);
        if let (Some(method), Some(url)) = (&self.method, &self.url) {
            let headers = escaped(&self.headers);
            let (method, url) = (escaped(method), escaped(url));
            page.push_str(&format!("&method={method}&url={url}&headers={headers}"));
        }
        if let Some(sni) = &self.sni {
            page.push_str(&format!("&sni={}", escaped(sni)));
        }
        page
    }
}

/// The page that lists those connections.
#[must_use]
pub(crate) fn connections_page(filter: &ConnectionFilter) -> String {
    let mut page = format!("/connections?limit={}", filter.limit);
    let ConnectionFilter {
        limit: _,
        pod,
        principal,
        state,
        id,
    } = filter;
    let named = [
        ("pod", pod),
        ("principal", principal),
        ("state", state),
        ("id", id),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            page.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    page
}

/// For the query of an address.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// Why the admin pages could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "--metrics-addr {0} is not a loopback address: the pages must not be reachable from pods"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {0}: {1}")]
    Listen(String, std::io::Error),
    #[error("an agent answers on {0} already; stop it first")]
    Running(PathBuf),
}

/// Opens both listeners, so that mistakes show at start.
pub(crate) async fn bind(
    addr: SocketAddr,
    run_dir: &Path,
) -> Result<(TcpListener, UnixListener), Error> {
    if !addr.ip().is_loopback() {
        return Err(Error::NotLoopback(addr));
    }
    let path = socket_path(run_dir);
    let failed = |e| Error::Listen(path.display().to_string(), e);
    std::fs::create_dir_all(run_dir).map_err(failed)?;
    match socket::connect(&path, PATIENCE) {
        // One that stands still runs too.
        Ok(_) => return Err(Error::Running(path)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Error::Running(path)),
        Err(_) => {}
    }
    // Left by a crash; absent is fine.
    let _absent = std::fs::remove_file(&path);
    let unix = socket::listen(&path).and_then(UnixListener::from_std);
    Ok((bind_pages(addr).await?, unix.map_err(failed)?))
}

/// A listening socket that nobody but its owner may connect to.
pub(crate) fn private_socket(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    socket::listen(path)
}

/// Opens the port of the pages that anybody on the node may read.
pub(crate) async fn bind_pages(addr: SocketAddr) -> Result<TcpListener, Error> {
    if !addr.ip().is_loopback() {
        return Err(Error::NotLoopback(addr));
    }
    let failed = |e| Error::Listen(addr.to_string(), e);
    TcpListener::bind(addr).await.map_err(failed)
}

/// Opens the port where others than this node scrape metrics, if there is to be one.
pub(crate) async fn bind_scrapes(addr: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    let Some(addr) = addr else { return Ok(None) };
    let failed = |e| Error::Listen(addr.to_string(), e);
    TcpListener::bind(addr).await.map(Some).map_err(failed)
}

#[must_use]
pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("admin.sock")
}

/// Serves until cancelled.
pub(crate) async fn serve(
    (tcp, unix): (TcpListener, UnixListener),
    scrapes: Option<TcpListener>,
    source: Arc<impl AdminSource>,
    cancel: CancellationToken,
) {
    let state = Router::new()
        .route("/status", get(status))
        .route("/connections", get(connections))
        .route("/explain", get(explain))
        .route("/routes", get(routes_of))
        .route("/traffic", get(traffic_of))
        .route("/endpoints", get(endpoints_of))
        .route("/readyz", get(ready_here))
        .route("/livez", get(alive))
        .with_state(source.clone() as Arc<dyn AdminSource>);
    tokio::join!(
        serve_pages(tcp, scrapes, source, cancel.clone()),
        listen::serve(unix, state, DEADLINES, cancel),
    );
}

/// The pages that anybody on the node may read, and metrics where `scrapes` is, until
/// cancelled.
pub(crate) async fn serve_pages(
    tcp: TcpListener,
    scrapes: Option<TcpListener>,
    pages: Arc<impl Pages>,
    cancel: CancellationToken,
) {
    let public = Public {
        pages,
        metrics: Arc::default(),
    };
    // One page for both: whoever asks, it is made as often.
    let others = scrape_pages(public.clone());
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .route("/livez", get(alive))
        .layer(middleware::from_fn(loopback_host))
        .with_state(public);
    let scraped = async {
        if let Some(scrapes) = scrapes {
            listen::serve(scrapes, others, DEADLINES, cancel.clone()).await;
        }
    };
    tokio::join!(
        listen::serve(tcp, pages, DEADLINES, cancel.clone()),
        scraped
    );
}

/// Whoever reaches the address may read it: one page, which says nothing of how the
/// node fares but in numbers, and which costs no more however often it is asked for.
fn scrape_pages(public: Public) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(public)
}

#[derive(Clone)]
struct Public {
    pages: Arc<dyn Pages>,
    metrics: Arc<SharedPage>,
}

async fn metrics(State(public): State<Public>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|h| h.to_str().ok());
    let pages = public.pages.clone();
    let Some(metrics) = public.metrics.get(move || pages.metrics()).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let (kind, body) = if accept.is_some_and(page::wants_openmetrics) {
        (page::OPENMETRICS, metrics.openmetrics.clone())
    } else {
        (page::TEXT, metrics.text.clone())
    };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State(public): State<Public>) -> Response {
    readiness(&public.pages.problems())
}

/// On the socket.
async fn ready_here(State(source): State<Arc<dyn AdminSource>>) -> Response {
    readiness(&source.problems())
}

/// 503 where nothing can be done; the text says what, and what to do.
fn readiness(problems: &[Problem]) -> Response {
    let blocked = problems.iter().any(|p| p.blocks);
    let (code, state) = match (blocked, problems.is_empty()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        (false, false) => (StatusCode::OK, "ready, degraded"),
        (false, true) => (StatusCode::OK, "ready"),
    };
    let told = problems.iter().map(|p| format!("{p}\n"));
    let text = std::iter::once(format!("{state}\n")).chain(told);
    (code, text.collect::<String>()).into_response()
}

/// Beside the control runtime: of many connections, or of all that the kernel
/// remembers, an answer takes a while, in which a pod would not be enrolled.
async fn beside<T: IntoResponse + Send + 'static>(
    answer: impl FnOnce() -> T + Send + 'static,
) -> Response {
    let answered = tokio::task::spawn_blocking(|| answer().into_response());
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR.into_response();
    answered.await.unwrap_or_else(failed)
}

async fn status(State(source): State<Arc<dyn AdminSource>>) -> Response {
    beside(move || Json(source.status())).await
}

async fn connections(
    State(source): State<Arc<dyn AdminSource>>,
    Query(filter): Query<ConnectionFilter>,
) -> Response {
    let answer = move || match source.connections(&filter) {
        Ok(list) => Json(list).into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    };
    beside(answer).await
}

async fn endpoints_of(State(source): State<Arc<dyn AdminSource>>) -> Response {
    beside(move || Json(source.endpoints())).await
}

async fn routes_of(State(source): State<Arc<dyn AdminSource>>) -> Response {
    beside(move || Json(source.routes())).await
}

async fn traffic_of(State(source): State<Arc<dyn AdminSource>>) -> Response {
    beside(move || Json(source.traffic())).await
}

async fn explain(
    State(source): State<Arc<dyn AdminSource>>,
    Query(question): Query<Question>,
) -> Response {
    let answer = move || match source.explain(&question) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    };
    beside(answer).await
}

/// With or without a port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.ends_with(':') => name,
        _ => host,
    };
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let address = inner.unwrap_or(name).parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn loopback_host(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|h| h.to_str().ok());
    if host.is_some_and(is_loopback) {
        next.run(request).await
    } else {
        (
            StatusCode::FORBIDDEN,
            "the Host header must name a loopback address\n",
        )
            .into_response()
    }
}

/// Longest name of a page that is asked for: the rest of a request's head has room beside.
const MAX_PAGE: usize = listen::HEAD_BYTES - 1024;

/// Why a page could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What the agent says.
    #[error("{0}")]
    Refused(String),
}

/// Asks the running agent for a page on its Unix socket.
pub(crate) fn fetch(run_dir: &Path, page: &str) -> Result<String, FetchError> {
    if page.len() > MAX_PAGE {
        return Err(FetchError::Refused(format!(
            "the question is too long: {} bytes as it is sent, where `/`, letters and figures are one and others three; at most {MAX_PAGE} are taken",
            page.len()
        )));
    }
    fetch_on(
        socket::connect(&socket_path(run_dir), PATIENCE).map_err(late)?,
        page,
    )
}

/// Asks for a page that is for anybody on the node.
pub(crate) fn fetch_at(pages: SocketAddr, page: &str) -> Result<String, FetchError> {
    let stream = std::net::TcpStream::connect_timeout(&pages, PATIENCE).map_err(late)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    fetch_on(stream, page)
}

fn late(error: std::io::Error) -> std::io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn fetch_on(mut stream: impl Read + Write, page: &str) -> Result<String, FetchError> {
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    write!(stream, "GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(late)?;
    let answer = read_whole(stream, Instant::now() + LONGEST).map_err(late)?;
    let answer =
        String::from_utf8(answer).map_err(|_| std::io::Error::from(ErrorKind::InvalidData))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(std::io::Error::from(ErrorKind::InvalidData))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(FetchError::Refused(body.trim_end().to_owned())),
    }
}

/// However little of it comes at a time, and no more than any page has.
fn read_whole(mut stream: impl Read, until: Instant) -> std::io::Result<Vec<u8>> {
    let (mut answer, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count?,
        };
        answer.extend_from_slice(&part[..count]);
        if answer.len() > MAX_ANSWER {
            return Err(ErrorKind::FileTooLarge.into());
        }
        if Instant::now() >= until {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests;
