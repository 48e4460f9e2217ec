//! Both sides of an enrolment at whoever enrols: the request, in the hands of the keys that it names, and what an answer must be
//! before anything of it is kept; of a renewal as well.

use std::time::Duration;

use common::enrolment::{Enrolling, Welcome};
use common::signed::{enrolled_statement, enrolment_statement, invitation_statement};
use common::{Digest, FederationName, Holder};
use rustls::pki_types::UnixTime;

use crate::invitation::Invitation;
use crate::keys::Key;
use crate::message::SIGNATURE_BYTES;
use crate::signing::SigningKey;
use crate::verifiers::{CallerVerifier, certificates};
use crate::{CertsError, authority, tls};

/// Why an answer is not believed.
#[derive(Debug, thiserror::Error)]
pub enum NotWelcome {
    /// It is not signed by the CA of the invitation.
    #[error("the aggregator answered with another CA than the invitation names: do not go on; tell the coordinator")]
    OtherAuthority,
    /// It does not have the hand of the invitation's CA under it.
    #[error(
        "the answer is not vouched for by the CA that the invitation names: something on the way changed it; do not go on; tell the \
         coordinator"
    )]
    NotVouched,
    /// A renewal with CAs of which none is known here.
    #[error(
        "the aggregator answered a renewal with none of the CAs that are known here: nothing of it is kept; tell the coordinator"
    )]
    UnknownAuthorities,
    /// A renewal with a certificate that would not count.
    #[error(
        "the aggregator answered a renewal with a certificate that does not count: {0}; nothing of it is kept; tell the coordinator"
    )]
    DoesNotCount(String),
    /// Its certificates are none, or for another key.
    #[error(transparent)]
    Certs(#[from] CertsError),
}

/// The request of whoever holds an invitation, for the certificate of this key.
pub fn request(invitation: &Invitation, key: &Key, signer: &SigningKey) -> Result<Enrolling, CertsError> {
    let (federation, holder, csr_pem) = (&invitation.federation, &invitation.holder, key.csr_pem()?);
    let certified = authority::requested_key(&csr_pem)?;
    let hand = invitation.token.key()?;
    Ok(Enrolling {
        holder: holder.clone(),
        csr_pem,
        signing_key: signer.verifying(),
        signing_proof: signer.sign(&enrolment_statement(federation, holder, certified)),
        invitation_key: hand.verifying(),
        invitation_proof: hand.sign(&invitation_statement(federation, holder, certified, signer.verifying())),
    })
}

/// Holds an answer to the invitation, and its certificate to the key that was made here.
pub fn require_welcome(invitation: &Invitation, key: &Key, welcome: &Welcome) -> Result<(), NotWelcome> {
    let Welcome { certificate_pem, authority_pem, aggregator_key, authority_proof, .. } = welcome;
    // The first of them, if there are two: that is the one that invitations pin.
    if authority::fingerprint(authority_pem)? != invitation.authority {
        return Err(NotWelcome::OtherAuthority);
    }
    let [certificate, anchors] = [certificate_pem, authority_pem].map(|pem| Digest::of(pem.as_bytes()));
    let told = enrolled_statement(&invitation.federation, &invitation.holder, certificate, anchors, *aggregator_key);
    let proof = <&[u8; SIGNATURE_BYTES]>::try_from(authority_proof.as_slice()).map_err(|_| NotWelcome::NotVouched)?;
    if !authority::vouched(authority_pem, &told, proof) {
        return Err(NotWelcome::NotVouched);
    }
    tls::site_config(&invitation.federation, certificate_pem, authority_pem, key)?;
    Ok(())
}

/// Who renews a certificate, and what is known before an answer comes.
#[derive(Clone, Copy, Debug)]
pub struct Renewing<'a> {
    /// The federation.
    pub federation: &'a FederationName,
    /// Whose certificate it is.
    pub holder: &'a Holder,
    /// What the next one is to be for.
    pub key: &'a Key,
    /// The CAs that are known here.
    pub known_pem: &'a str,
}

/// Holds the answer to a renewal to what is known: its certificate counts now, for this very holder and key, by the CAs that came with
/// it, of which one at least is known. While a CA takes the place of another, both come, and afterwards the one that is left: each step
/// has one in common with the step before.
pub fn require_renewed(
    renewing: Renewing<'_>,
    certificate_pem: &str,
    authority_pem: &str,
    now_s: i64,
) -> Result<(), NotWelcome> {
    let Renewing { federation, holder, key, known_pem } = renewing;
    let known = certificates(known_pem)?;
    if !certificates(authority_pem)?.iter().any(|told| known.contains(told)) {
        return Err(NotWelcome::UnknownAuthorities);
    }
    let [leaf] = &certificates(certificate_pem)?[..] else {
        return Err(NotWelcome::DoesNotCount("it did not come alone".to_owned()));
    };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s).unwrap_or(0)));
    let peer = CallerVerifier::new(federation, authority_pem)?.caller(leaf, now);
    let peer = peer.map_err(|error| NotWelcome::DoesNotCount(error.to_string()))?;
    if peer.identity.role.holder().as_ref() != Some(holder) {
        return Err(NotWelcome::DoesNotCount(format!("it is for {}", peer.identity.uri())));
    }
    tls::site_config(federation, certificate_pem, authority_pem, key)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, LEAF_S};

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_renewal_counts_for_its_holder_and_key_by_a_ca_that_is_known_also_while_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let federation: FederationName = "cmr".parse().unwrap();
        let made = |name: &str| Authority::create(&folder.path().join(name), &federation, NOW).unwrap();
        let key = |name: &str| Key::create(&folder.path().join(name)).unwrap();
        let [holder, other] = ["aalst", "other"].map(|site| Holder::Site(site.parse().unwrap()));
        let (own, another) = (key("own"), key("another"));
        let issued = |by: &Authority, key: &Key, holder: &Holder| {
            by.issue_holder(&key.csr_pem().unwrap(), holder, NOW).unwrap().certificate_pem
        };
        let (next_pem, alone) = (made("next").certificate_pem().to_owned(), made("ca"));
        let alone_pem = alone.certificate_pem().to_owned();
        let leaf = issued(&alone, &own, &holder);
        let both = alone.followed_by(Some(Authority::load(&folder.path().join("next"), &federation).unwrap()));
        let (both_pem, next_leaf) = (both.anchors_pem(), issued(&both, &own, &holder));
        let foreign = made("foreign");
        let foreign_pem = foreign.certificate_pem().to_owned();
        let foreign_leaf = issued(&foreign, &own, &holder);
        let held = |known_pem: &str, certificate_pem: &str, authority_pem: &str, now_s: i64| {
            let renewing = Renewing { federation: &federation, holder: &holder, key: &own, known_pem };
            require_renewed(renewing, certificate_pem, authority_pem, now_s)
        };
        held(&alone_pem, &leaf, &alone_pem, NOW).unwrap();
        held(&alone_pem, &next_leaf, &both_pem, NOW).unwrap();
        held(&both_pem, &next_leaf, &next_pem, NOW).unwrap();
        let unknown = |told| matches!(told, Err(NotWelcome::UnknownAuthorities));
        assert!(unknown(held(&alone_pem, &foreign_leaf, &foreign_pem, NOW)));
        assert!(unknown(held(&alone_pem, &next_leaf, &next_pem, NOW)), "who missed the change is invited again");
        let counts_not = |told| matches!(told, Err(NotWelcome::DoesNotCount(_)));
        assert!(counts_not(held(&alone_pem, &foreign_leaf, &alone_pem, NOW)));
        assert!(counts_not(held(&alone_pem, &leaf, &alone_pem, NOW + LEAF_S + 1)));
        let (of_other, of_another) = (issued(&both, &own, &other), issued(&both, &another, &holder));
        assert!(counts_not(held(&alone_pem, &of_other, &both_pem, NOW)));
        assert!(held(&alone_pem, &of_another, &both_pem, NOW).is_err());
        assert!(held(&alone_pem, "", &alone_pem, NOW).is_err() && held(&alone_pem, &leaf, "", NOW).is_err());
    }
}
