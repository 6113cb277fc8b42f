//! What agents tell of their nodes: taken by the same proof as requests for
//! certificates, and handed on to who writes status.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::calls::{self, Peer, ToAnswer};
use super::signer::Ca;
use super::token::Entitled;
use crate::identity::report::{Answer, MAX_KINDS, MAX_MESSAGE, MAX_PODS, METHOD, Report, SERVICE};

#[derive(Clone)]
pub(super) struct Reporting(pub(super) Arc<Ca>);

impl NamedService for Reporting {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Reporting {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ToAnswer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answering = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("").into_http());
            }
            let codec = ProstCodec::<Answer, Report>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(answering, request).await)
        })
    }
}

impl UnaryService<Report> for Reporting {
    type Response = Answer;
    type Future = ToAnswer<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Report>) -> Self::Future {
        Box::pin(take(self.0.clone(), request))
    }
}

async fn take(ca: Arc<Ca>, request: Request<Report>) -> Result<Response<Answer>, Status> {
    let Some(reports) = &ca.config.reports else {
        return Err(Status::unimplemented(""));
    };
    let caller = calls::authenticate(&ca, &request).await;
    let caller = caller.map_err(|denied| calls::refusal(&denied))?;
    let peer = request.extensions().get::<Peer>();
    if peer.is_some_and(|peer| !peer.seat.prove(&caller.name)) {
        return Err(Status::resource_exhausted("too many connections"));
    }
    // A machine with a join token is no node of the cluster.
    let (Entitled::PodsOfNode, Some((_, pods))) = (&caller.entitled, &ca.cluster) else {
        return Err(Status::unimplemented(""));
    };
    let mut report = request.into_inner();
    if report.left_out > 0 {
        let (node, left_out) = (&caller.node, report.left_out);
        tracing::debug!(
            node,
            left_out,
            "more pods than a report has room for are not enrolled"
        );
    }
    report.in_force.truncate(MAX_KINDS);
    report.pods.truncate(MAX_PODS);
    // Nobody speaks for another node's pods.
    report
        .pods
        .retain(|pod| pods.is_on(&pod.uid, &caller.node, &pod.namespace));
    Ok(Response::new(reports.take(&caller.node, report)))
}
