//! Holds every call to the table of permissions before a byte of it is read: who calls comes from the certificate of the
//! connection, what is called from the path. What the table does not permit gets no further, whether there is such a call or not.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use certs::identity::Peer;
use common::Holder;
use proto::refusal::status;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::door::TurnedAway;
use crate::federation::Federation;
use crate::permissions;

/// Holds the calls of a service to the table; what it refuses is entered in this federation's ledger.
#[derive(Clone, Debug)]
pub struct PermittingLayer(pub Arc<Federation>);

/// A service whose calls are held to the table.
#[derive(Clone, Debug)]
pub struct Permitting<S> {
    inner: S,
    federation: Arc<Federation>,
}

impl<S> Layer<S> for PermittingLayer {
    type Service = Permitting<S>;

    fn layer(&self, inner: S) -> Permitting<S> {
        Permitting { inner, federation: Arc::clone(&self.0) }
    }
}

impl<S, B, R> Service<Request<B>> for Permitting<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Option<Peer>>().and_then(Option::as_ref);
        let caller: Option<Holder> = peer.and_then(|peer| peer.identity.role.holder());
        match permissions::permits_call(request.uri().path(), caller.as_ref()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refusal) => {
                let (deed, code) = (permissions::deed_of(request.uri().path()), refusal.code());
                // Not what was asked, which is the caller's to write, as long and as often as it likes; the ledger tells of it.
                tracing::debug!(deed, code, "not permitted");
                self.federation.turned_away(TurnedAway::Calling { who: caller, deed, code });
                Box::pin(ready(Ok(status(&refusal).into_http())))
            }
        }
    }
}
