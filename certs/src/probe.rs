//! What an address shows when it is asked for TLS, believed or not: so that a person sees who stands in between.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::CertsError;
use crate::connect::{self, ConnectError};
use crate::proxy::Route;

/// A certificate, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// From when on it is valid, in seconds since 1970.
    pub not_before_s: i64,
    /// Until when.
    pub not_after_s: i64,
}

impl Shown {
    /// What a certificate says of itself.
    pub fn of_der(der: &[u8]) -> Result<Self, CertsError> {
        let refuse = CertsError::malformed("a certificate");
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| refuse(error.to_string()))?;
        let plain = |name: String| name.chars().filter(|c| !c.is_control()).take(200).collect();
        Ok(Self {
            subject: plain(certificate.subject().to_string()),
            issuer: plain(certificate.issuer().to_string()),
            not_before_s: certificate.validity().not_before.timestamp(),
            not_after_s: certificate.validity().not_after.timestamp(),
        })
    }

    /// What a certificate in PEM says of itself.
    pub fn of_pem(pem: &str) -> Result<Self, CertsError> {
        use rustls::pki_types::pem::PemObject;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| CertsError::malformed("a certificate")(error.to_string()))?;
        Self::of_der(&der)
    }
}

/// The certificates that `address` shows, its own first. The handshake is broken off before anything is believed or sent.
pub async fn shown(address: &str, route: &Route) -> Result<Vec<Shown>, ConnectError> {
    let seen = Arc::new(Seen::default());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map(|builder| {
            // `dangerous` is rustls's word for any verifier of one's own; this one refuses everything.
            builder.dangerous().with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        });
    let config =
        config.map_err(|error| ConnectError::Unreachable { address: address.to_owned(), why: error.to_string() })?;
    let refused = connect::connect_via(address, Arc::new(config.with_no_client_auth()), route).await;
    let chain = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
    match refused {
        Err(error) if chain.is_empty() => Err(error),
        _ => Ok(chain.iter().filter_map(|der| Shown::of_der(der).ok()).collect()),
    }
}

/// Connects and hangs up: whether anyone listens, without TLS.
pub async fn reach(address: &str, route: &Route) -> Result<(), ConnectError> {
    connect::line(address, route).await.map(drop)
}

/// The addresses that a name stands for.
pub async fn resolve(address: &str) -> io::Result<Vec<std::net::SocketAddr>> {
    Ok(tokio::net::lookup_host(address).await?.collect())
}

/// Remembers what it is shown, and refuses it.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Vec<u8>>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = [leaf].into_iter().chain(intermediates).map(|certificate| certificate.to_vec());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Err(Error::General("only looked at".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only looked at".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only looked at".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
