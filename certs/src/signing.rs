//! A signing key (Ed25519, RFC 8032), made where it is used: beside the TLS key, and longer-lived. What is signed is in
//! [`common::signed`].

use std::fmt;
use std::path::Path;

use common::signed::{Attestation, Ed25519, SignedHead, VerifyingKey, countersigned_statement, update_statement};
use common::{Digest, FederationName, UpdateManifest};
use rcgen::{KeyPair, PKCS_ED25519};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::{CertsError, files};

/// A private signing key, never printed.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a key in a new file of mode 0600; refuses to replace one.
    pub fn create(path: &Path) -> Result<Self, CertsError> {
        let pair = KeyPair::generate_for(&PKCS_ED25519)?;
        files::write_new(path, pair.serialize_pem().as_bytes(), 0o600)?;
        Self::of(&pair)
    }

    /// Loads a key, unless others may read its file.
    pub fn load(path: &Path) -> Result<Self, CertsError> {
        let pem = files::read_secret(path)?;
        let malformed = CertsError::malformed("the signing key");
        Self::of(&KeyPair::from_pem(&pem).map_err(|error| malformed(error.to_string()))?)
    }

    /// Loads the key, or makes one if there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, CertsError> {
        if path.exists() {
            return Self::load(path);
        }
        // Of two that make one at the same time the second takes the first one's.
        Self::create(path).or_else(|error| if path.exists() { Self::load(path) } else { Err(error) })
    }

    fn of(pair: &KeyPair) -> Result<Self, CertsError> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pair.serialize_der());
        Ok(Self(key.map_err(|error| CertsError::malformed("the signing key")(error.to_string()))?))
    }

    /// The key that a secret makes, by its SHA-256. The same secret has the same key.
    pub(crate) fn of_secret(secret: &[u8]) -> Result<Self, CertsError> {
        let key = Ed25519KeyPair::from_seed_unchecked(&Digest::of(secret).0);
        Ok(Self(key.map_err(|error| CertsError::malformed("the signing key")(error.to_string()))?))
    }

    /// The public half.
    pub fn verifying(&self) -> VerifyingKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        VerifyingKey(bytes)
    }

    /// Puts a site's hand under an update, and under the aggregator's ledger as the site was told it.
    pub fn attest(
        &self,
        federation: &FederationName,
        manifest: &UpdateManifest,
        told: Option<&SignedHead>,
    ) -> Attestation {
        let head = told.map(|told| told.head);
        let countersigned = |head| SignedHead {
            head,
            signature: self.sign(&countersigned_statement(federation, &manifest.site, head)),
        };
        Attestation {
            ledger: head.map(countersigned),
            signature: self.sign(&update_statement(federation, manifest, head)),
        }
    }

    /// The signature over a statement. The same statement has the same signature.
    pub fn sign(&self, statement: &[u8]) -> Ed25519 {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.sign(statement).as_ref());
        Ed25519(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(not shown)")
    }
}

/// Whether a signature is this key's over a statement.
pub fn verifies(key: VerifyingKey, statement: &[u8], signature: Ed25519) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(statement, &signature.0).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn of_many_that_make_a_key_at_the_same_time_all_have_the_one_that_is_in_the_file() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("keys/signing.key");
            let (path, start) = (&path, &std::sync::Barrier::new(8));
            let keys: Vec<VerifyingKey> = std::thread::scope(|scope| {
                let make = || {
                    start.wait();
                    SigningKey::load_or_create(path).unwrap().verifying()
                };
                let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                makers.into_iter().map(|maker| maker.join().unwrap()).collect()
            });
            let kept = SigningKey::load(path).unwrap().verifying();
            assert!(keys.iter().all(|key| *key == kept));
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing lies beside it");
        }
    }

    #[test]
    fn a_signature_is_of_one_key_and_one_statement_and_is_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let key = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = SigningKey::load_or_create(&path).unwrap();
        let signature = key.sign(b"statement");
        assert_eq!((again.verifying(), again.sign(b"statement")), (key.verifying(), signature));
        assert!(verifies(key.verifying(), b"statement", signature));
        assert!(!verifies(key.verifying(), b"statement.", signature));
        let other = SigningKey::create(&folder.path().join("other.key")).unwrap();
        assert!(!verifies(other.verifying(), b"statement", signature));
        for place in 0..64 {
            let mut changed = signature;
            changed.0[place] ^= 1;
            assert!(!verifies(key.verifying(), b"statement", changed), "byte {place}");
        }
        assert_eq!(format!("{key:?}"), "SigningKey(not shown)");
    }
}
