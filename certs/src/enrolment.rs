//! Both sides of an enrolment at whoever enrols: the request, in the hands of the keys that it names, and what an answer must be
//! before anything of it is kept.

use common::Digest;
use common::enrolment::{Enrolling, Welcome};
use common::signed::{enrolled_statement, enrolment_statement, invitation_statement};

use crate::invitation::Invitation;
use crate::keys::Key;
use crate::message::SIGNATURE_BYTES;
use crate::signing::SigningKey;
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
