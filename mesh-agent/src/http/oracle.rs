//! What hyper reads: an application that the codec is compared with.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
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
