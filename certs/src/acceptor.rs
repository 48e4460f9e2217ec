//! Accepts TLS connections: handshakes beside each other, each with a time limit and all with a cap, so that no slow or
//! silent peer delays another.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use common::FederationName;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use crate::identity::Peer;

/// Longest a handshake may take.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Most handshakes under way at once.
pub const HANDSHAKES: usize = 256;

/// A TLS connection whose peer is known, or is nobody.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Option<Peer>,
}

impl Connection {
    /// Who is at the other end, if it presented a certificate.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }
}

/// The connections that arrive at `listener`. Those that are not TLS 1.3, take too long, or whose certificate is not of
/// `federation` are dropped with a line in the log.
pub fn connections(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    federation: FederationName,
) -> impl Stream<Item = io::Result<Connection>> {
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(async move {
        let (acceptor, under_way) = (TlsAcceptor::from(config), Arc::new(Semaphore::new(HANDSHAKES)));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
            let tcp = tokio::select! {
                accepted = listener.accept() => accepted,
                () = send.closed() => return,
            };
            let tcp = match tcp {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    // Too many open files, most likely: others must close first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, federation, send) = (acceptor.clone(), federation.clone(), send.clone());
            tokio::spawn(async move {
                let shaken = timeout(HANDSHAKE_WITHIN, handshake(&acceptor, tcp, &federation)).await;
                drop(permit);
                match shaken {
                    Ok(Ok(connection)) => {
                        // The server has stopped if nobody receives.
                        let sent = send.send(Ok(connection)).await;
                        drop(sent);
                    }
                    Ok(Err(error)) => tracing::info!(%error, "a connection was refused"),
                    Err(_) => tracing::info!("a connection was dropped: its handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(receive)
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream, federation: &FederationName) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = leaf.map(|leaf| Peer::of_certificate(leaf)).transpose().map_err(io::Error::other)?;
    if peer.as_ref().is_some_and(|peer| peer.identity.federation != *federation) {
        return Err(io::Error::other("the peer's certificate is of another federation"));
    }
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
