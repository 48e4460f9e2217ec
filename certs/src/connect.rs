//! Opens a TLS connection, with errors that an operator understands.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::message::MessageError;
use crate::proxy::Route;
use crate::tunnel::{self, Stream, TunnelError};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// An address that has not answered for so long does not keep the next one of its name from being tried.
const NEXT_AFTER: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not host:port.
    #[error("{0:?} is not an address: host:port is expected")]
    Address(String),
    /// Nobody answers.
    #[error("{address} does not answer ({why}): is the aggregator running, and may this machine reach that port?")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        why: String,
    },
    /// The other side is not the aggregator of this federation.
    #[error(
        "{address} is not this federation's aggregator: {why}; compare the address and the CA's fingerprint with the \
         coordinator, by telephone"
    )]
    NotTheAggregator {
        /// Where.
        address: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// The aggregator's certificate does not count at the time that this machine's clock tells.
    #[error(
        "{address} cannot be trusted at the time of this machine's clock: {why}; set the clock, best by NTP, and if it is right have the \
         coordinator start the aggregator again: it renews its certificate then"
    )]
    Clock {
        /// Where.
        address: String,
        /// From when on the certificate counts, or until when.
        why: String,
    },
    /// Whoever answers speaks an older HTTP.
    #[error(
        "{address} does not speak HTTP/2: a proxy that opens TLS on the way must let HTTP/2 and its trailers through (gRPC), or \
         exempt that host and port"
    )]
    NotHttp2 {
        /// Where.
        address: String,
    },
    /// The proxy on the way gives no tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The other side refuses the certificate that it was shown.
    #[error("{address} refuses this certificate ({why}): enrol again with a new invitation")]
    Refused {
        /// Where.
        address: String,
        /// The alert.
        why: String,
    },
}

/// Connects straight to `address` (host:port) and shakes hands.
pub async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = name_of(address)?;
    handshake(address, name, straight(address).await?, config).await
}

/// Connects to `address` (host:port) by a route and shakes hands. Through a proxy the name is looked up there, and whoever
/// answers is held to the same certificate.
pub async fn connect_via(
    address: &str,
    config: Arc<ClientConfig>,
    route: &Route,
) -> Result<TlsStream<Box<dyn Stream>>, ConnectError> {
    let name = name_of(address)?;
    handshake(address, name, line(address, route).await?, config).await
}

/// A connection by a route, without TLS.
pub(crate) async fn line(address: &str, route: &Route) -> Result<Box<dyn Stream>, ConnectError> {
    Ok(match route {
        Route::Direct => Box::new(straight(address).await?),
        Route::Via(proxy) => tunnel::tunnel(proxy, address).await?,
    })
}

fn name_of(address: &str) -> Result<ServerName<'static>, ConnectError> {
    let not_one = || ConnectError::Address(address.to_owned());
    let (host, _) = address.rsplit_once(':').ok_or_else(not_one)?;
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| not_one())
}

async fn straight(address: &str) -> Result<TcpStream, ConnectError> {
    let unreachable = |why: String| ConnectError::Unreachable { address: address.to_owned(), why };
    let tcp = timeout(CONNECT_WITHIN, reached(address)).await.map_err(|_| late(address))?;
    let tcp = tcp.map_err(|error| unreachable(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
    Ok(tcp)
}

/// A connection to whichever of a name's addresses answers first (RFC 8305): a firewall may drop what goes to one of them.
pub(crate) async fn reached(host: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let addresses = alternating(lookup_host(host).await?.collect());
    first_to_answer(addresses, NEXT_AFTER, TcpStream::connect).await
}

/// One family of addresses by turns with the other, each in the order that the system's resolver prefers.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().map(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| Some(address.is_ipv6()) == first);
    let longest = one.len().max(other.len());
    (0..longest).flat_map(|place| [one.get(place), other.get(place)]).flatten().copied().collect()
}

/// The first connection that is made. The next address is tried beside those that have not answered yet, and at once if one says no;
/// of several that say no, the last word counts.
async fn first_to_answer<T, F>(
    addresses: Vec<SocketAddr>,
    next_after: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let (mut left, mut attempts) = (addresses.into_iter(), JoinSet::new());
    let mut why = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = left.next() {
            attempts.spawn(connect(address));
        }
        let ended = match left.len() {
            0 => attempts.join_next().await,
            _ => match timeout(next_after, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match ended {
            Some(Ok(Ok(made))) => return Ok(made),
            Some(Ok(Err(error))) => why = error,
            Some(Err(error)) => why = error.into(),
            None => return Err(why),
        }
    }
}

async fn handshake<S: Stream>(
    address: &str,
    name: ServerName<'static>,
    line: S,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<S>, ConnectError> {
    let wanted = config.alpn_protocols.clone();
    let shaken = timeout(CONNECT_WITHIN, TlsConnector::from(config).connect(name, line)).await;
    let stream = shaken.map_err(|_| late(address))?.map_err(|error| told(address, &error))?;
    // A server that knows nothing of the choice speaks HTTP/1: nothing of ours would be understood.
    if !wanted.is_empty() && stream.get_ref().1.alpn_protocol().is_none() {
        return Err(ConnectError::NotHttp2 { address: address.to_owned() });
    }
    Ok(stream)
}

fn late(address: &str) -> ConnectError {
    let why = format!("no answer within {} s", CONNECT_WITHIN.as_secs());
    ConnectError::Unreachable { address: address.to_owned(), why }
}

/// What the other side said no to, if that is in this error: in TLS 1.3 a client hears that its certificate is refused only when
/// it reads, long after the handshake is over for itself, and below whatever protocol it speaks by then.
pub fn explained(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error shows what is in it, and not what that is.
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let tls = inner.and_then(|inner| inner.downcast_ref::<Error>()).or_else(|| error.downcast_ref::<Error>());
        if let Some(Error::AlertReceived(alert)) = tls {
            return Some(format!(
                "the aggregator refuses this certificate ({}): enrol again with a new invitation",
                alert_text(*alert)
            ));
        }
        cause = error.source();
    }
    None
}

/// Why a call failed, for people: what [`explained`] says, or else the innermost reason, which hides below three layers of
/// transport; none where nobody gave one.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(explained) = explained(error) {
        return Some(explained);
    }
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string()).filter(|told| !told.is_empty())
}

/// What is wrong with an answer's signatures, if that is in this error.
pub fn altered<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a MessageError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<MessageError>() {
            // The connection's failure is told as without signatures.
            Some(MessageError::Below(_)) | None => cause = error.source(),
            found => return found,
        }
    }
    None
}

fn told(address: &str, error: &io::Error) -> ConnectError {
    let (address, tls) = (address.to_owned(), error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()));
    match tls {
        Some(Error::AlertReceived(alert)) => ConnectError::Refused { address, why: alert_text(*alert) },
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            ConnectError::NotTheAggregator {
                address,
                why: "its certificate is not signed by this federation's CA (where a proxy opens TLS on the way: have that host \
                      and port exempted, or write `channel = \"signed\"` and `inspection_roots` under `[network]`)"
                    .to_owned(),
            }
        }
        Some(error @ Error::InvalidCertificate(
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. },
        )) => ConnectError::Clock { address, why: error.to_string() },
        Some(error) => ConnectError::NotTheAggregator { address, why: error.to_string() },
        None => ConnectError::Unreachable { address, why: error.to_string() },
    }
}

fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => "it has expired".to_owned(),
        AlertDescription::CertificateRevoked => "it is revoked".to_owned(),
        AlertDescription::UnknownCA => "it is of another CA".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::DecodeError => "it is not one of a site or a person of this federation".to_owned(),
        AlertDescription::DecryptError => "its key did not sign the handshake, or its CA did not sign it".to_owned(),
        AlertDescription::ProtocolVersion => "TLS 1.3 is not spoken there".to_owned(),
        AlertDescription::NoApplicationProtocol => "HTTP/2 is not spoken there".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Port 1 never answers, port 2 refuses, others answer.
    async fn answer(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.port() {
            1 => std::future::pending().await,
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(address),
        }
    }

    #[tokio::test]
    async fn an_address_that_never_answers_keeps_no_other_from_being_tried() {
        let [soon, never] = [Duration::from_millis(1), Duration::from_secs(3600)];
        let one = addresses(&["[::1]:1", "127.0.0.1:9"]);
        assert_eq!(first_to_answer(one.clone(), soon, answer).await.unwrap(), one[1]);
        let refused = addresses(&["[::1]:2", "127.0.0.1:9"]);
        assert_eq!(first_to_answer(refused.clone(), never, answer).await.unwrap(), refused[1], "at once");
        let late = addresses(&["[::1]:1", "[::2]:2", "127.0.0.1:2", "127.0.0.2:9", "127.0.0.3:1"]);
        assert_eq!(first_to_answer(late.clone(), soon, answer).await.unwrap(), late[3]);
    }

    #[tokio::test]
    async fn where_all_addresses_say_no_it_is_said_why() {
        let all = addresses(&["[::1]:2", "127.0.0.1:2"]);
        let error = first_to_answer(all, Duration::from_secs(3600), answer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = first_to_answer(Vec::new(), Duration::from_secs(3600), answer).await.unwrap_err();
        assert_eq!(error.to_string(), "the name has no address");
    }

    #[test]
    fn addresses_of_both_families_are_tried_by_turns() {
        let told = addresses(&["[::1]:9", "[::2]:9", "[::3]:9", "127.0.0.1:9"]);
        assert_eq!(alternating(told), addresses(&["[::1]:9", "127.0.0.1:9", "[::2]:9", "[::3]:9"]));
    }
}
