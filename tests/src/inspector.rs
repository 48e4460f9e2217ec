//! A hospital's proxy that opens TLS: it answers CONNECT, shows a certificate of a corporate CA for whatever host is asked for, and
//! opens a connection of its own to that host. It reads all that passes, keeps it, and may be told to change it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use bytes::{BufMut, Bytes};
use common::FederationName;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ClientConfig;

use crate::corporate::Corporate;
use crate::proxy::asked;

/// One half of a call, as it passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passing {
    /// The path of the request.
    pub path: String,
    /// The status of HTTP, of an answer.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The messages of gRPC, without the length before each.
    pub messages: Vec<Vec<u8>>,
    /// The trailers of an answer, if there are any.
    pub trailers: Option<HeaderMap>,
}

/// What is done to a half of a call.
pub type Meddling = Box<dyn FnMut(&mut Passing) + Send>;

/// A proxy at work in threads of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Inspector {
    address: SocketAddr,
    roots: PathBuf,
    inside: Arc<Inside>,
    runtime: Option<Runtime>,
}

struct Inside {
    corporate: Corporate,
    upstream: Arc<ClientConfig>,
    protocols: Vec<Vec<u8>>,
    requests: Mutex<Option<Meddling>>,
    answers: Mutex<Option<Meddling>>,
    seen: Mutex<Vec<(Passing, Passing)>>,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Sender = SendRequest<Full<Bytes>>;

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inspector {
    /// Starts it; it knows the aggregator by the CA of that state folder, and writes the corporate CA's certificate to `roots`.
    pub fn start(federation: &str, aggregator_state: &Path, roots: PathBuf) -> anyhow::Result<Self> {
        Self::speaking(&[b"h2"], federation, aggregator_state, roots)
    }

    /// The same, which offers these protocols inside TLS.
    pub fn speaking(
        protocols: &[&[u8]],
        federation: &str,
        aggregator_state: &Path,
        roots: PathBuf,
    ) -> anyhow::Result<Self> {
        let name: FederationName = federation.parse()?;
        let authority = std::fs::read_to_string(aggregator_state.join("authority/ca.crt")).context("the CA")?;
        let upstream = certs::tls::signed_config(&name, &authority, None)?;
        let inside = Arc::new(Inside {
            corporate: Corporate::new("Corporate Inspection CA", &roots)?,
            upstream,
            protocols: protocols.iter().map(|name| name.to_vec()).collect(),
            requests: Mutex::default(),
            answers: Mutex::default(),
            seen: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let serving = Arc::clone(&inside);
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let inside = Arc::clone(&serving);
                // Whatever breaks a connection, the agent makes another.
                tokio::spawn(async move { drop(inside.serve(tcp).await) });
            }
        });
        Ok(Self { address, roots, inside, runtime: Some(runtime) })
    }

    /// The settings of a site behind it, as a person there writes them.
    pub fn settings(&self) -> String {
        let (proxy, roots) = (self.address, self.roots.display());
        format!("[network]\nproxy = 'http://{proxy}'\nchannel = 'signed'\ninspection_roots = '{roots}'\n")
    }

    /// host:port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Does this to each request from now on, and that to each answer.
    pub fn meddle(
        &self,
        requests: impl FnMut(&mut Passing) + Send + 'static,
        answers: impl FnMut(&mut Passing) + Send + 'static,
    ) {
        *locked(&self.inside.requests) = Some(Box::new(requests));
        *locked(&self.inside.answers) = Some(Box::new(answers));
    }

    /// Does nothing to anything from now on.
    pub fn rest(&self) {
        (*locked(&self.inside.requests), *locked(&self.inside.answers)) = (None, None);
    }

    /// The calls that passed, as they were sent on: the request and the answer of each.
    pub fn seen(&self) -> Vec<(Passing, Passing)> {
        locked(&self.inside.seen).clone()
    }

    /// Sends a request that passed once more, over a connection of its own, and hears the answer.
    pub fn again(&self, aggregator: &str, request: &Passing) -> anyhow::Result<Passing> {
        let runtime = self.runtime.as_ref().context("it is at work")?;
        runtime.block_on(async {
            let (sender, connection) = self.inside.upstream(aggregator).await.map_err(anyhow::Error::from_boxed)?;
            let driver = tokio::spawn(connection);
            let answer = send(sender, aggregator, request).await.map_err(anyhow::Error::from_boxed);
            driver.abort();
            answer
        })
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inside {
    async fn serve(self: Arc<Self>, mut tcp: TcpStream) -> Result<(), AnyError> {
        let (target, _) = asked(&mut tcp).await?;
        tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        let host = target.rsplit_once(':').map_or(target.as_str(), |(host, _)| host);
        let tls = TlsAcceptor::from(self.corporate.shown_for(host, &self.protocols)?).accept(tcp).await?;
        let (sender, upstream) = self.upstream(&target).await?;
        let service = service_fn(move |request| {
            let (inside, sender, target) = (Arc::clone(&self), sender.clone(), target.clone());
            async move { inside.pass(sender, &target, request).await.map_err(io::Error::other) }
        });
        let serving =
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service);
        // Where one side ends, the other does.
        tokio::select! {
            served = serving => served?,
            ended = upstream => ended?,
        }
        Ok(())
    }

    async fn upstream(
        &self,
        target: &str,
    ) -> Result<(Sender, impl Future<Output = hyper::Result<()>> + Send + use<>), AnyError> {
        let tls = certs::connect::connect(target, Arc::clone(&self.upstream)).await?;
        Ok(hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?)
    }

    async fn pass(
        &self,
        sender: Sender,
        target: &str,
        request: Request<Incoming>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, AnyError> {
        let (parts, body) = request.into_parts();
        let mut request = taken(parts.uri.path(), 0, parts.headers, body).await?;
        if let Some(meddle) = &mut *locked(&self.requests) {
            meddle(&mut request);
        }
        let mut answer = send(sender, target, &request).await?;
        if let Some(meddle) = &mut *locked(&self.answers) {
            meddle(&mut answer);
        }
        locked(&self.seen).push((request, answer.clone()));
        let trailers = answer.trailers.take();
        let body = Full::new(framed(&answer.messages)).with_trailers(async move { trailers.map(Ok) });
        let mut response = Response::builder().status(answer.status).body(body.boxed_unsync())?;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

async fn send(mut sender: Sender, target: &str, request: &Passing) -> Result<Passing, AnyError> {
    let mut sent =
        Request::post(format!("http://{target}{}", request.path)).body(Full::new(framed(&request.messages)))?;
    *sent.headers_mut() = request.headers.clone();
    sender.ready().await?;
    let answer = sender.send_request(sent).await?;
    let (parts, body) = answer.into_parts();
    taken(&request.path, parts.status.as_u16(), parts.headers, body).await
}

async fn taken(path: &str, status: u16, mut headers: HeaderMap, body: Incoming) -> Result<Passing, AnyError> {
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    headers.remove(http::header::CONTENT_LENGTH);
    let (mut messages, bytes) = (Vec::new(), collected.to_bytes());
    let mut rest = &bytes[..];
    while let Some(([_, length @ ..], after)) = rest.split_first_chunk::<5>() {
        let (message, next) =
            after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or("a part of a message")?;
        messages.push(message.to_vec());
        rest = next;
    }
    Ok(Passing { path: path.to_owned(), status, headers, messages, trailers })
}

fn framed(messages: &[Vec<u8>]) -> Bytes {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.put_u8(0);
        bytes.put_u32(message.len() as u32);
        bytes.put_slice(message);
    }
    bytes.into()
}
