//! A token and a signing request become a certificate; once.

use certs::authority::Authority;
use common::{Digest, Refusal, SiteId};

use super::{Federation, refusal};
use crate::authority::seconds;
use crate::store::{Issued, StoreError};

/// Longest signing request that is read.
const MAX_REQUEST: usize = 16 << 10;

impl Federation {
    /// Exchanges a token for a site's certificate. The token is burned and the certificate written down together, before
    /// anybody hears of it; asked again with the same request, the answer is the same.
    pub fn enrol(&self, authority: &Authority, site: &SiteId, token: &[u8], csr_pem: &str) -> Result<String, Refusal> {
        if csr_pem.len() > MAX_REQUEST {
            return Err(Refusal::Malformed(format!("a signing request of {} bytes: too long", csr_pem.len())));
        }
        let now = self.clock.wall();
        let mut objection = None;
        let redeemed = self.store.redeem(Digest::of(token), site, Digest::of(csr_pem.as_bytes()), now, &mut || {
            let issued = authority.issue_site(csr_pem, site, seconds(now)).map_err(|error| {
                objection = Some(Refusal::Malformed(format!("the signing request: {error}")));
                StoreError::Token("its signing request is refused")
            })?;
            Ok(Issued { certificate_pem: issued.certificate_pem, serial: issued.serial })
        });
        let issued = redeemed.map_err(|error| {
            let told = objection.take().unwrap_or_else(|| refusal(error));
            tracing::warn!(%site, refusal = %told, "enrolment refused");
            told
        })?;
        self.refresh().map_err(refusal)?;
        tracing::info!(%site, serial = issued.serial, "site enrolled");
        Ok(issued.certificate_pem)
    }
}
