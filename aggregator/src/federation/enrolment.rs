//! An invitation and a signing request become a certificate; once.

use certs::authority::{Authority, requested_key};
use certs::signing::verifies;
use common::enrolment::{Enrolling, Welcome};
use common::signed::{VerifyingKey, enrolled_statement, enrolment_statement, invitation_statement};
use common::{Digest, Holder, Refusal};

use super::{Federation, refusal};
use crate::allowance::{OF_A_KIND, Repeated};
use crate::authority::{seconds, stamp};
use crate::clock::Stamp;
use crate::door::TurnedAway;
use crate::store::{Issued, StoreError};

/// Longest signing request that is read.
const MAX_REQUEST: usize = 16 << 10;
const HOUR_S: i64 = 60 * 60;

impl Federation {
    /// Exchanges an invitation for the certificate of a site or a person, and for a coordinator's of the signing key. The invitation
    /// is burned and the certificates written down together, before anybody hears of them; asked again with the same request, the
    /// answer is the same. What the holder signs with is written down along; it proves that it holds that key.
    pub fn enrol(&self, authority: &Authority, asked: &Enrolling) -> Result<Welcome, Refusal> {
        self.exchange(authority, asked).inspect_err(|refusal| {
            tracing::warn!(holder = %asked.holder, %refusal, "enrolment refused");
            let told = TurnedAway::enrolling(&asked.holder, request(&asked.csr_pem).ok(), refusal);
            told.into_iter().for_each(|told| self.turned_away(told));
        })
    }

    fn exchange(&self, authority: &Authority, asked: &Enrolling) -> Result<Welcome, Refusal> {
        let Enrolling { holder, csr_pem, signing_key, signing_proof, invitation_key, invitation_proof } = asked;
        let (signing_key, invitation_key) = (*signing_key, *invitation_key);
        let request = request(csr_pem)?;
        let statement = enrolment_statement(authority.federation(), holder, request);
        if !verifies(signing_key, &statement, *signing_proof) {
            return Err(Refusal::Signature("the proof of the signing key is not of that key"));
        }
        let statement = invitation_statement(authority.federation(), holder, request, signing_key);
        if !verifies(invitation_key, &statement, *invitation_proof) {
            return Err(Refusal::Token("it did not sign this request".to_owned()));
        }
        let token = Digest::of(&invitation_key.0);
        let now = self.clock.wall();
        let mut issue = || {
            let issued = issue(authority, holder, csr_pem, Some(signing_key), now)?;
            Ok(Issued { signing_key: Some(signing_key), ..issued })
        };
        // Both while the runs are locked: no update is entered under a key whose place another has taken.
        let live = self.live();
        let issued = self.store.redeem(token, holder, request, now, &mut issue).map_err(refusal)?;
        self.admit(self.store.members().map_err(refusal)?);
        drop(live);
        self.refresh().map_err(refusal)?;
        tracing::info!(%holder, serial = issued.serial, "enrolled");
        self.welcome(authority, holder, issued)
    }

    /// The answer, in the CA's hand.
    fn welcome(&self, authority: &Authority, holder: &Holder, issued: Issued) -> Result<Welcome, Refusal> {
        let (certificate_pem, authority_pem) = (issued.certificate_pem, authority.anchors_pem());
        let Some(aggregator_key) = self.verifying_key() else {
            tracing::error!("nobody enrols at an aggregator without a signing key");
            return Err(Refusal::Unavailable);
        };
        let [certificate, anchors] = [&certificate_pem, &authority_pem].map(|pem| Digest::of(pem.as_bytes()));
        let statement = enrolled_statement(authority.federation(), holder, certificate, anchors, aggregator_key);
        let proof = authority.vouch(&statement).map_err(|error| {
            tracing::error!(%error, "the CA's signature under an enrolment could not be made");
            Refusal::Unavailable
        })?;
        Ok(Welcome {
            certificate_pem,
            authority_pem,
            aggregator_key,
            authority_proof: proof.to_vec(),
            signing_certificate_pem: issued.signing_certificate,
        })
    }

    /// Gives a holder that presents `serial` a new certificate. The one it presents counts until the new one is first used, so
    /// that neither a lost answer nor a crash of the holder shuts it out. Asked again with the same key, the answer is the same; for
    /// others there are so many in an hour.
    pub fn renew(
        &self,
        authority: &Authority,
        holder: &Holder,
        serial: &str,
        csr_pem: &str,
    ) -> Result<Issued, Refusal> {
        let request = request(csr_pem)?;
        let now = self.clock.wall();
        let signing_key = self.admitted.borrow().member(holder).and_then(|member| member.signing_key);
        let mut issue = || match self.allows(holder, Repeated::Renewal, most_renewals(authority)) {
            true => issue(authority, holder, csr_pem, signing_key, now),
            false => Err(StoreError::TooOften),
        };
        let issued = self.store.renew(holder, serial, request, now, &mut issue).map_err(refusal)?;
        let issued = issued.ok_or_else(|| Refusal::revoked(holder))?;
        self.refresh().map_err(refusal)?;
        tracing::info!(%holder, serial = issued.serial, "certificate renewed");
        Ok(issued)
    }
}

/// Certificates that a holder gets in an hour: where they live for seconds, twice as many as it takes of them.
fn most_renewals(authority: &Authority) -> u32 {
    let follow = u32::try_from(HOUR_S / authority.leaf_s().max(1)).unwrap_or(0);
    OF_A_KIND.max(2 * follow)
}

/// What makes a signing request the same when it is made again: its key. Its own signature is checked.
fn request(csr_pem: &str) -> Result<Digest, Refusal> {
    if csr_pem.len() > MAX_REQUEST {
        return Err(Refusal::Malformed(format!("a signing request of {} bytes: too long", csr_pem.len())));
    }
    requested_key(csr_pem).map_err(|error| Refusal::Malformed(format!("the signing request: {error}")))
}

fn issue(
    authority: &Authority,
    holder: &Holder,
    csr_pem: &str,
    signing_key: Option<VerifyingKey>,
    now: Stamp,
) -> Result<Issued, StoreError> {
    let failed = |error| {
        tracing::error!(%error, "a certificate could not be made");
        StoreError::Token("its signing request is refused")
    };
    let issued = authority.issue_holder(csr_pem, holder, seconds(now)).map_err(failed)?;
    let coordinator = holder.person().filter(|person| person.is_coordinator());
    let signing =
        coordinator.zip(signing_key).map(|(person, key)| authority.issue_signer(&person.name, key, seconds(now)));
    Ok(Issued {
        certificate_pem: issued.certificate_pem,
        serial: issued.serial,
        expires_at: stamp(issued.expires_at_s),
        signing_key: None,
        signing_certificate: signing.transpose().map_err(failed)?.map(|issued| issued.certificate_pem),
        anchors: authority.anchors(),
    })
}
