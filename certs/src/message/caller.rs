//! The site's side of signed calls: a service that signs each request and believes no answer but the aggregator's.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use common::message::{Call, Part};
use common::signed::{Nonce, VerifyingKey};
use common::{Digest, FederationName, Refusal};
use http::{Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use tower::{Service, ServiceExt};

use super::framing::Messages;
use super::headers::{self, Head};
use super::opened::{Opened, verify_end};
use super::{Hand, MessageError, Talk, sealed};
use crate::CertsError;
use crate::keys::{CallKey, Key};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A site, as it signs calls.
#[derive(Debug)]
pub struct Caller {
    federation: FederationName,
    key: CallKey,
    certificate: Vec<u8>,
    aggregator: Hand,
    longest: usize,
    /// Under which start of the aggregator calls are made, as far as that is known.
    incarnation: Mutex<Nonce>,
}

impl Caller {
    /// The holder of a certificate and its key, who knows the aggregator by the key that it signs with; messages are at most
    /// `longest` bytes.
    pub fn new(
        federation: &FederationName,
        certificate_pem: &str,
        key: &Key,
        aggregator: VerifyingKey,
        longest: usize,
    ) -> Result<Self, CertsError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| CertsError::malformed("a certificate")(error.to_string()))?;
        Ok(Self {
            federation: federation.clone(),
            key: key.for_calls()?,
            certificate: certificate.to_vec(),
            aggregator: Hand::Aggregator(aggregator),
            longest,
            incarnation: Mutex::new(Nonce([0; 16])),
        })
    }

    /// A call of this method, made now, as it is sent with this content.
    fn signed(&self, method: &str, content: &[u8]) -> Result<(Arc<Talk>, Head, Bytes), CertsError> {
        let call = Call {
            method: method.to_owned(),
            nonce: self.key.nonce()?,
            incarnation: *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner),
            time_s: UnixTime::now().as_secs(),
            certificate: Digest::of(&self.certificate),
        };
        let talk = Talk { federation: self.federation.clone(), call: call.clone() };
        let signature = self.key.sign(&talk.statement(Part::Call, b""))?;
        let body = sealed::request(&talk, &self.key, content)?;
        Ok((Arc::new(talk), Head { call, certificate: self.certificate.clone(), signature }, body))
    }

    /// Holds the head of an answer to what can be held of it, and its body to the rest.
    fn answer<R>(&self, talk: &Arc<Talk>, answer: Response<R>) -> Result<Response<Opened<R>>, MessageError> {
        let (mut parts, body) = answer.into_parts();
        if parts.status != http::StatusCode::OK {
            return Err(MessageError::Status(parts.status.as_u16()));
        }
        let hand = self.aggregator.clone();
        let body = if parts.headers.contains_key(headers::GRPC_STATUS) {
            verify_end(talk, &hand, 0, &parts.headers)?;
            Opened::ended(body, Arc::clone(talk), hand)
        } else {
            Opened::reply(body, Arc::clone(talk), hand, self.longest)
        };
        parts.headers = headers::believed(&parts.headers, &[header::CONTENT_TYPE, header::DATE]);
        Ok(Response::from_parts(parts, body))
    }

    /// Remembers under which start the aggregator wants to be called, if that is what it answers.
    fn is_to_call_again<R>(&self, answer: &Response<R>) -> bool {
        let told = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let (Some(refusal), Some(wanted)) = (told("cmrfed-refusal"), told(headers::INCARNATION.as_str())) else {
            return false;
        };
        match wanted.parse() {
            Ok(wanted) if refusal == Refusal::Incarnation.code() => {
                *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
                true
            }
            _ => false,
        }
    }
}

/// A service that signs what it sends, and hands on what the aggregator signed.
#[derive(Clone, Debug)]
pub struct Signing<S> {
    inner: S,
    caller: Arc<Caller>,
}

impl<S> Signing<S> {
    /// Calls over `inner`, signed by `caller`.
    pub fn new(inner: S, caller: Arc<Caller>) -> Self {
        Self { inner, caller }
    }
}

/// The one message of a request: no call of this wire has more.
async fn one_message<B>(body: B, longest: usize) -> Result<Bytes, MessageError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let all = body.collect().await.map_err(|error| MessageError::Below(error.into()))?.to_bytes();
    let mut messages = Messages::new(longest);
    messages.add(&all);
    match messages.next_whole()? {
        Some(content) if messages.is_empty() => Ok(content),
        _ => Err(MessageError::Framing("a request is one message")),
    }
}

impl<S, B, R> Service<Request<B>> for Signing<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Opened<R>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each call waits for its own turn: it may make two.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, caller) = (self.inner.clone(), self.caller.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let content = one_message(body, caller.longest).await?;
            let mut again = true;
            loop {
                let (talk, head, body) = caller.signed(parts.uri.path(), &content)?;
                let mut parts = parts.clone();
                headers::write(&head, &mut parts.headers);
                let sent = inner.clone().oneshot(Request::from_parts(parts, Full::new(body)));
                let answer = caller.answer(&talk, sent.await.map_err(Into::into)?)?;
                // Once: who is told so a second time is told so by the caller.
                if again && caller.is_to_call_again(&answer) {
                    again = false;
                    continue;
                }
                return Ok(answer);
            }
        })
    }
}
