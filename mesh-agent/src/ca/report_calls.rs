//! What agents tell of their nodes: taken by the same proof as requests for
//! certificates, and handed on to who writes status.

use std::sync::Arc;

use tonic::server::UnaryService;
use tonic::{Request, Response, Status};

use super::calls::{self, Peer};
use super::served::{Method, ToAnswer};
use super::signer::Ca;
use super::token::Entitled;
use crate::identity::report::{Answer, MAX_KINDS, MAX_MESSAGE, MAX_PODS, METHOD, Report, SERVICE};

/// What a node reports.
pub(super) struct ReportStatus;

impl Method for ReportStatus {
    const SERVICE: &'static str = SERVICE;
    const PATH: &'static str = METHOD;
    const MAX_MESSAGE: usize = MAX_MESSAGE;
    type Question = Report;
    type Answer = Answer;
}

#[derive(Clone)]
pub(super) struct Reporting(pub(super) Arc<Ca>);

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
