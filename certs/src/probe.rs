//! What an address shows when it is asked for TLS, believed or not: so that a person sees who stands in between.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
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
    /// All of it.
    pub der: Vec<u8>,
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
            der: der.to_vec(),
        })
    }

    /// Whether one of these CAs issued it for a server: by the signature, since anybody may write any name. When it counts is not
    /// looked at.
    pub fn is_issued_by(&self, authorities_pem: &str) -> bool {
        let authorities: Vec<_> =
            CertificateDer::pem_slice_iter(authorities_pem.as_bytes()).filter_map(Result::ok).collect();
        let anchors: Vec<_> =
            authorities.iter().filter_map(|authority| anchor_from_trusted_cert(authority).ok()).collect();
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        let while_it_counts = Duration::from_secs(u64::try_from(self.not_before_s).unwrap_or(0));
        let while_it_counts = UnixTime::since_unix_epoch(while_it_counts);
        let der = CertificateDer::from(self.der.as_slice());
        EndEntityCert::try_from(&der).is_ok_and(|leaf| {
            let usage = KeyUsage::server_auth();
            leaf.verify_for_usage(algorithms, &anchors, &[], while_it_counts, usage, None, None).is_ok()
        })
    }

    /// What a certificate in PEM says of itself.
    pub fn of_pem(pem: &str) -> Result<Self, CertsError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::keys::Key;

    #[test]
    fn a_certificate_is_of_the_ca_whose_key_signed_it_and_of_no_other_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let now = 1_800_000_000;
        let [ours, other] = ["ours", "other"]
            .map(|name| Authority::create(&folder.path().join(name), &"cmr".parse().unwrap(), now).unwrap());
        let request = Key::create(&folder.path().join("server.key")).unwrap().csr_pem().unwrap();
        let issued = ours.issue_aggregator(&request, &["localhost".to_owned()], now).unwrap();
        let leaf = Shown::of_pem(&issued.certificate_pem).unwrap();
        assert_eq!(leaf.issuer, Shown::of_pem(other.certificate_pem()).unwrap().subject);
        assert!(leaf.is_issued_by(ours.certificate_pem()) && !leaf.is_issued_by(other.certificate_pem()));
        assert!(
            leaf.is_issued_by(&format!("{}{}", other.certificate_pem(), ours.certificate_pem())),
            "the next CA as well"
        );
        assert!(!leaf.is_issued_by(""));
    }
}
