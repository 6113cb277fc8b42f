//! What hyper reads: an application, and a client, that the codec is compared with.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Of a body that came to its end.
    pub(super) body: Option<Vec<u8>>,
}

/// The requests that hyper reads from a connection of these bytes, until one that
/// it does not take.
pub(super) fn requests(bytes: &[u8]) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let all = Rc::new(RefCell::new(Vec::new()));
    let seen = all.clone();
    runtime.block_on(async move {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(move |request: Request<Incoming>| {
            let all = all.clone();
            async move {
                let method = request.method().as_str().to_owned();
                let body = request.into_body().collect().await.ok();
                let body = body.map(|body| body.to_bytes().to_vec());
                all.borrow_mut().push(Seen { method, body });
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut http = http1::Builder::new();
        http.half_close(true);
        let serve = http.serve_connection(TokioIo::new(server), service);
        let feed = async {
            client.write_all(bytes).await.ok();
            client.shutdown().await.ok();
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.ok();
        };
        let (_ended, ()) = tokio::join!(serve, feed);
    });
    Rc::into_inner(seen).expect("all is done").into_inner()
}

/// What hyper reads of the answer to this request in these bytes: the status, and a body that
/// came to its end. `None`: it takes none.
pub(super) fn answer(method: &str, bytes: &[u8]) -> Option<(u16, Option<Vec<u8>>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async move {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) = client::handshake(TokioIo::new(near)).await.ok()?;
        let request = Request::builder().method(method).header("host", "x");
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let ask = async move {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok();
            Some((status, body.map(|body| body.to_bytes().to_vec())))
        };
        let tell = async move {
            // What comes before it has asked is no answer.
            far.read_u8().await.ok();
            far.write_all(bytes).await.ok();
            far.shutdown().await.ok();
        };
        let (answer, _ended, ()) = tokio::join!(ask, connection, tell);
        answer
    })
}
