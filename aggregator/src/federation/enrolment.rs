//! An invitation and a signing request become a certificate; once.

use certs::authority::{Authority, requested_key};
use certs::signing::verifies;
use common::signed::{Ed25519, VerifyingKey, enrolled_statement, enrolment_statement, invitation_statement};
use common::{Digest, Refusal, SiteId};

use super::{Federation, refusal};
use crate::authority::{seconds, stamp};
use crate::clock::Stamp;
use crate::store::{Issued, StoreError};

/// Longest signing request that is read.
const MAX_REQUEST: usize = 16 << 10;

/// Who wants to enrol.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// The key that the invitation's secret makes.
    pub invitation: VerifyingKey,
    /// Its signature over this very request.
    pub invited: Ed25519,
    /// The signing request for the certificate.
    pub csr_pem: &'a str,
    /// What the site will sign its updates with.
    pub signing_key: VerifyingKey,
    /// Its signature over the enrolment.
    pub proof: Ed25519,
}

impl Federation {
    /// Exchanges an invitation for a site's certificate. The invitation is burned and the certificate written down together, before
    /// anybody hears of it; asked again with the same request, the answer is the same.
    /// What the site signs with is written down along; it proves that it holds that key.
    pub fn enrol(&self, authority: &Authority, site: &SiteId, applicant: &Applicant<'_>) -> Result<String, Refusal> {
        let Applicant { invitation, invited, csr_pem, signing_key, proof } = *applicant;
        let request = request(csr_pem)?;
        let statement = enrolment_statement(authority.federation(), site, request);
        if !verifies(signing_key, &statement, proof) {
            return Err(Refusal::Signature("the proof of the signing key is not of that key"));
        }
        let statement = invitation_statement(authority.federation(), site, request, signing_key);
        if !verifies(invitation, &statement, invited) {
            return Err(Refusal::Token("it did not sign this request".to_owned()));
        }
        let token = Digest::of(&invitation.0);
        let now = self.clock.wall();
        let mut issue = || Ok(Issued { signing_key: Some(signing_key), ..issue(authority, site, csr_pem, now)? });
        let issued = self.store.redeem(token, site, request, now, &mut issue).map_err(|error| {
            let told = refusal(error);
            tracing::warn!(%site, refusal = %told, "enrolment refused");
            told
        })?;
        self.refresh().map_err(refusal)?;
        tracing::info!(%site, serial = issued.serial, "site enrolled");
        Ok(issued.certificate_pem)
    }

    /// The CA's hand under what a site is told when it enrols.
    pub fn vouch(
        &self,
        authority: &Authority,
        site: &SiteId,
        (certificate_pem, authority_pem): (&str, &str),
        signing_key: VerifyingKey,
    ) -> Result<[u8; 64], Refusal> {
        let (certificate, anchors) = (Digest::of(certificate_pem.as_bytes()), Digest::of(authority_pem.as_bytes()));
        let statement = enrolled_statement(authority.federation(), site, certificate, anchors, signing_key);
        authority.vouch(&statement).map_err(|error| {
            tracing::error!(%error, "the CA's signature under an enrolment could not be made");
            Refusal::Unavailable
        })
    }

    /// Gives a site that presents `serial` a new certificate. The one it presents counts until the new one is first used, so
    /// that neither a lost answer nor a crash of the site shuts it out.
    pub fn renew(&self, authority: &Authority, site: &SiteId, serial: &str, csr_pem: &str) -> Result<String, Refusal> {
        let request = request(csr_pem)?;
        let now = self.clock.wall();
        let mut issue = || issue(authority, site, csr_pem, now);
        let issued = self.store.renew(site, serial, request, now, &mut issue).map_err(refusal)?;
        let issued = issued.ok_or_else(|| Refusal::Revoked(site.clone()))?;
        self.refresh().map_err(refusal)?;
        tracing::info!(%site, serial = issued.serial, "certificate renewed");
        Ok(issued.certificate_pem)
    }
}

/// What makes a signing request the same when it is made again: its key. Its own signature is checked.
fn request(csr_pem: &str) -> Result<Digest, Refusal> {
    if csr_pem.len() > MAX_REQUEST {
        return Err(Refusal::Malformed(format!("a signing request of {} bytes: too long", csr_pem.len())));
    }
    requested_key(csr_pem).map_err(|error| Refusal::Malformed(format!("the signing request: {error}")))
}

fn issue(authority: &Authority, site: &SiteId, csr_pem: &str, now: Stamp) -> Result<Issued, StoreError> {
    let issued = authority.issue_site(csr_pem, site, seconds(now)).map_err(|error| {
        tracing::error!(%error, "a certificate could not be made");
        StoreError::Token("its signing request is refused")
    })?;
    Ok(Issued {
        certificate_pem: issued.certificate_pem,
        serial: issued.serial,
        expires_at: stamp(issued.expires_at_s),
        signing_key: None,
        anchors: authority.anchors(),
    })
}
