//! A call whose messages are signed, for a site whose connection to the aggregator is opened on the way: by a proxy of the
//! hospital's that shows a certificate of its own, and lets no client certificate through.
//!
//! What is signed is in [`common::message`]; here is how it travels. A call brings its site's certificate and a signature over its
//! head, as headers. Each message of gRPC, in both directions, is followed by a byte that says whether it is the last of a request and by
//! its signature, inside the length that gRPC writes before it; so whatever understands gRPC passes it on. The answer's status is signed
//! beside it, in the trailers.
//!
//! ```text
//! cmrfed-certificate: base64 of the certificate, DER     │ 0 │ length u32 │ message … │ last u8 │ signature 64 │ …
//! cmrfed-call: nonce incarnation seconds                 │   └──────────── gRPC's ─┘   └──── ours ─────────┘
//! cmrfed-signature: of the call's head                     trailers: grpc-status …, cmrfed-signature: of the end
//! ```
//!
//! A site signs with the key of its certificate (ECDSA P-256, SHA-256), the aggregator with the key that the site pinned when it
//! enrolled (Ed25519).

pub mod caller;
pub mod callers;
pub mod framing;
pub mod headers;
pub mod opened;
pub mod replays;
pub mod sealed;

use common::message::{Call, Part, message_statement};
use common::signed::{Ed25519, VerifyingKey};
use common::{Digest, FederationName};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{CertsError, signing};

/// Bytes of a signature, of either kind.
pub const SIGNATURE_BYTES: usize = 64;
/// What a signed message is longer than the message.
pub const SEALED_BYTES: usize = 1 + SIGNATURE_BYTES;

/// Why a message, a status or a call's head does not count.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A header that is not there, or is not what it should be.
    #[error("the header {name} {why}")]
    Header {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The certificate that a call brings.
    #[error("its certificate does not count: {0}")]
    Certificate(String),
    /// A signature that is not of this message, call and key.
    #[error("the signature of {0} does not hold")]
    Signature(&'static str),
    /// Bytes that are no messages of gRPC as they are signed here.
    #[error("{0}")]
    Framing(&'static str),
    /// The messages stop before their end.
    #[error("it stops before its signed end")]
    Truncated,
    /// An answer of somebody else than the aggregator.
    #[error("it is an answer of HTTP status {0} and not of the aggregator")]
    Status(u16),
    /// What carries the messages failed.
    #[error("{0}")]
    Below(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A call that is under way, in its federation: what each of its parts is signed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talk {
    /// The federation.
    pub federation: FederationName,
    /// The call.
    pub call: Call,
}

impl Talk {
    /// The statement of a part with this content.
    pub fn statement(&self, part: Part, content: &[u8]) -> Vec<u8> {
        message_statement(&self.federation, &self.call, part, Digest::of(content))
    }
}

/// Whose signatures are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hand {
    /// A site's (or the CA's), by the key of its certificate: a point of P-256.
    Site(Vec<u8>),
    /// The aggregator's.
    Aggregator(VerifyingKey),
}

impl Hand {
    /// That of a certificate's holder.
    pub fn of_certificate(pem: &str) -> Result<Self, CertsError> {
        let refuse = CertsError::malformed("a certificate");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| refuse(error.to_string()))?;
        callers::point(&der).map(Self::Site).map_err(refuse)
    }

    /// Whether a signature is this hand's over a statement.
    pub fn signed(&self, statement: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        match self {
            Self::Site(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(statement, signature).is_ok()
            }
            Self::Aggregator(key) => signing::verifies(*key, statement, Ed25519(*signature)),
        }
    }
}
