//! Whom each side believes. A client holds the server's certificate to its CA and to the aggregator's role; the aggregator holds
//! a client's to its CA and to a role that may call. What is wrong is known in the handshake, and its alert says so.

use std::sync::Arc;

use common::{Digest, FederationName};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::CertsError;
use crate::identity::Peer;
use crate::tls::provider;

/// How a client knows the CA.
#[derive(Debug)]
pub(crate) enum Trust {
    /// By its certificate.
    Authority(Arc<WebPkiServerVerifier>),
    /// By its certificate's digest, from the invitation.
    Pinned(Digest),
}

/// WebPKI's verification (chain, validity, host name, serverAuth), then the role in the URI SAN.
#[derive(Debug)]
pub(crate) struct AggregatorVerifier {
    /// The aggregator's federation.
    pub(crate) federation: FederationName,
    /// Its CA.
    pub(crate) trust: Trust,
    /// Who may stand in between: for calls that are signed, and for them alone.
    pub(crate) inspection: Option<Arc<WebPkiServerVerifier>>,
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
        match Peer::of_aggregator(leaf, &self.federation) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                Err(Error::General(format!("the certificate is not of this federation's aggregator: {error}")))
            }
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
        Err(never_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_in_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// WebPKI's verification (chain, validity, clientAuth), then a role that may call in the URI SAN. A peer without a certificate is
/// let in as nobody.
#[derive(Debug)]
pub(crate) struct CallerVerifier {
    federation: FederationName,
    webpki: Arc<dyn ClientCertVerifier>,
}

impl CallerVerifier {
    /// That of the callers whom these CAs gave certificates.
    pub(crate) fn new(federation: &FederationName, authority_pem: &str) -> Result<Self, CertsError> {
        let webpki = WebPkiClientVerifier::builder_with_provider(roots(authority_pem)?, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| CertsError::malformed("the CA's certificate")(error.to_string()))?;
        Ok(Self { federation: federation.clone(), webpki })
    }

    /// The federation of the callers.
    pub(crate) fn federation(&self) -> &FederationName {
        &self.federation
    }

    /// Whose certificate this is, which came alone: WebPKI would accept a CA in between, if the federation's had ever made one. It
    /// makes none.
    pub(crate) fn caller(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<Peer, Error> {
        self.webpki.verify_client_cert(leaf, &[], now)?;
        Peer::of_caller(leaf, &self.federation)
            .map_err(|error| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !intermediates.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        self.caller(leaf, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_in_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn never_spoken() -> Error {
    Error::General("TLS 1.2 is never spoken here".to_owned())
}

fn signed_in_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, certificate, signed, &ring::default_provider().signature_verification_algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    ring::default_provider().signature_verification_algorithms.supported_schemes()
}

/// All certificates of a text, of which there is one at least.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let malformed = CertsError::malformed("a certificate");
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| malformed(error.to_string()))?;
    if all.is_empty() { Err(malformed("there is none".to_owned())) } else { Ok(all) }
}

/// The CAs of a text, to be trusted.
pub(crate) fn roots(authority_pem: &str) -> Result<Arc<RootCertStore>, CertsError> {
    let mut roots = RootCertStore::empty();
    certificates(authority_pem)?.into_iter().try_for_each(|certificate| roots.add(certificate))?;
    Ok(Arc::new(roots))
}

/// WebPKI's verification of servers, by these CAs.
pub(crate) fn webpki(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, CertsError> {
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| CertsError::malformed("the CA's certificate")(error.to_string()))
}
