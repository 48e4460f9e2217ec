//! Whose hand is under a plan: the certificate of a coordinator's signing key, held to the federation's CA and to nothing else.
//!
//! It is another certificate than the one that opens connections: its key is the signing key, and its one purpose is signatures
//! under documents (RFC 9336). It lives longer, because a site may come late to a run: a year, and is made anew with every renewal.

use std::time::Duration;

use common::signed::{PlanSignature, Signer, VerifyingKey, plan_statement};
use common::{Digest, FederationName, Office};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::CertsError;
use crate::identity::{Peer, Role};
use crate::signing::verifies;

/// id-kp-documentSigning (RFC 9336).
pub(crate) const DOCUMENT_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];
/// The same as DER has it, without tag and length.
const DOCUMENT_SIGNING_DER: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 36];
/// Life of the certificate of a signing key, in seconds: a year.
pub const SIGNING_S: i64 = 366 * 24 * 60 * 60;

/// Why a signature under a plan counts for nothing.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The certificate cannot be read.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// The certificate is not one of this federation's CA for a signing key, or not now.
    #[error(
        "the certificate of a signing key does not hold ({0}): the coordinator signs again after `aggregator status --as`"
    )]
    NotCertified(String),
    /// The certificate is of somebody else.
    #[error("the certificate is of {0}, who is no coordinator of this federation")]
    NotACoordinator(String),
    /// The signature is of another key or another plan.
    #[error("the signature that is said to be of coordinator {0} is not under this plan")]
    NotTheirs(String),
}

/// The coordinator and the signing key that a certificate binds, if the CAs of `authority_pem` made it for that and it counts at
/// `now_s`.
pub fn certified(
    certificate_pem: &str,
    authority_pem: &str,
    federation: &FederationName,
    now_s: i64,
) -> Result<Signer, SignerError> {
    let malformed = CertsError::malformed("the certificate of a signing key");
    let der =
        CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| malformed(error.to_string()))?;
    let anchors: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(authority_pem.as_bytes()).collect();
    let anchors = anchors.map_err(|error| CertsError::malformed("the CA's certificate")(error.to_string()))?;
    let not_certified = |error: webpki::Error| SignerError::NotCertified(error.to_string());
    let anchors: Vec<_> =
        anchors.iter().map(anchor_from_trusted_cert).collect::<Result<_, _>>().map_err(not_certified)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s).unwrap_or(0)));
    let algorithms = default_provider().signature_verification_algorithms.all;
    let usage = KeyUsage::required(&DOCUMENT_SIGNING_DER);
    let leaf = EndEntityCert::try_from(&der).map_err(not_certified)?;
    leaf.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None).map_err(not_certified)?;
    let identity = Peer::of_certificate(&der)?.identity;
    let coordinator = match &identity.role {
        Role::Person(person) if person.office == Office::Coordinator && identity.federation == *federation => {
            person.name.clone()
        }
        _ => return Err(SignerError::NotACoordinator(identity.uri())),
    };
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| malformed(error.to_string()))?;
    let public = parsed.public_key();
    let key = <[u8; 32]>::try_from(public.subject_public_key.data.as_ref());
    match key {
        Ok(key) if public.algorithm.algorithm == OID_SIG_ED25519 => Ok(Signer { coordinator, key: VerifyingKey(key) }),
        _ => Err(malformed("its key is not one of Ed25519".to_owned()).into()),
    }
}

/// Who signed a plan, if the signature and its certificate hold at `now_s`.
pub fn signer_of(
    signed: &PlanSignature,
    plan: Digest,
    authority_pem: &str,
    federation: &FederationName,
    now_s: i64,
) -> Result<Signer, SignerError> {
    let signer = certified(&signed.certificate_pem, authority_pem, federation, now_s)?;
    let statement = plan_statement(federation, &signer.coordinator, plan);
    match verifies(signer.key, &statement, signed.signature) {
        true => Ok(signer),
        false => Err(SignerError::NotTheirs(signer.coordinator.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use common::Holder;
    use common::signed::Ed25519;

    use super::*;
    use crate::authority::Authority;
    use crate::keys::Key;
    use crate::signing::SigningKey;
    use crate::tls;

    const NOW: i64 = 1_800_000_000;

    struct Desk {
        folder: tempfile::TempDir,
        federation: FederationName,
        authority: Authority,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let federation: FederationName = "cmr".parse().unwrap();
            let authority = Authority::create(&folder.path().join("ca"), &federation, NOW).unwrap();
            Self { folder, federation, authority }
        }

        fn key(&self, name: &str) -> SigningKey {
            SigningKey::load_or_create(&self.folder.path().join(name)).unwrap()
        }

        fn signed(&self, name: &str, plan: Digest) -> PlanSignature {
            let (key, coordinator) = (self.key(name), name.parse().unwrap());
            let issued = self.authority.issue_signer(&coordinator, key.verifying(), NOW).unwrap();
            let signature = key.sign(&plan_statement(&self.federation, &coordinator, plan));
            PlanSignature { certificate_pem: issued.certificate_pem, signature }
        }

        fn judge(&self, signed: &PlanSignature, plan: Digest, now_s: i64) -> Result<Signer, String> {
            let authority = self.authority.certificate_pem();
            signer_of(signed, plan, authority, &self.federation, now_s).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_plan_is_signed_by_the_coordinator_that_the_ca_certified_for_that_key() {
        let (desk, plan) = (Desk::new(), Digest::of(b"plan"));
        let signed = desk.signed("alice", plan);
        let signer = desk.judge(&signed, plan, NOW).unwrap();
        assert_eq!((signer.coordinator.as_str(), signer.key), ("alice", desk.key("alice").verifying()));
        assert!(desk.judge(&signed, plan, NOW + SIGNING_S - 1).is_ok());
    }

    #[test]
    fn a_signature_of_another_plan_key_name_federation_ca_or_time_counts_for_nothing() {
        let (desk, plan) = (Desk::new(), Digest::of(b"plan"));
        let (alice, bob) = (desk.signed("alice", plan), desk.signed("bob", plan));
        assert!(desk.judge(&alice, Digest::of(b"plan "), NOW).unwrap_err().contains("not under this plan"));
        let swapped = PlanSignature { signature: bob.signature, ..alice.clone() };
        assert!(desk.judge(&swapped, plan, NOW).unwrap_err().contains("coordinator alice"));
        let mut changed = alice.clone();
        changed.signature = Ed25519([0; 64]);
        assert!(desk.judge(&changed, plan, NOW).is_err());
        assert!(desk.judge(&alice, plan, NOW + SIGNING_S + 1).unwrap_err().contains("does not hold"));
        assert!(desk.judge(&alice, plan, NOW - 1_000_000).is_err(), "not yet");
        let other = Desk::new();
        assert!(desk.judge(&other.signed("alice", plan), plan, NOW).is_err(), "of another CA");
        let elsewhere = signer_of(&alice, plan, desk.authority.certificate_pem(), &"else".parse().unwrap(), NOW);
        assert!(matches!(elsewhere, Err(SignerError::NotACoordinator(_))), "{elsewhere:?}");
        for odd in ["", "nonsense", desk.authority.certificate_pem()] {
            let odd = PlanSignature { certificate_pem: odd.to_owned(), ..alice.clone() };
            assert!(desk.judge(&odd, plan, NOW).is_err());
        }
    }

    #[test]
    fn no_certificate_that_opens_connections_signs_plans_and_none_that_signs_them_opens_connections() {
        let (desk, plan) = (Desk::new(), Digest::of(b"plan"));
        let key = Key::create(&desk.folder.path().join("tls.key")).unwrap();
        let alice = desk.signed("alice", plan);
        for holder in ["coordinator/alice", "observer/eve", "administrator/aalst/carol", "aalst"] {
            let holder: Holder = holder.parse().unwrap();
            let leaf = desk.authority.issue_holder(&key.csr_pem().unwrap(), &holder, NOW).unwrap().certificate_pem;
            let told = desk.judge(&PlanSignature { certificate_pem: leaf, ..alice.clone() }, plan, NOW).unwrap_err();
            assert!(told.contains("does not hold"), "{holder}: {told}");
        }
        // It would have to be shown with its key, which is not the one of a connection.
        let authority = desk.authority.certificate_pem();
        assert!(tls::site_config(&desk.federation, &alice.certificate_pem, authority, &key).is_err());
    }
}
