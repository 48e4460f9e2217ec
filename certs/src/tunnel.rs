//! Asks a proxy for a tunnel: HTTP CONNECT (RFC 9110, 9.3.6), with a bound on what it may answer and on the time it may take.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::connect::reached;
use crate::proxy::Proxy;

/// A stream of bytes, whatever lies below it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A proxy may look names up and ask its own proxy before it answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Longest head of an answer.
const MOST_BYTES: usize = 16 << 10;

/// Why a proxy gave no tunnel. None of it repeats credentials.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Nobody answers there.
    #[error("the proxy {proxy} does not answer ({why}): is the address right, and may this machine reach it?")]
    Unreachable {
        /// The proxy.
        proxy: String,
        /// What the system said.
        why: String,
    },
    /// The proxy's own certificate.
    #[error(
        "the proxy {proxy} cannot be trusted: {why}; `proxy_roots` must hold the CA that signs its certificate, and it must speak TLS 1.3"
    )]
    NotTrusted {
        /// The proxy.
        proxy: String,
        /// What is wrong.
        why: String,
    },
    /// 407, or 401.
    #[error("the proxy {proxy} asks for {}: write them as http://user:password@host:port, in HTTPS_PROXY or as `proxy` under `[network]`; only basic authentication is spoken here", if *.given { "other credentials than it was given" } else { "credentials" })]
    Credentials {
        /// The proxy.
        proxy: String,
        /// Whether it was given some.
        given: bool,
    },
    /// It knows whom it talks to, and does not want to.
    #[error(
        "the proxy {proxy} refuses a tunnel to {address} ({status}): ask its administrators to permit CONNECT to that host and port, without TLS inspection"
    )]
    Refused {
        /// The proxy.
        proxy: String,
        /// Where to.
        address: String,
        /// Its status code.
        status: u16,
    },
    /// 502, 503, 504.
    #[error(
        "the proxy {proxy} cannot reach {address} ({status}): is the aggregator running, and is its address right?"
    )]
    CannotReach {
        /// The proxy.
        proxy: String,
        /// Where to.
        address: String,
        /// Its status code.
        status: u16,
    },
    /// It speaks something else.
    #[error("{proxy} does not answer as an HTTP proxy does ({why}): is that the proxy's port?")]
    Garbled {
        /// The proxy.
        proxy: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// A tunnel to `address` (host:port) through a proxy.
pub(crate) async fn tunnel(proxy: &Proxy, address: &str) -> Result<Box<dyn Stream>, TunnelError> {
    let url = proxy.url();
    let unreachable = |why: String| TunnelError::Unreachable { proxy: url.to_string(), why };
    let late = || format!("no answer within {} s", ANSWER_WITHIN.as_secs());
    let tcp = timeout(ANSWER_WITHIN, reached((url.host.as_str(), url.port))).await;
    let tcp = tcp.map_err(|_| unreachable(late()))?.map_err(|error| unreachable(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
    let mut stream: Box<dyn Stream> = match &proxy.tls {
        None => Box::new(tcp),
        Some(tls) => {
            let not_trusted = |why: String| TunnelError::NotTrusted { proxy: url.to_string(), why };
            let name = ServerName::try_from(url.host.clone()).map_err(|error| not_trusted(error.to_string()))?;
            let shaken = timeout(ANSWER_WITHIN, TlsConnector::from(tls.clone()).connect(name, tcp)).await;
            Box::new(shaken.map_err(|_| unreachable(late()))?.map_err(|error| not_trusted(error.to_string()))?)
        }
    };
    let answered = timeout(ANSWER_WITHIN, ask(&mut *stream, proxy, address)).await;
    answered.map_err(|_| unreachable(late()))??;
    Ok(stream)
}

async fn ask(stream: &mut dyn Stream, proxy: &Proxy, address: &str) -> Result<(), TunnelError> {
    let unreachable =
        |error: std::io::Error| TunnelError::Unreachable { proxy: proxy.url().to_string(), why: error.to_string() };
    let authorization = proxy.url().authorization();
    let credentials = authorization.as_ref().map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{credentials}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
    stream.flush().await.map_err(unreachable)?;
    let garbled = |why| TunnelError::Garbled { proxy: proxy.url().to_string(), why };
    let mut head = Vec::new();
    // Byte by byte: what follows the head is the aggregator's already.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MOST_BYTES {
            return Err(garbled("its answer has no end"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && head.is_empty() => {
                return Err(garbled("it hangs up without an answer"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(garbled("it hangs up in the middle of its answer"));
            }
            Err(error) => return Err(unreachable(error)),
        }
        if !begins_as_http(&head) {
            return Err(garbled("its answer is not HTTP"));
        }
    }
    let (proxy, address) = (proxy.url().to_string(), address.to_owned());
    match status(&head).ok_or(garbled("its answer has no status"))? {
        200..300 => Ok(()),
        // tinyproxy says 401 to credentials that are wrong.
        401 | 407 => Err(TunnelError::Credentials { proxy, given: authorization.is_some() }),
        status @ 502..=504 => Err(TunnelError::CannotReach { proxy, address, status }),
        status => Err(TunnelError::Refused { proxy, address, status }),
    }
}

fn begins_as_http(head: &[u8]) -> bool {
    const VERSION: &[u8] = b"HTTP/1.";
    let length = head.len().min(VERSION.len());
    head[..length] == VERSION[..length]
}

/// `HTTP/1.1 200 Connection established`: the three digits after the version.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|&byte| byte == b'\r').next()?).ok()?;
    let code = line.split(' ').nth(1)?;
    (code.len() == 3).then(|| code.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line_alone() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\nX: 407 a\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        for wrong in [
            &b"HTTP/1.1\r\n\r\n"[..],
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 \xff\r\n\r\n",
            b"",
        ] {
            assert_eq!(status(wrong), None);
        }
        assert!(begins_as_http(b"HTT") && begins_as_http(b"HTTP/1.1 ") && !begins_as_http(b"SSH-2.0"));
    }
}
