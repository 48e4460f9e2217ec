//! An aggregator that listens in: the real services over the real TLS, with every byte that passes inside it kept. For the test
//! that looks for what must not leave a site, from its enrolment on; the product has nothing of the kind.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;

use aggregator::authority;
use aggregator::clock::{SystemClock, wall};
use aggregator::download::DownloadLayer;
use aggregator::driver;
use aggregator::federation::{Federation, Limits};
use aggregator::gate::{Gate, Remembered};
use aggregator::identity::Places;
use aggregator::seats::Seat;
use aggregator::server::{EnrolmentCalls, SiteCalls, identified};
use aggregator::store::{SqliteStore, Store};
use anyhow::Context as _;
use proto::MESSAGE_BYTES;
use proto::wire::enrolment_server::EnrolmentServer;
use proto::wire::federation_server::FederationServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tower::util::MapRequestLayer;

/// What passed, one direction of one connection each.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<Direction>>>);

type Direction = Arc<Mutex<Vec<u8>>>;

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heard {
    fn direction(&self) -> Direction {
        let direction = Direction::default();
        locked(&self.0).push(Arc::clone(&direction));
        direction
    }

    /// A request's head as it was before it was packed: what stands in an HTTP/2 header is in no byte of the connection as it is.
    fn note(&self, head: &http::request::Parts) {
        let mut told = head.uri.to_string().into_bytes();
        for (name, value) in &head.headers {
            told.extend([b"\n", name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
        }
        locked(&self.0).push(Arc::new(Mutex::new(told)));
    }

    /// Bytes that passed inside TLS, in both directions.
    pub fn bytes(&self) -> usize {
        locked(&self.0).iter().map(|direction| locked(direction).len()).sum()
    }

    /// All of it: each direction as it was, and the contents of its HTTP/2 frames put together by stream, so that nothing is missed
    /// where a frame ends.
    pub fn all(&self) -> Vec<Vec<u8>> {
        let raw: Vec<Vec<u8>> = locked(&self.0).iter().map(|direction| locked(direction).clone()).collect();
        let contents = raw.iter().flat_map(|bytes| contents(bytes)).collect::<Vec<_>>();
        raw.into_iter().chain(contents).collect()
    }
}

/// The DATA of each stream of an HTTP/2 connection's one direction.
fn contents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_or(bytes);
    let mut streams = std::collections::BTreeMap::<u32, Vec<u8>>::new();
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = (usize::from(head[0]) << 16) | (usize::from(head[1]) << 8) | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let Some((payload, next)) = after.split_at_checked(length) else { break };
        if head[3] == 0 {
            streams.entry(stream).or_default().extend_from_slice(payload);
        }
        rest = next;
    }
    streams.into_values().collect()
}

/// A connection whose bytes are kept.
struct Tapped<S> {
    inner: S,
    received: Direction,
    sent: Direction,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        locked(&self.received).extend_from_slice(&buf.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            locked(&self.sent).extend_from_slice(&buf[..*written]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: Connected<ConnectInfo = Seat>> Connected for Tapped<S> {
    type ConnectInfo = Seat;

    fn connect_info(&self) -> Seat {
        self.inner.connect_info()
    }
}

/// An aggregator at work in a thread of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Listening {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Writes all that this process logs, to its last detail, into a file. A second one is not possible.
pub fn log_into(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path.parent().context("a folder for the log")?)?;
    let file = Mutex::new(std::fs::File::create(path)?);
    let log = tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(file);
    // Of the libraries below, whose frames would be written one by one, what is more than usual.
    let filter = tracing_subscriber::EnvFilter::new("info,aggregator=trace,certs=trace,proto=trace");
    log.with_env_filter(filter).try_init().map_err(anyhow::Error::from_boxed)
}

/// Serves a federation's state folder at `address`, and keeps what passes.
pub fn listen(state: &Path, address: &str, heard: &Heard) -> anyhow::Result<Listening> {
    listen_through(state, address, heard, |calls| calls)
}

/// The same with other calls of sites than the aggregator's own, made of them.
pub fn listen_through<C: proto::wire::federation_server::Federation>(
    state: &Path,
    address: &str,
    heard: &Heard,
    through: impl FnOnce(SiteCalls) -> C + Send + 'static,
) -> anyhow::Result<Listening> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    listener.set_nonblocking(true)?;
    let record = SqliteStore::open(state)?.federation()?;
    let limits = Limits { spool_bytes: 1 << 30, keep_updates_of_rounds: 2 };
    let federation = Federation::open(state, limits, Arc::new(SystemClock::new()))?;
    let federation = Arc::new(federation.signing_with(authority::signing_key(state)?));
    let authority = Arc::new(authority::load(state, &record.name)?);
    let host = authority::host(&record.address).context("the federation's address")?.to_owned();
    let config = authority::server_config(state, &authority, &[host], wall())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let heard = heard.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let thread = thread::spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let (places, admitted) = (Places::new(16), federation.admitted());
            let remembered = Remembered::new().map(Arc::new);
            let gate = remembered.and_then(|remembered| Gate::new(&federation, &authority, &places, remembered));
            let Ok(gate) = gate else { return };
            let heads = heard.clone();
            let noting = MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
                let (head, body) = request.into_parts();
                heads.note(&head);
                http::Request::from_parts(head, body)
            });
            let arriving = certs::acceptor::connections(listener, config, authority.federation().clone());
            let seated = arriving.filter_map(move |connection| match connection {
                Ok(connection) => places
                    .seat(connection, &admitted)
                    .map(|inner| Ok(Tapped { inner, received: heard.direction(), sent: heard.direction() })),
                Err(error) => Some(Err(error)),
            });
            let calls = SiteCalls::new(Arc::clone(&federation), Arc::clone(&authority));
            let calls = FederationServer::new(through(calls))
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES);
            let enrolment = EnrolmentServer::new(EnrolmentCalls::new(Arc::clone(&federation), authority));
            let server = Server::builder()
                .layer(noting)
                .layer(gate)
                .layer(DownloadLayer)
                .add_service(InterceptedService::new(calls, identified))
                .add_service(enrolment)
                .serve_with_incoming(seated);
            tokio::select! {
                _ = server => {}
                _ = driver::drive(federation) => {}
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    });
    Ok(Listening { stop: Some(stop), thread: Some(thread) })
}
