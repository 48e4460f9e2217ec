//! The TLS configurations: 1.3 only, ring, both ways verified. There is no way to turn verification off.

use std::sync::Arc;

use common::{Digest, FederationName};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, version,
};

use crate::CertsError;
use crate::identity::{Peer, Role};
use crate::keys::Key;

/// Application protocol: HTTP/2.
const H2: &[u8] = b"h2";

/// The aggregator's side; `authority_pem` may hold several CAs, while one takes the place of another. A client certificate is verified if there is one; without one, the peer is nobody, and may
/// only enrol: that is for the calls to hold.
pub fn server_config(certificate_pem: &str, authority_pem: &str, key: &Key) -> Result<Arc<ServerConfig>, CertsError> {
    let provider = provider();
    let verifier = client_verifier(authority_pem)?;
    // The CA's certificate is sent along, so that a site that enrols can hold it to its invitation.
    let chain = [vec![certificate(certificate_pem)?], certificates(authority_pem)?].concat();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key.for_tls())?;
    config.alpn_protocols = vec![H2.to_vec()];
    config.max_early_data_size = 0;
    // No resumption: a resumed session is not verified again, and would outlive the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What a client certificate is held to, in a handshake and in a signed call alike.
pub(crate) fn client_verifier(authority_pem: &str) -> Result<Arc<dyn ClientCertVerifier>, CertsError> {
    WebPkiClientVerifier::builder_with_provider(roots(authority_pem)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| CertsError::malformed("the CA's certificate")(error.to_string()))
}

/// The side of an enrolled site or person; `authority_pem` may hold several CAs. It presents its certificate, and accepts only the aggregator of its federation.
pub fn site_config(
    federation: &FederationName,
    certificate_pem: &str,
    authority_pem: &str,
    key: &Key,
) -> Result<Arc<ClientConfig>, CertsError> {
    let trust = Trust::Authority(webpki(roots(authority_pem)?)?);
    let mut config =
        client(federation, trust, None)?.with_client_auth_cert(vec![certificate(certificate_pem)?], key.for_tls())?;
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

/// The side of a site that is about to enrol: it knows the CA by its digest alone.
pub fn enrolment_config(federation: &FederationName, authority: Digest) -> Result<Arc<ClientConfig>, CertsError> {
    without_certificate(federation, Trust::Pinned(authority), None)
}

/// The side of a site whose calls are signed: it shows no certificate, and accepts the aggregator of its federation, or whoever
/// the CAs of `inspection_pem` vouch for under the aggregator's name. That one is not believed: the signatures are.
pub fn signed_config(
    federation: &FederationName,
    authority_pem: &str,
    inspection_pem: Option<&str>,
) -> Result<Arc<ClientConfig>, CertsError> {
    without_certificate(federation, Trust::Authority(webpki(roots(authority_pem)?)?), inspection_pem)
}

/// The same of a site that is about to enrol.
pub fn signed_enrolment_config(
    federation: &FederationName,
    authority: Digest,
    inspection_pem: Option<&str>,
) -> Result<Arc<ClientConfig>, CertsError> {
    without_certificate(federation, Trust::Pinned(authority), inspection_pem)
}

fn without_certificate(
    federation: &FederationName,
    trust: Trust,
    inspection_pem: Option<&str>,
) -> Result<Arc<ClientConfig>, CertsError> {
    let inspection = inspection_pem.map(|pem| webpki(roots(pem)?)).transpose()?;
    let mut config = client(federation, trust, inspection)?.with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

/// The side of a client of an `https://` proxy: it knows the proxy by the CAs of a PEM file, and shows no certificate. What runs
/// inside is another session, held to the federation's own CA.
pub(crate) fn proxy_config(roots_pem: &str) -> Result<Arc<ClientConfig>, CertsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| CertsError::malformed("a CA of a proxy")(error.to_string()))?)?;
    }
    if roots.is_empty() {
        return Err(CertsError::malformed("the CA of a proxy")("the file holds no certificate".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn client(
    federation: &FederationName,
    trust: Trust,
    inspection: Option<Arc<WebPkiServerVerifier>>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, CertsError> {
    let verifier = AggregatorVerifier { federation: federation.clone(), trust, inspection };
    // `dangerous` is rustls's word for any verifier of one's own; ours adds a check to WebPKI's.
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, CertsError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| CertsError::malformed("a certificate")(error.to_string()))
}

/// All certificates of a text, of which there is one at least.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let malformed = CertsError::malformed("a certificate");
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| malformed(error.to_string()))?;
    if all.is_empty() { Err(malformed("there is none".to_owned())) } else { Ok(all) }
}

fn roots(authority_pem: &str) -> Result<Arc<RootCertStore>, CertsError> {
    let mut roots = RootCertStore::empty();
    certificates(authority_pem)?.into_iter().try_for_each(|certificate| roots.add(certificate))?;
    Ok(Arc::new(roots))
}

fn webpki(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, CertsError> {
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| CertsError::malformed("the CA's certificate")(error.to_string()))
}

/// How a client knows the CA.
#[derive(Debug)]
enum Trust {
    /// By its certificate.
    Authority(Arc<WebPkiServerVerifier>),
    /// By its certificate's digest, from the invitation.
    Pinned(Digest),
}

/// WebPKI's verification (chain, validity, host name, serverAuth), then the role in the URI SAN.
#[derive(Debug)]
struct AggregatorVerifier {
    federation: FederationName,
    trust: Trust,
    /// Who may stand in between: for calls that are signed, and for them alone.
    inspection: Option<Arc<WebPkiServerVerifier>>,
}

impl AggregatorVerifier {
    fn is_the_aggregator(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = match &self.trust {
            Trust::Authority(verifier) => Arc::clone(verifier),
            Trust::Pinned(pin) => {
                let pinned = intermediates.iter().find(|certificate| Digest::of(certificate) == *pin);
                let pinned = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut roots = RootCertStore::empty();
                roots.add(pinned.clone().into_owned())?;
                webpki(Arc::new(roots)).map_err(|error| Error::General(error.to_string()))?
            }
        };
        verifier.verify_server_cert(leaf, &[], host, ocsp, now)?;
        let peer = Peer::of_certificate(leaf).map_err(|error| Error::General(error.to_string()))?;
        if peer.identity.role == Role::Aggregator && peer.identity.federation == self.federation {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("the certificate is not of this federation's aggregator".to_owned()))
        }
    }
}

impl ServerCertVerifier for AggregatorVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match (self.is_the_aggregator(leaf, intermediates, host, ocsp, now), &self.inspection) {
            // Whoever shows a certificate of the federation's is held to all that it says.
            (Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)), Some(inspection)) => {
                inspection.verify_server_cert(leaf, intermediates, host, ocsp, now)
            }
            (judged, _) => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is never spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &ring::default_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
