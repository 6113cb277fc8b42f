//! A service of gRPC with one method, and who answers it.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic_prost::ProstCodec;

pub(super) type ToAnswer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The method, as it is called.
pub(super) trait Method: 'static {
    const SERVICE: &'static str;
    /// Of the request.
    const PATH: &'static str;
    const MAX_MESSAGE: usize;
    type Question: Message + Default + 'static;
    type Answer: Message + Default + 'static;
}

/// `A` answers `M`; whatever else is called is not there.
pub(super) struct Served<M, A> {
    answering: A,
    method: PhantomData<fn() -> M>,
}

impl<M, A> Served<M, A> {
    pub(super) fn by(answering: A) -> Self {
        Self {
            answering,
            method: PhantomData,
        }
    }
}

impl<M, A: Clone> Clone for Served<M, A> {
    fn clone(&self) -> Self {
        Self::by(self.answering.clone())
    }
}

impl<M: Method, A> NamedService for Served<M, A> {
    const NAME: &'static str = M::SERVICE;
}

impl<M, A> Service<http::Request<Body>> for Served<M, A>
where
    M: Method,
    A: UnaryService<M::Question, Response = M::Answer> + Clone + Send + 'static,
    A::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = ToAnswer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answering = self.answering.clone();
        Box::pin(async move {
            if request.uri().path() != M::PATH {
                return Ok(Status::unimplemented("").into_http());
            }
            let codec = ProstCodec::<M::Answer, M::Question>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(M::MAX_MESSAGE);
            Ok(grpc.unary(answering, request).await)
        })
    }
}
