//! The federation's certificate authority, enrolment by CSR, and the TLS configurations.
//!
//! TLS 1.3 only, both ways verified, one crypto provider. Keys are made where they are used and never leave; an identity
//! is the URI SAN of a certificate and nothing else. This crate knows no model, no image and no round.

pub mod acceptor;
pub mod authority;
pub mod connect;
pub mod credentials;
pub mod enrolment;
mod files;
pub mod identity;
pub mod invitation;
pub mod keys;
pub mod lock;
pub mod message;
pub mod probe;
pub mod proxy;
pub mod quota;
pub mod signer;
pub mod signing;
pub mod tls;
pub mod tunnel;
mod verifiers;

use common::Digest;

/// Why a certificate, key or configuration cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// The disk said no.
    #[error("cannot {what} {path}: {source}; see to the folder: it must be there, belong to this user and have room")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A key that others can read.
    #[error("{path} has mode {mode:o}, so others may read this key: `chmod 600 {path}`, and renew it if they did")]
    KeyIsOpen {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// A key that others know and that is not there.
    #[error(
        "{path} is not there: restore it from a backup; none takes its place, because others know what is signed by this one alone"
    )]
    KeyIsLost {
        /// The file.
        path: String,
    },
    /// Not a key, certificate or request.
    #[error(
        "{what} cannot be read: {why}; use what this federation made: restore the file from a backup, or enrol again with a \
         new invitation"
    )]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Signing(#[from] rcgen::Error),
    /// A TLS configuration could not be made.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl CertsError {
    pub(crate) fn malformed(what: &'static str) -> impl Fn(String) -> Self {
        move |why| Self::Malformed { what, why }
    }
}

/// The first half of a fingerprint in eight words that can be read aloud and written down, for two people to compare on the
/// phone: proquints (D. S. Wilkerson, arXiv:0901.4016), 16 bits to a word. To make another certificate with the same 128 bits is
/// out of anybody's reach.
pub fn fingerprint_words(fingerprint: Digest) -> String {
    const CONSONANTS: [u8; 16] = *b"bdfghjklmnprstvz";
    const VOWELS: [u8; 4] = *b"aiou";
    let word = |pair: &[u8]| {
        let bits = usize::from(pair[0]) << 8 | usize::from(pair[1]);
        let letters = [
            CONSONANTS[bits >> 12],
            VOWELS[bits >> 10 & 3],
            CONSONANTS[bits >> 6 & 15],
            VOWELS[bits >> 4 & 3],
            CONSONANTS[bits & 15],
        ];
        letters.map(char::from).iter().collect::<String>()
    };
    fingerprint.0[..16].chunks(2).map(word).collect::<Vec<_>>().join(" ")
}

/// A fingerprint in groups of four digits, for two people to compare on the phone.
pub fn fingerprint_text(fingerprint: Digest) -> String {
    let digits = fingerprint.to_string();
    let groups: Vec<_> = (0..digits.len()).step_by(4).map(|start| &digits[start..start + 4]).collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_told_in_words_as_their_paper_has_them() {
        let mut fingerprint = Digest([0; 32]);
        // The paper's examples: 127.0.0.1, 63.84.220.193, 216.35.68.215, 198.81.129.136.
        fingerprint.0[..16].copy_from_slice(&[127, 0, 0, 1, 63, 84, 220, 193, 216, 35, 68, 215, 198, 81, 129, 136]);
        assert_eq!(fingerprint_words(fingerprint), "lusab babad gutih tugad tobog higil sinid makam");
    }
}
