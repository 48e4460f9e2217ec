//! The TLS configurations: 1.3 only, ring, both ways verified. There is no way to turn verification off.

use std::sync::Arc;

use common::{Digest, FederationName};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use crate::CertsError;
use crate::identity::Peer;
use crate::keys::Key;
use crate::verifiers::{AggregatorVerifier, CallerVerifier, Trust, certificates, roots, webpki};

/// Application protocol: HTTP/2.
const H2: &[u8] = b"h2";

/// The aggregator's side; `authority_pem` may hold several CAs, while one takes the place of another. A client certificate is held
/// to the federation that the aggregator's own is of; without one, the peer is nobody, and may only enrol: that is for the calls
/// to hold.
pub fn server_config(certificate_pem: &str, authority_pem: &str, key: &Key) -> Result<Arc<ServerConfig>, CertsError> {
    let provider = provider();
    let own = certificate(certificate_pem)?;
    let verifier = Arc::new(CallerVerifier::new(&Peer::of_certificate(&own)?.identity.federation, authority_pem)?);
    // The CA's certificate is sent along, so that a site that enrols can hold it to its invitation.
    let chain = [vec![own], certificates(authority_pem)?].concat();
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

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, CertsError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| CertsError::malformed("a certificate")(error.to_string()))
}
