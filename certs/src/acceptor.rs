//! Accepts TLS connections: handshakes beside each other, each with a time limit, with a cap on all and a lower one on
//! those of one address. So no slow or silent peer delays another, and no single address keeps the others out; where many
//! are silent from many addresses, the oldest handshake gives way to each new one.

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
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
use crate::quota::Quota;

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
        per_address: Quota::new(HANDSHAKES_OF_ONE),
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
    per_address: Quota<IpAddr>,
    under_way: JoinSet<Option<Connection>>,
    /// The same, the oldest first.
    in_order: VecDeque<AbortHandle>,
    pause: Option<Pin<Box<Sleep>>>,
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
        let Some(place) = self.per_address.take(network(address)) else {
            tracing::info!(%address, most = HANDSHAKES_OF_ONE, "a connection was dropped: its address has too many handshakes");
            return;
        };
        self.make_room();
        let (acceptor, federation) = (self.acceptor.clone(), self.federation.clone());
        let begun = self.under_way.spawn(async move {
            let shaken = timeout(HANDSHAKE_WITHIN, handshake(&acceptor, tcp, &federation)).await;
            drop(place);
            match shaken {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(error)) => tracing::info!(%address, %error, "a connection was refused"),
                Err(_) => tracing::info!(%address, "a connection was dropped: its handshake took too long"),
            }
            None
        });
        self.in_order.push_back(begun);
    }

    /// Ends the oldest handshakes, if there are too many: to let new ones wait would leave it to the silent who gets in.
    fn make_room(&mut self) {
        self.in_order.retain(|handshake| !handshake.is_finished());
        while self.in_order.len() >= HANDSHAKES
            && let Some(oldest) = self.in_order.pop_front()
        {
            oldest.abort();
            tracing::info!(most = HANDSHAKES, "a handshake was ended: it is the oldest of too many");
        }
    }
}

/// What counts as one address: one of IPv4, or a whole /64 of IPv6, which a single machine may have to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream, federation: &FederationName) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
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
