//! Who is calling: the identity in the certificate that the peer's handshake proved, and nothing else.
//!
//! A connection without a certificate may enrol. So that idle strangers cannot keep members out, they have places of their
//! own, and must be done within a time limit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use certs::acceptor::Connection;
use certs::identity::{Peer, Role};
use common::{Refusal, SiteId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Request;
use tonic::transport::server::Connected;

/// Connections without a certificate at a time.
pub const STRANGERS: usize = 32;
/// Longest life of one.
pub const STRANGER_WITHIN: Duration = Duration::from_secs(30);

/// A site, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The site.
    pub site: SiteId,
    /// Serial number of the certificate.
    pub serial: String,
}

/// The site that makes a call.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Refusal> {
    let peer = request.extensions().get::<Option<Peer>>().and_then(Option::as_ref);
    match peer.map(|peer| (&peer.identity.role, &peer.serial)) {
        Some((Role::Site(site), serial)) => Ok(Caller { site: site.clone(), serial: serial.clone() }),
        // The aggregator's own certificate is for serving.
        Some((Role::Aggregator, _)) | None => Err(Refusal::Unidentified),
    }
}

/// Places for connections.
#[derive(Clone, Debug)]
pub struct Places {
    members: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Places {
    /// So many places for connections with a certificate, and [`STRANGERS`] for others.
    pub fn new(members: usize) -> Self {
        Self { members: Arc::new(Semaphore::new(members)), strangers: Arc::new(Semaphore::new(STRANGERS)) }
    }

    /// Gives a connection its place, or drops it.
    pub fn seat(&self, connection: Connection) -> Option<Seated> {
        let is_member = connection.peer().is_some();
        let places = if is_member { &self.members } else { &self.strangers };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::warn!(is_member, "a connection was dropped: all places are taken");
            return None;
        };
        let leave_at = (!is_member).then(|| Box::pin(sleep(STRANGER_WITHIN)));
        Some(Seated { connection, leave_at, _place: place })
    }
}

/// A connection that has its place.
#[derive(Debug)]
pub struct Seated {
    connection: Connection,
    leave_at: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Seated {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Option<Peer> {
        self.connection.peer().cloned()
    }
}

impl AsyncRead for Seated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(leave_at) = &mut self.leave_at
            && leave_at.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
