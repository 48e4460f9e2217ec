//! A private key (ECDSA P-256), made where it is used. It leaves neither this type nor its file.

use std::fmt;
use std::path::Path;

use common::signed::Nonce;
use rcgen::{CertificateParams, KeyPair};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{CertsError, files};

/// A private key, never printed.
pub struct Key(KeyPair);

impl Key {
    /// Makes a key in a new file of mode 0600; refuses to replace one.
    pub fn create(path: &Path) -> Result<Self, CertsError> {
        let key = KeyPair::generate()?;
        files::write_new(path, key.serialize_pem().as_bytes(), 0o600)?;
        Ok(Self(key))
    }

    /// Loads a key, unless others may read its file.
    pub fn load(path: &Path) -> Result<Self, CertsError> {
        let pem = files::read_secret(path)?;
        let key = KeyPair::from_pem(&pem).map_err(|error| CertsError::malformed("the key")(error.to_string()))?;
        Ok(Self(key))
    }

    /// A certificate signing request (PKCS #10) for this key. Its names say nothing: the CA sets them.
    pub fn csr_pem(&self) -> Result<String, CertsError> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.pem()?)
    }

    /// The key, ready to sign statements with; see [`CallKey`].
    pub fn for_calls(&self) -> Result<CallKey, CertsError> {
        CallKey::of(&self.0.serialize_der())
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(crate) fn for_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(not shown)")
    }
}

/// The key of a certificate, as it signs statements (ECDSA P-256, SHA-256): the calls of a site, and what the CA says beside
/// certificates. TLS and certificates sign other bytes: theirs begin with 64 spaces, or with DER.
pub struct CallKey(EcdsaKeyPair, SystemRandom);

impl CallKey {
    fn of(pkcs8: &[u8]) -> Result<Self, CertsError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random);
        let pair = pair.map_err(|error| CertsError::malformed("the key")(error.to_string()))?;
        Ok(Self(pair, random))
    }

    /// The signature over a statement. Each is another, because each is made with a number that is drawn for it.
    pub fn sign(&self, statement: &[u8]) -> Result<[u8; 64], CertsError> {
        let none =
            || CertsError::malformed("the key")("it signs nothing: the system gives no random numbers".to_owned());
        let signature = self.0.sign(&self.1, statement).map_err(|_| none())?;
        signature.as_ref().try_into().map_err(|_| none())
    }

    /// A number that is used once.
    pub fn nonce(&self) -> Result<Nonce, CertsError> {
        drawn(&self.1)
    }
}

impl fmt::Debug for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallKey(not shown)")
    }
}

/// A number from the system's random source.
pub fn nonce() -> Result<Nonce, CertsError> {
    drawn(&SystemRandom::new())
}

fn drawn(random: &SystemRandom) -> Result<Nonce, CertsError> {
    let mut bytes = [0; 16];
    let none = |_| CertsError::malformed("a nonce")("the system gives no random numbers".to_owned());
    random.fill(&mut bytes).map_err(none)?;
    Ok(Nonce(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_for_its_owner_alone_and_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.key");
        let key = Key::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Key::create(&path), Err(CertsError::Disk { .. })));
        let loaded = Key::load(&path).unwrap();
        assert_eq!(loaded.0.serialize_der(), key.0.serialize_der());
        assert_eq!(format!("{key:?}"), "Key(not shown)");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.key");
        Key::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let told = Key::load(&path).unwrap_err().to_string();
        assert!(told.contains("mode 644") && told.contains("chmod 600"), "{told}");
    }

    #[test]
    fn the_private_key_is_not_in_the_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.key");
        let key = Key::create(&path).unwrap();
        let secret: String = fs::read_to_string(&path).unwrap().lines().skip(1).take(1).collect();
        assert!(!key.csr_pem().unwrap().contains(&secret));
    }
}
