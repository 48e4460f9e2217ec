//! The agent's own certificate: renewed at two thirds of its life while the run goes on. One that has expired ends the agent,
//! with the way back.

use std::time::{Duration, Instant};

use certs::identity::Validity;

use super::failure::is_final;
use super::{Agent, AgentError};
use crate::enrol::{EnrolError, Member};

/// Longest pause before a renewal that failed is tried again; of a short life it is a part.
const AGAIN: Duration = Duration::from_secs(3600);

/// When the certificate counts, and when to try again to renew it.
#[derive(Debug)]
pub(super) struct Certificate {
    validity: Validity,
    not_before: Option<Instant>,
}

impl Certificate {
    pub(super) fn of(member: &Member) -> Result<Self, EnrolError> {
        Ok(Self { validity: member.validity()?, not_before: None })
    }

    /// Whether to try to renew it now.
    fn is_due(&self, now_s: i64) -> bool {
        self.validity.is_renewed_at(now_s) && self.not_before.is_none_or(|moment| Instant::now() >= moment)
    }

    /// A tenth of what is left of its life, within bounds.
    fn pause(&self, now_s: i64) -> Duration {
        let left = Duration::from_secs(u64::try_from(self.validity.not_after_s - now_s).unwrap_or(0));
        (left / 10).clamp(Duration::from_millis(200), AGAIN)
    }
}

impl Agent {
    /// Renews the certificate if it is time. A renewal that fails for a reason that may pass is tried again later: there is a
    /// third of the certificate's life for that.
    pub(super) async fn keep_certificate(&mut self) -> Result<(), AgentError> {
        let now_s = i64::try_from(rustls::pki_types::UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        if self.certificate.is_due(now_s) {
            match self.member.renew(&mut self.link).await {
                Ok(()) => {
                    self.link = self.member.link()?;
                    self.certificate = Certificate::of(&self.member)?;
                    tracing::info!(until = self.certificate.validity.end_text(), "this site's certificate is renewed");
                }
                Err(EnrolError::Link(error)) if is_final(&error) => return Err(AgentError::Refused(error)),
                Err(error) => {
                    tracing::warn!(%error, "this site's certificate could not be renewed yet; it is tried again");
                    self.certificate.not_before = Some(Instant::now() + self.certificate.pause(now_s));
                }
            }
        }
        if self.certificate.validity.is_over(now_s) {
            let end = self.certificate.validity.end_text();
            return Err(AgentError::Expired { site: self.site.clone(), end });
        }
        Ok(())
    }
}
