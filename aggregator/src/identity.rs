//! Who is calling: the identity in the certificate that the peer's handshake proved, or the call's own signatures
//! ([`crate::gate`]), and nothing else.
//!
//! A connection without a certificate may enrol, and is a member's from the first signed call on that is verified
//! ([`crate::seats`]). So that idle strangers cannot keep members out, they have places of their own, must be done within a time
//! limit, and the oldest gives way to each new one. So that no member keeps the others out, each has a few places at most. A
//! member's connection ends when its certificate does, and when its certificate counts no more. One whose certificate does not
//! count as it comes is a stranger's: whoever stole it keeps no place that its holder needs.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
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
use crate::seats::{self, Seat, Strangers};

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
    strangers: Arc<Strangers>,
    stranger_within: Duration,
}

/// A member's place that is taken; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _own: Held<String>,
}

impl Places {
    /// So many places for connections with a certificate, and [`STRANGERS`] for others.
    pub fn new(members: usize) -> Self {
        let members = Arc::new(Semaphore::new(members));
        let of_each = Quota::new(CONNECTIONS_OF_ONE);
        Self { members, of_each, strangers: Arc::default(), stranger_within: STRANGER_WITHIN }
    }

    /// The same, where a stranger must be done within another time.
    pub fn with_strangers_for(self, stranger_within: Duration) -> Self {
        Self { stranger_within, ..self }
    }

    /// Gives a connection its place, or drops it.
    pub fn seat(&self, connection: Connection, admitted: &watch::Receiver<Admitted>) -> Option<Seated> {
        let peer = connection.peer().cloned();
        let Some(peer) = peer.clone().filter(|peer| seats::stands(peer, &admitted.borrow())) else {
            let stranger = Seat::Unnamed(self.strangers.come());
            let shut_out: Until = Box::pin(seats::given_up(stranger.clone(), admitted.clone()));
            let leave_at = Box::pin(sleep(self.stranger_within));
            // With a certificate that does not count it is heard, and told so by every call: its holder learns why.
            let seat = peer.map_or(stranger, Seat::Of);
            return Some(Seated { leave_at, shut_out, connection, seat, _place: None });
        };
        let Some(place) = self.place(&peer.identity) else {
            tracing::warn!(who = peer.identity.uri(), "a connection was dropped: all places for it are taken");
            return None;
        };
        let leave_at = Box::pin(sleep(life_left(peer.expires_at_s, wall())));
        let shut_out: Until = Box::pin(shut_out(peer.clone(), true, admitted.clone()));
        Some(Seated { leave_at, shut_out, connection, seat: Seat::Of(peer), _place: Some(place) })
    }

    /// A place for a member.
    pub(crate) fn place(&self, identity: &PeerIdentity) -> Option<Place> {
        let own = self.of_each.take(identity.uri())?;
        let of_all = Arc::clone(&self.members).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _own: own })
    }
}

/// Time until a certificate expires.
pub(crate) fn life_left(expires_at_s: i64, now: Stamp) -> Duration {
    Duration::from_secs(u64::try_from(expires_at_s).unwrap_or(0).saturating_sub(now.seconds()))
}

type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Completes when the certificate of this peer, if it counted, counts no more. One that never counted is heard, and told so by
/// every call: its holder learns why.
pub(crate) async fn shut_out(peer: Peer, mut counted: bool, mut admitted: watch::Receiver<Admitted>) {
    let Peer { identity, serial, .. } = peer;
    let Some(holder) = identity.role.holder() else {
        return std::future::pending().await;
    };
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
    seat: Seat,
    _place: Option<Place>,
}

impl fmt::Debug for Seated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seated").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Connected for Seated {
    type ConnectInfo = Seat;

    fn connect_info(&self) -> Seat {
        self.seat.clone()
    }
}

impl AsyncRead for Seated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.leave_at.as_mut().poll(cx).is_ready() {
            let Some(longer) = self.seat.stays(wall()) else {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            self.leave_at = Box::pin(sleep(longer));
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

    // As the connection does: what is left out here is done one slice at a time, each a record and a packet of its own.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
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
    fn a_member_with_all_of_its_places_keeps_no_other_member_out() {
        let places = Places::new(CONNECTIONS_OF_ONE + 1);
        let (a, b) = (member("a"), member("b"));
        let mut own: Vec<_> = (0..CONNECTIONS_OF_ONE).map(|_| places.place(&a).unwrap()).collect();
        assert!(places.place(&a).is_none());
        let other = places.place(&b).unwrap();
        assert!(places.place(&b).is_none(), "all places of members are taken");
        own.pop();
        assert!(places.place(&b).is_some(), "a place that is given back is there for others");
        drop(other);
    }

    #[test]
    fn a_connection_lasts_no_longer_than_its_certificate() {
        assert_eq!(life_left(1_000, Stamp(400_999)), Duration::from_secs(600));
        assert_eq!(life_left(1_000, Stamp(1_000_001)), Duration::ZERO);
    }
}
