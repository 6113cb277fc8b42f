//! What agents ask for, from the call to its answer: who asks, may it, the answer,
//! and what is written down of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tonic::server::UnaryService;
use tonic::{Request, Response, Status};

use super::audit::Who;
use super::cluster::LAG;
use super::csr;
use super::errors::Refusal;
use super::seats::{Seat, network};
use super::served::{Method, ToAnswer};
use super::signer::{Ca, Call};
use super::token::{Authenticator as _, Caller, Denied, Entitled, Proof};
use super::units::seconds;
use crate::identity::grpc::{CertificateRequest, CertificateResponse, METHOD, SERVICE};

/// What a request knows of its connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) seat: Arc<Seat>,
}

/// Of Istio's protocol.
pub(super) struct CreateCertificate;

impl Method for CreateCertificate {
    const SERVICE: &'static str = SERVICE;
    const PATH: &'static str = METHOD;
    const MAX_MESSAGE: usize = 16 * 1024;
    type Question = CertificateRequest;
    type Answer = CertificateResponse;
}

/// This authority.
#[derive(Clone)]
pub(super) struct Issuing(pub(super) Arc<Ca>);

impl UnaryService<CertificateRequest> for Issuing {
    type Response = CertificateResponse;
    type Future = ToAnswer<Result<Response<CertificateResponse>, Status>>;

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
        ca.audit.refused(who, asked, refusal, &peer);
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
    let asking = Asking {
        ca,
        caller,
        peer: from,
        message,
    };
    match asking.issue().await {
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

/// A request whose caller is known.
struct Asking {
    ca: Arc<Ca>,
    caller: Caller,
    peer: String,
    message: CertificateRequest,
}

impl Asking {
    /// A pod of which this replica does not know yet is waited for, a little.
    async fn issue(self) -> Result<Vec<String>, Refusal> {
        self.ca.admits(&self.caller)?;
        let asking = Arc::new(self);
        let first = asking.clone().sign().await;
        let pods = asking.ca.cluster.as_ref().map(|(_, pods)| pods.clone());
        match (first, &asking.caller.entitled, pods) {
            (Err(Refusal::NotAllowed), Entitled::PodsOfNode, Some(pods)) => {
                let is_allowed = || asking.is_allowed();
                pods.wait_until(LAG, is_allowed).await;
                asking.clone().sign().await
            }
            (first, ..) => first,
        }
    }

    fn is_allowed(&self) -> bool {
        let id = csr::read(&self.message.csr).map(|(id, _)| id);
        id.is_ok_and(|id| self.ca.allows(&self.caller, &id).is_ok())
    }

    async fn sign(self: Arc<Self>) -> Result<Vec<String>, Refusal> {
        let work = move || {
            self.ca.issue(&Call {
                caller: &self.caller,
                peer: &self.peer,
                request: &self.message,
            })
        };
        let issued = tokio::task::spawn_blocking(work).await;
        issued.unwrap_or(Err(Refusal::Internal))
    }
}

pub(super) async fn authenticate<T>(ca: &Ca, request: &Request<T>) -> Result<Caller, Denied> {
    let text = |name| request.metadata().get(name).and_then(|v| v.to_str().ok());
    let peer = request.extensions().get::<Peer>();
    let source = peer.map(|peer| network(peer.address.ip()));
    let proof = Proof {
        token: text("authorization").and_then(|v| v.strip_prefix("Bearer ")),
        node: text("mesh-node"),
        source: source.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        now: seconds(SystemTime::now()),
    };
    ca.authenticate(proof).await
}

/// For who is not taken.
pub(super) fn refusal(denied: &Denied) -> Status {
    status(denied.why, Some(denied.sentence()))
}

/// No more than the class: who tries tokens learns nothing. `said`: to who has
/// shown the secret of a token.
fn status(refusal: Refusal, said: Option<String>) -> Status {
    match refusal {
        Refusal::NoToken
        | Refusal::UnknownToken
        | Refusal::ExpiredToken
        | Refusal::RevokedToken
        | Refusal::OtherNode
        | Refusal::Audience
        | Refusal::Account
        | Refusal::NoNodeClaim
        | Refusal::NoSuchPod => {
            Status::unauthenticated(said.unwrap_or_else(|| "not authenticated".to_owned()))
        }
        Refusal::Unreviewed => Status::unavailable(
            said.unwrap_or_else(|| "the cluster's pods are not known now".to_owned()),
        ),
        Refusal::RateLimit | Refusal::Full => {
            Status::resource_exhausted(said.unwrap_or_else(|| "too many requests".to_owned()))
        }
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
