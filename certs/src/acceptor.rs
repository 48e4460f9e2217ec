//! Accepts TLS connections: handshakes beside each other, each with a time limit, with a cap on all and a lower one on
//! those of one address. So no slow or silent peer delays another, and no single address keeps the others out. Where there are
//! too many, of one address or of all, an old handshake gives way to each new one: a member may be behind the very address
//! from which many are silent, a hospital's proxy or a balancer.

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use common::FederationName;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;

use crate::identity::Peer;

/// Longest a handshake may take.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Most handshakes under way at once. One takes milliseconds: what is older when they are this many is not a member's.
pub const HANDSHAKES: usize = 256;
/// Most handshakes under way at once from one address: many sites may be behind one, and all of a test is.
pub const HANDSHAKES_OF_ONE: usize = 64;
/// Pause after a connection could not be accepted: too many open files, most likely, and others must close first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Bytes of a connection that are taken from the system at once: four records. TLS by itself asks for 4 KiB at a time.
const READ_AT_ONCE: usize = 64 << 10;

/// A TLS connection whose peer is known, or is nobody.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<BufReader<TcpStream>>,
    peer: Option<Peer>,
}

impl Connection {
    /// Who is at the other end, if it presented a certificate.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }
}

/// The connections that arrive at `listener`. Those that are not TLS 1.3, take too long, or whose certificate is not of
/// `federation` are dropped with a line in the log. The stream owns the listener and the handshakes: they end with it.
pub fn connections(listener: TcpListener, config: Arc<ServerConfig>, federation: FederationName) -> Connections {
    Connections {
        open: Some((listener, Box::pin(pending()))),
        acceptor: TlsAcceptor::from(config),
        federation,
        under_way: JoinSet::new(),
        in_order: VecDeque::new(),
        pause: None,
    }
}

type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connections that arrive, as a stream.
pub struct Connections {
    /// Where they arrive, and until when; none after that.
    open: Option<(TcpListener, Until)>,
    acceptor: TlsAcceptor,
    federation: FederationName,
    under_way: JoinSet<Option<Connection>>,
    /// The same, the oldest first.
    in_order: VecDeque<Handshake>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// A handshake under way.
struct Handshake {
    of: IpAddr,
    /// A byte of its peer's has come.
    has_spoken: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            // Those that are ready go first: they make room.
            while let Poll::Ready(Some(shaken)) = self.under_way.poll_join_next(cx) {
                match shaken {
                    Ok(Some(connection)) => return Poll::Ready(Some(Ok(connection))),
                    Ok(None) => {}
                    Err(gave_way) if gave_way.is_cancelled() => {}
                    Err(panicked) => tracing::error!(%panicked, "a handshake ended in a panic"),
                }
            }
            self.open.take_if(|(_, until)| until.as_mut().poll(cx).is_ready());
            if self.open.is_none() && self.under_way.is_empty() {
                return Poll::Ready(None);
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let Some((listener, _)) = &self.open else { return Poll::Pending };
            match ready!(listener.poll_accept(cx)) {
                Ok((tcp, address)) => self.begin(tcp, address.ip()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.pause = Some(Box::pin(sleep(ACCEPT_AGAIN)));
                }
            }
        }
    }
}

impl Connections {
    /// Lets nobody in after `end`. The stream goes on to the last handshake under way: whoever is at its other end may hold it
    /// to be over, and have asked for something.
    #[must_use]
    pub fn until(mut self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        self.open = self.open.map(|(listener, _)| (listener, Box::pin(end) as Until));
        self
    }

    fn begin(&mut self, tcp: TcpStream, address: IpAddr) {
        let of = network(address);
        self.make_room(of);
        let has_spoken = Arc::new(AtomicBool::new(is_speaking(&tcp)));
        let (acceptor, federation) = (self.acceptor.clone(), self.federation.clone());
        let spoken = Arc::clone(&has_spoken);
        let task = self.under_way.spawn(async move {
            match timeout(HANDSHAKE_WITHIN, handshake(&acceptor, tcp, &federation, &spoken)).await {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(error)) => tracing::info!(%address, %error, "a connection was refused"),
                Err(_) => tracing::info!(%address, "a connection was dropped: its handshake took too long"),
            }
            None
        });
        self.in_order.push_back(Handshake { of, has_spoken, task });
    }

    /// Ends old handshakes, if there are too many of an address, or of all: to let new ones wait, or to turn them away, would
    /// leave it to the silent who gets in.
    fn make_room(&mut self, of: IpAddr) {
        self.in_order.retain(|handshake| !handshake.task.is_finished());
        self.end_those_above(HANDSHAKES_OF_ONE, |handshake| handshake.of == of);
        self.end_those_above(HANDSHAKES, |_| true);
    }

    /// Leaves room for one more of these.
    fn end_those_above(&mut self, most: usize, is_one: impl Fn(&Handshake) -> bool) {
        loop {
            let these = self.in_order.iter().enumerate().filter(|(_, handshake)| is_one(handshake));
            let (spoken, silent): (Vec<_>, Vec<_>) =
                these.partition(|(_, handshake)| handshake.has_spoken.load(Ordering::Relaxed));
            if spoken.len() + silent.len() < most {
                return;
            }
            // Of the more numerous kind. The silent do not drive out who is talking; and those who say a byte and no more do
            // not drive out who has just come, and whose first words are on their way.
            let more = if silent.len() >= spoken.len() { silent } else { spoken };
            let place = more.first().map(|(place, _)| *place);
            let Some(oldest) = place.and_then(|place| self.in_order.remove(place)) else { return };
            oldest.task.abort();
            tracing::info!(address = %oldest.of, most, "a handshake was ended: it is among the oldest of too many");
        }
    }
}

/// Whether something has come already.
fn is_speaking(tcp: &TcpStream) -> bool {
    // Asked of the system: tokio knows it only after its next look at all sockets, and as many may be accepted before that.
    let same = tcp.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
    same.and_then(|tcp| tcp.peek(&mut [0])).is_ok_and(|bytes| bytes > 0)
}

/// What counts as one address: one of IPv4, or a whole /64 of IPv6, which a single machine may have to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    federation: &FederationName,
    has_spoken: &AtomicBool,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    tcp.peek(&mut [0]).await?;
    has_spoken.store(true, Ordering::Relaxed);
    let stream = acceptor.accept(BufReader::with_capacity(READ_AT_ONCE, tcp)).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = chain.first().map(|leaf| Peer::of_caller(leaf, federation)).transpose().map_err(io::Error::other)?;
    Ok(Connection { stream, peer })
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    // The head of an HTTP/2 frame and its payload in one go: else each would be a record and a packet of its own.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_ipv4_or_a_whole_network_of_ipv6() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_ne!(of("10.0.0.7"), of("10.0.0.8"));
        assert_eq!(of("::ffff:10.0.0.7"), of("10.0.0.7"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
