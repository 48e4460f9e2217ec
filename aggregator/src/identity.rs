//! Who is calling: the identity in the certificate that the peer's handshake proved, and nothing else.
//!
//! A connection without a certificate may enrol. So that idle strangers cannot keep members out, they have places of their
//! own, and must be done within a time limit. So that no member keeps the others out, each has a few places at most. A
//! member's connection ends when its certificate does, and when its certificate counts no more.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use certs::acceptor::Connection;
use certs::identity::{Peer, PeerIdentity, Role};
use certs::quota::{Held, Quota};
use common::{Person, Refusal, SiteId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep};
use tonic::Request;
use tonic::transport::server::Connected;

use crate::clock::{Stamp, wall};
use crate::federation::Admitted;

/// Connections without a certificate at a time.
pub const STRANGERS: usize = 32;
/// Longest life of one.
pub const STRANGER_WITHIN: Duration = Duration::from_secs(30);
/// Connections of one member at a time: it needs one, and one that broke unnoticed keeps its place for a while.
pub const CONNECTIONS_OF_ONE: usize = 4;

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
        // The aggregator's own certificate is for serving, a person's for other calls.
        Some((Role::Aggregator | Role::Person(_), _)) | None => Err(Refusal::Unidentified),
    }
}

/// The person that makes a call, and the certificate's serial number.
pub fn person<T>(request: &Request<T>) -> Result<(Person, String), Refusal> {
    let peer = request.extensions().get::<Option<Peer>>().and_then(Option::as_ref);
    match peer.map(|peer| (&peer.identity.role, &peer.serial)) {
        Some((Role::Person(person), serial)) => Ok((person.clone(), serial.clone())),
        _ => Err(Refusal::Unidentified),
    }
}

/// Places for connections.
#[derive(Clone, Debug)]
pub struct Places {
    members: Arc<Semaphore>,
    of_each: Quota<String>,
    strangers: Arc<Semaphore>,
}

/// A place that is taken; dropping it gives it back.
#[derive(Debug)]
struct Place {
    _of_all: OwnedSemaphorePermit,
    _own: Option<Held<String>>,
}

impl Places {
    /// So many places for connections with a certificate, and [`STRANGERS`] for others.
    pub fn new(members: usize) -> Self {
        let (members, strangers) = (Arc::new(Semaphore::new(members)), Arc::new(Semaphore::new(STRANGERS)));
        Self { members, of_each: Quota::new(CONNECTIONS_OF_ONE), strangers }
    }

    /// Gives a connection its place, or drops it.
    pub fn seat(&self, connection: Connection, admitted: &watch::Receiver<Admitted>) -> Option<Seated> {
        let peer = connection.peer();
        let Some(place) = self.place(peer.map(|peer| &peer.identity)) else {
            let who = peer.map_or("nobody known".to_owned(), |peer| peer.identity.uri());
            tracing::warn!(who, "a connection was dropped: all places for it are taken");
            return None;
        };
        let stay = peer.map_or(STRANGER_WITHIN, |peer| life_left(peer.expires_at_s, wall()));
        let peer = peer.cloned();
        let shut_out: Until = Box::pin(shut_out(peer, admitted.clone()));
        Some(Seated { leave_at: Box::pin(sleep(stay)), shut_out, connection, _place: place })
    }

    /// A place for a member, or for a stranger.
    fn place(&self, member: Option<&PeerIdentity>) -> Option<Place> {
        let places = if member.is_some() { &self.members } else { &self.strangers };
        let own = member.map(|identity| self.of_each.take(identity.uri()).ok_or(())).transpose().ok()?;
        let of_all = Arc::clone(places).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _own: own })
    }
}

/// Time until a certificate expires.
fn life_left(expires_at_s: i64, now: Stamp) -> Duration {
    Duration::from_secs(u64::try_from(expires_at_s).unwrap_or(0).saturating_sub(now.seconds()))
}

type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Completes when the certificate of this peer, which counted, counts no more. One that never counted is heard, and told so by
/// every call: its holder learns why.
async fn shut_out(peer: Option<Peer>, mut admitted: watch::Receiver<Admitted>) {
    let known = peer.and_then(|peer| Some((peer.identity.role.holder()?, peer.serial)));
    let Some((holder, serial)) = known else {
        return std::future::pending().await;
    };
    let mut counted = false;
    loop {
        let counts = admitted.borrow_and_update().stands(&holder, &serial).is_some();
        if counted && !counts {
            tracing::warn!(%holder, "a connection is cut: its certificate counts no more");
            return;
        }
        counted |= counts;
        if admitted.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// A connection that has its place.
pub struct Seated {
    connection: Connection,
    leave_at: Pin<Box<Sleep>>,
    shut_out: Until,
    _place: Place,
}

impl fmt::Debug for Seated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seated").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Connected for Seated {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Option<Peer> {
        self.connection.peer().cloned()
    }
}

impl AsyncRead for Seated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.leave_at.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.shut_out.as_mut().poll(cx).is_ready() {
            self.shut_out = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn member(site: &str) -> PeerIdentity {
        PeerIdentity { federation: "cmr".parse().unwrap(), role: Role::Site(site.parse().unwrap()) }
    }

    #[test]
    fn a_member_with_all_of_its_places_keeps_no_other_member_and_no_stranger_out() {
        let places = Places::new(CONNECTIONS_OF_ONE + 1);
        let (a, b) = (member("a"), member("b"));
        let mut own: Vec<_> = (0..CONNECTIONS_OF_ONE).map(|_| places.place(Some(&a)).unwrap()).collect();
        assert!(places.place(Some(&a)).is_none());
        let other = places.place(Some(&b)).unwrap();
        assert!(places.place(Some(&b)).is_none(), "all places of members are taken");
        assert!(places.place(None).is_some());
        own.pop();
        assert!(places.place(Some(&b)).is_some(), "a place that is given back is there for others");
        drop(other);
    }

    #[test]
    fn a_connection_lasts_no_longer_than_its_certificate() {
        assert_eq!(life_left(1_000, Stamp(400_999)), Duration::from_secs(600));
        assert_eq!(life_left(1_000, Stamp(1_000_001)), Duration::ZERO);
    }
}
