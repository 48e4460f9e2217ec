//! How a download comes to be the body of its answer. A handler's stream would be made into messages for each site anew, copied on
//! the way; the handler hands over the [`Download`] beside an empty stream instead, and a layer around the calls puts it there.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio_stream::Empty;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::Download;

/// What the handler of a download answers with itself.
pub type Nothing = Empty<Result<proto::wire::Chunk, Status>>;

/// A download on its way from the handler to the layer. What goes beside an answer may be copied; who takes it first has it.
#[derive(Clone, Debug)]
struct Handed(Arc<Mutex<Option<Download>>>);

/// A handler's answer: the download, to be put in its place.
pub fn handed(download: Download) -> tonic::Response<Nothing> {
    let mut answer = tonic::Response::new(tokio_stream::empty());
    answer.extensions_mut().insert(Handed(Arc::new(Mutex::new(Some(download)))));
    answer
}

/// Makes the downloads that handlers hand over the bodies of their answers.
#[derive(Clone, Copy, Debug)]
pub struct DownloadLayer;

/// Services behind a [`DownloadLayer`].
#[derive(Clone, Debug)]
pub struct Downloading<S>(S);

impl<S> Layer<S> for DownloadLayer {
    type Service = Downloading<S>;

    fn layer(&self, inner: S) -> Downloading<S> {
        Downloading(inner)
    }
}

impl<S, B> Service<Request<B>> for Downloading<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let called = self.0.call(request);
        Box::pin(async move {
            let mut answer = called.await?;
            let handed = answer.extensions_mut().remove::<Handed>();
            let download = handed.and_then(|handed| handed.0.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(match download {
                Some(download) => answer.map(|_| Body::new(download)),
                None => answer,
            })
        })
    }
}
