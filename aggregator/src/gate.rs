//! Where every call learns who makes it, before anything else of it is looked at: by the connection's certificate, or by the call's
//! own signatures. Behind it nobody can tell, and nobody needs to.
//!
//! A call that is signed is answered by signed messages and a signed status, a refusal as well. Nothing of it reaches a handler
//! before its signature holds; a call without any signature is of the connection's peer, or of nobody.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use certs::CertsError;
use certs::authority::Authority;
use certs::identity::Peer;
use certs::message::callers::Callers;
use certs::message::headers::{self, Head};
use certs::message::opened::Opened;
use certs::message::replays::Replays;
use certs::message::sealed::{Sealed, sign_end};
use certs::message::{Hand, MessageError, Talk};
use certs::signing::SigningKey;
use common::Refusal;
use common::message::clock_is_off;
use common::signed::Nonce;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use proto::MESSAGE_BYTES;
use proto::refusal::status;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::clock::{Stamp, wall};
use crate::federation::{Admitted, Federation};
use crate::identity::{Places, life_left, shut_out};
use crate::seats::{Seat, UnderWay, stands};
use crate::server::trailers;

/// What is remembered of signed calls as long as the server runs.
#[derive(Debug)]
pub struct Remembered {
    /// No call that was signed for an earlier start counts, so that nothing need be remembered of those.
    incarnation: Nonce,
    replays: Mutex<Replays>,
}

impl Remembered {
    /// Nothing yet.
    pub fn new() -> Result<Self, CertsError> {
        Ok(Self { incarnation: certs::keys::nonce()?, replays: Mutex::default() })
    }
}

/// The gate of a federation, as a layer around all of its services.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    callers: Callers,
    key: Option<Arc<SigningKey>>,
    admitted: watch::Receiver<Admitted>,
    places: Places,
    remembered: Arc<Remembered>,
}

impl Gate {
    /// The gate to a federation whose certificates this authority makes.
    pub fn new(
        federation: &Federation,
        authority: &Authority,
        places: &Places,
        remembered: Arc<Remembered>,
    ) -> Result<Self, CertsError> {
        let callers = Callers::new(authority.federation(), &authority.anchors_pem())?;
        let (key, admitted, places) = (federation.signer(), federation.admitted(), places.clone());
        Ok(Self(Arc::new(Rules { callers, key, admitted, places, remembered })))
    }
}

impl Rules {
    /// Who makes a signed call, if it counts.
    fn admits(&self, seat: Option<&Seat>, head: &Head, now: Stamp) -> Result<(Peer, Hand, UnderWay), Refusal> {
        let Some(Seat::Unnamed(seat)) = seat else {
            // One connection, one way: nobody need ask which of two identities a call has.
            return Err(Refusal::Altered("it is signed, and comes over a connection that has a certificate besides"));
        };
        let (peer, hand) = self.callers.verified(head, now.seconds()).map_err(|error| match error {
            MessageError::Certificate(why) => Refusal::Certificate(why),
            _ => Refusal::Altered("the signature of its head does not hold"),
        })?;
        if head.call.incarnation != self.remembered.incarnation {
            return Err(Refusal::Incarnation);
        }
        if let Some(ahead_s) = clock_is_off(&head.call, now.seconds()) {
            return Err(Refusal::Clock { ahead_s });
        }
        let admitted = self.admitted.borrow();
        // A call with a certificate that does not count is refused in any case. Remembered, it would have its holder's forgotten, and
        // what is forgotten is refused.
        if stands(&peer, &admitted) && !self.is_first(&peer, head, now) {
            return Err(Refusal::Replayed);
        }
        let under_way = seat.begin(&peer, &self.places, &admitted).ok_or(Refusal::Crowded)?;
        Ok((peer, hand, under_way))
    }

    fn is_first(&self, peer: &Peer, head: &Head, now: Stamp) -> bool {
        let mut replays = self.remembered.replays.lock().unwrap_or_else(PoisonError::into_inner);
        replays.is_first(&peer.identity.uri(), head.call.time_s, head.call.nonce, now.seconds())
    }

    /// Completes when this peer's calls are to end, with the reason.
    fn until(&self, peer: &Peer) -> Until {
        let (peer, admitted) = (peer.clone(), self.admitted.clone());
        let expired = sleep(life_left(peer.expires_at_s, wall()));
        Box::pin(async move {
            let gone = peer.identity.role.holder().map_or(Refusal::Unidentified, |holder| Refusal::revoked(&holder));
            tokio::select! {
                () = shut_out(peer, false, admitted) => gone,
                () = expired => Refusal::Certificate("it has expired".to_owned()),
            }
        })
    }

    fn refuses(&self, refusal: &Refusal, signed: Option<(&Talk, &SigningKey)>) -> Response<Body> {
        tracing::debug!(code = refusal.code(), %refusal, "a signed call is refused");
        let mut answer = status(refusal).into_http();
        if *refusal == Refusal::Incarnation
            && let Ok(value) = HeaderValue::from_str(&self.remembered.incarnation.to_string())
        {
            answer.headers_mut().insert(headers::INCARNATION, value);
        }
        if let Some((talk, key)) = signed {
            sign_end(talk, key, 0, answer.headers_mut());
        }
        answer
    }

    /// Carries a signed call out, if it counts.
    async fn signed<S>(&self, mut inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let head = match headers::read(request.uri().path(), request.headers()) {
            Ok(head) => head,
            Err(error) => {
                tracing::info!(%error, "the head of a signed call is not understood");
                return Ok(self.refuses(&Refusal::Altered("its head is not as a site signs it"), None));
            }
        };
        let Some(key) = &self.key else { return Ok(self.refuses(&Refusal::Unavailable, None)) };
        let talk = Arc::new(Talk { federation: self.callers.federation().clone(), call: head.call.clone() });
        let (peer, hand, under_way) = match self.admits(request.extensions().get::<Seat>(), &head, wall()) {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(self.refuses(&refusal, Some((&talk, key)))),
        };
        let mut until = self.until(&peer);
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Some(peer));
        let opened = Opened::request(body, Arc::clone(&talk), hand, MESSAGE_BYTES).map_err(told);
        let called = inner.call(Request::from_parts(parts, Body::new(opened)));
        let answer = tokio::select! {
            biased;
            refusal = &mut until => return Ok(self.refuses(&refusal, Some((&talk, key)))),
            answer = called => answer?,
        };
        let (mut parts, body) = answer.into_parts();
        if parts.headers.contains_key(headers::GRPC_STATUS) {
            sign_end(&talk, key, 0, &mut parts.headers);
            return Ok(Response::from_parts(parts, body));
        }
        let watched = Watched { body, until, is_over: false, _under_way: under_way };
        let sealed = Sealed::reply(watched, talk, Arc::clone(key), MESSAGE_BYTES);
        Ok(Response::from_parts(parts, Body::new(sealed)))
    }
}

/// What a handler is told, and the site by it, of messages that do not count.
fn told(error: MessageError) -> Status {
    let what = match error {
        MessageError::Below(below) => return Status::from_error(below),
        MessageError::Truncated => "it stops before its signed end",
        MessageError::Signature(_) => "the signature of a message does not hold",
        MessageError::Framing(what) => what,
        _ => "a message is not as a site signs it",
    };
    tracing::info!(what, "a signed call is refused");
    status(&Refusal::Altered(what))
}

type Until = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// An answer that ends, by a status, when its site's certificate counts no more.
struct Watched {
    body: Body,
    until: Until,
    is_over: bool,
    _under_way: UnderWay,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(refusal) = self.until.as_mut().poll(cx) {
            self.is_over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(status(&refusal))))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

/// Services behind a [`Gate`].
#[derive(Clone, Debug)]
pub struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if !headers::is_signed(request.headers()) {
            let peer = request.extensions().get::<Seat>().and_then(Seat::peer).cloned();
            request.extensions_mut().insert(peer);
            return Box::pin(self.inner.call(request));
        }
        // The one that is ready is called; its copy gets ready for the next.
        let copy = self.inner.clone();
        let (inner, gate) = (mem::replace(&mut self.inner, copy), self.gate.clone());
        Box::pin(async move { gate.0.signed(inner, request).await })
    }
}
