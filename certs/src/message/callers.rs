//! Who makes a signed call: the certificate that it brings is held to all that a handshake holds one to, and the call's signature to
//! that certificate.

use std::sync::Arc;
use std::time::Duration;

use common::FederationName;
use common::message::Part;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::headers::Head;
use super::{Hand, MessageError, Talk};
use crate::CertsError;
use crate::identity::Peer;
use crate::verifiers::CallerVerifier;

/// An uncompressed point of P-256.
const POINT_BYTES: usize = 65;

/// The callers of one federation.
#[derive(Clone, Debug)]
pub struct Callers {
    verifier: Arc<CallerVerifier>,
}

impl Callers {
    /// Those whom these CAs gave certificates.
    pub fn new(federation: &FederationName, authority_pem: &str) -> Result<Self, CertsError> {
        Ok(Self { verifier: Arc::new(CallerVerifier::new(federation, authority_pem)?) })
    }

    /// The federation.
    pub fn federation(&self) -> &FederationName {
        self.verifier.federation()
    }

    /// Who makes this call at `now_s`, and by which hand its messages are signed.
    pub fn verified(&self, head: &Head, now_s: u64) -> Result<(Peer, Hand), MessageError> {
        let refuse = MessageError::Certificate;
        let leaf = CertificateDer::from(head.certificate.as_slice());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
        let peer = self.verifier.caller(&leaf, now).map_err(|error| refuse(error.to_string()))?;
        let hand = Hand::Site(point(&leaf).map_err(refuse)?);
        let talk = Talk { federation: self.federation().clone(), call: head.call.clone() };
        if hand.signed(&talk.statement(Part::Call, b""), &head.signature) {
            Ok((peer, hand))
        } else {
            Err(MessageError::Signature("the call's head"))
        }
    }
}

/// The public key of a certificate.
pub(crate) fn point(der: &[u8]) -> Result<Vec<u8>, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let key = &certificate.public_key().subject_public_key.data;
    // Which curve it is on is held when a signature is verified.
    if key.len() == POINT_BYTES { Ok(key.to_vec()) } else { Err("its key is not one of ECDSA P-256".to_owned()) }
}
