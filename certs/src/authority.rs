//! The federation's own certificate authority. It signs public keys; what a request wishes for is ignored.
//!
//! A site's leaf and a person's may call and never serve, the aggregator's may serve and never call, and none may sign. A
//! coordinator's signing key has a certificate of its own, which is good for signatures under documents (RFC 9336) and opens no
//! connection. The CA sets names, serial, validity and purposes itself.

use std::path::Path;
use std::time::Duration;

use common::signed::VerifyingKey;
use common::{Digest, FederationName, Holder, Person, PersonId, SiteId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::identity::{PeerIdentity, Role, hexadecimal};
use crate::keys::Key;
use crate::message::{Hand, SIGNATURE_BYTES};
use crate::signer::{DOCUMENT_SIGNING, SIGNING_S};
use crate::verifiers::certificates;
use crate::{CertsError, files};

const DAY: i64 = 24 * 60 * 60;
/// Life of the CA's certificate.
pub const AUTHORITY_DAYS: i64 = 3650;
/// Life of a leaf, unless another is chosen.
pub const LEAF_DAYS: i64 = 30;
/// The same, in seconds.
pub const LEAF_S: i64 = LEAF_DAYS * DAY;
/// Clocks may differ by this much: a leaf is valid from a little before it was made.
pub(crate) const CLOCK_SKEW_S: i64 = 300;

/// The certificate authority of one federation; and, while one takes the place of another, the next one with it. Then both are
/// anchors, sites get their leaves of the next one, and the aggregator keeps one of the old: every site verifies it, whether it
/// knows the next one yet or not.
#[derive(Debug)]
pub struct Authority {
    federation: FederationName,
    key: Key,
    certificate_pem: String,
    leaf_s: i64,
    next: Option<Box<Authority>>,
}

/// A certificate that the authority made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf.
    pub certificate_pem: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// When it expires, in seconds since 1970.
    pub expires_at_s: i64,
}

impl Authority {
    /// A new authority in `folder`: `ca.key` (0600) and `ca.crt`. Refuses to replace one. `now_s` is in seconds since 1970.
    pub fn create(folder: &Path, federation: &FederationName, now_s: i64) -> Result<Self, CertsError> {
        let key = Key::create(&folder.join("ca.key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("{federation} certificate authority"));
        params.subject_alt_names = vec![SanType::URI(text(&format!("spiffe://{federation}"))?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now_s - CLOCK_SKEW_S);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now_s + AUTHORITY_DAYS * DAY);
        let certificate_pem = params.self_signed(key.pair())?.pem();
        files::write_new(&folder.join("ca.crt"), certificate_pem.as_bytes(), 0o644)?;
        Ok(Self { federation: federation.clone(), key, certificate_pem, leaf_s: LEAF_S, next: None })
    }

    /// The authority that was created in `folder`: key and certificate must belong together.
    pub fn load(folder: &Path, federation: &FederationName) -> Result<Self, CertsError> {
        let key = Key::load(&folder.join("ca.key"))?;
        let certificate_pem = files::read(&folder.join("ca.crt"))?;
        // Two that are read while another CA takes this one's place may be of either: what they signed nobody would believe.
        if Hand::of_certificate(&certificate_pem)? != Hand::Site(key.pair().public_key_raw().to_vec()) {
            return Err(CertsError::malformed("the CA's certificate")("it is not for the key beside it".to_owned()));
        }
        Ok(Self { federation: federation.clone(), key, certificate_pem, leaf_s: LEAF_S, next: None })
    }

    /// The same with the one that takes its place.
    pub fn followed_by(self, next: Option<Self>) -> Self {
        Self { next: next.map(Box::new), ..self }
    }

    /// The certificates that the federation trusts: its own, and the next one's if there is one.
    pub fn anchors_pem(&self) -> String {
        let next = self.next.iter().map(|next| next.certificate_pem.as_str());
        [self.certificate_pem.as_str()].into_iter().chain(next).collect()
    }

    /// What makes two sets of anchors the same.
    pub fn anchors(&self) -> Digest {
        Digest::of(self.anchors_pem().as_bytes())
    }

    /// The same, whose leaves live so many seconds.
    pub fn with_leaves_of(self, leaf_s: i64) -> Self {
        let next = self.next.map(|next| Box::new(next.with_leaves_of(leaf_s)));
        Self { leaf_s, next, ..self }
    }

    /// Life of its leaves, in seconds.
    pub fn leaf_s(&self) -> i64 {
        self.leaf_s
    }

    /// The CA's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the CA's certificate: what an invitation pins and two people compare.
    pub fn fingerprint(&self) -> Result<Digest, CertsError> {
        fingerprint(&self.certificate_pem)
    }

    /// The federation.
    pub fn federation(&self) -> &FederationName {
        &self.federation
    }

    /// The CA's signature over a statement that is no certificate.
    pub fn vouch(&self, statement: &[u8]) -> Result<[u8; SIGNATURE_BYTES], CertsError> {
        self.key.for_calls()?.sign(statement)
    }

    /// A site's leaf, for the public key of its request.
    pub fn issue_site(&self, csr_pem: &str, site: &SiteId, now_s: i64) -> Result<Issued, CertsError> {
        self.issue_holder(csr_pem, &Holder::Site(site.clone()), now_s)
    }

    /// The leaf of a site or a person, for the public key of its request.
    pub fn issue_holder(&self, csr_pem: &str, holder: &Holder, now_s: i64) -> Result<Issued, CertsError> {
        if let Some(next) = &self.next {
            return next.issue_holder(csr_pem, holder, now_s);
        }
        let identity = PeerIdentity { federation: self.federation.clone(), role: holder.clone().into() };
        self.issue(csr_pem, &identity, &[], ExtendedKeyUsagePurpose::ClientAuth, now_s)
    }

    /// The certificate of a coordinator's signing key. Whoever asks has shown that it holds that key.
    pub fn issue_signer(&self, coordinator: &PersonId, key: VerifyingKey, now_s: i64) -> Result<Issued, CertsError> {
        if let Some(next) = &self.next {
            return next.issue_signer(coordinator, key, now_s);
        }
        let role = Role::Person(Person::coordinator(coordinator.clone()));
        let identity = PeerIdentity { federation: self.federation.clone(), role };
        let public = SubjectPublicKeyInfo::from_der(&[&ED25519_KEY[..], &key.0].concat())?;
        let purpose = ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec());
        self.certify(&public, &identity, &[], purpose, (now_s, SIGNING_S))
    }

    /// The aggregator's leaf, for the host names and addresses it is reached at.
    pub fn issue_aggregator(&self, csr_pem: &str, hosts: &[String], now_s: i64) -> Result<Issued, CertsError> {
        let identity = PeerIdentity { federation: self.federation.clone(), role: Role::Aggregator };
        self.issue(csr_pem, &identity, hosts, ExtendedKeyUsagePurpose::ServerAuth, now_s)
    }

    fn issue(
        &self,
        csr_pem: &str,
        identity: &PeerIdentity,
        hosts: &[String],
        purpose: ExtendedKeyUsagePurpose,
        now_s: i64,
    ) -> Result<Issued, CertsError> {
        self.certify(&request(csr_pem)?.public_key, identity, hosts, purpose, (now_s, self.leaf_s))
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        identity: &PeerIdentity,
        hosts: &[String],
        purpose: ExtendedKeyUsagePurpose,
        (now_s, life_s): (i64, i64),
    ) -> Result<Issued, CertsError> {
        // The serial is drawn from a fresh key's public point: 16 bytes from the system's random source.
        let drawn = Digest::of(KeyPair::generate()?.public_key_raw());
        let serial = SerialNumber::from_slice(&[&[0x40 | (drawn.0[0] & 0x3f)], &drawn.0[1..16]].concat());
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&identity.uri());
        params.subject_alt_names = vec![SanType::URI(text(&identity.uri())?)];
        for host in hosts {
            params.subject_alt_names.push(match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(text(host)?),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now_s - CLOCK_SKEW_S);
        let expires_at_s = now_s + life_s;
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(expires_at_s);
        params.serial_number = Some(serial.clone());
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate_pem, self.key.pair())?;
        let certificate = params.signed_by(key, &issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), serial: hexadecimal(&serial.to_bytes()), expires_at_s })
    }
}

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const ED25519_KEY: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A signing request. Parsing checks the request's own signature: the sender holds the key.
fn request(csr_pem: &str) -> Result<CertificateSigningRequestParams, CertsError> {
    CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|error| CertsError::malformed("the certificate signing request")(error.to_string()))
}

/// SHA-256 of the public key of a signing request: what makes two requests the same. Their texts differ, because each is signed
/// with a number drawn for it.
pub fn requested_key(csr_pem: &str) -> Result<Digest, CertsError> {
    Ok(Digest::of(request(csr_pem)?.public_key.der_bytes()))
}

/// SHA-256 of a certificate's DER.
pub fn fingerprint(certificate_pem: &str) -> Result<Digest, CertsError> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|error| CertsError::malformed("the CA's certificate")(error.to_string()))?;
    Ok(Digest::of(&der))
}

/// The same of each of several CAs.
pub fn fingerprints(authority_pem: &str) -> Result<Vec<Digest>, CertsError> {
    Ok(certificates(authority_pem)?.iter().map(|der| Digest::of(der)).collect())
}

/// Whether the first of these CAs signed a statement.
pub fn vouched(authority_pem: &str, statement: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    Hand::of_certificate(authority_pem).is_ok_and(|hand| hand.signed(statement, signature))
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn text<T: for<'a> TryFrom<&'a str>>(value: &str) -> Result<T, CertsError> {
    T::try_from(value)
        .map_err(|_| CertsError::malformed("a certificate's name")(format!("{value:?} is not plain ASCII")))
}

fn since_1970(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_certificate_beside_the_key_of_another_authority_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let federation = "cmr".parse().unwrap();
        for place in [&one, &other] {
            Authority::create(place, &federation, 0).unwrap();
            Authority::load(place, &federation).unwrap();
        }
        fs::rename(other.join("ca.key"), one.join("ca.key")).unwrap();
        let refused = Authority::load(&one, &federation).unwrap_err().to_string();
        assert!(refused.contains("it is not for the key beside it"), "{refused}");
    }
}
