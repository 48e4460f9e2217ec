//! What the agent is in its federation: its certificate, renewed at two thirds of its life while the run goes on, whose end ends
//! the agent with the way back; the lineage of models it accepts; its ledger.

use std::time::{Duration, Instant};

use certs::identity::Validity;

use common::{Decline, Directive};

use super::failure::{Failure, is_final};
use super::{Agent, AgentError};
use crate::enrol::{EnrolError, Member};
use crate::ledger::{Event, Ledger};
use crate::lineage::{self, Accepted};

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
    fn is_due(&self, now_s: i64, asked: bool) -> bool {
        (asked || self.validity.is_renewed_at(now_s)) && self.not_before.is_none_or(|moment| Instant::now() >= moment)
    }

    /// A tenth of what is left of its life, within bounds.
    fn pause(&self, now_s: i64) -> Duration {
        let left = Duration::from_secs(u64::try_from(self.validity.not_after_s - now_s).unwrap_or(0));
        (left / 10).clamp(Duration::from_millis(200), AGAIN)
    }
}

impl Agent {
    /// Enters an event into this site's ledger, before it is written down elsewhere that it is over: after a crash between the two it
    /// is entered again, and never missed.
    pub(super) fn enter(&mut self, event: &Event) -> Result<(), AgentError> {
        self.enter_what_is_owed()?;
        Ok(Ledger::at(self.home.ledger()).enter(event)?)
    }

    /// Enters what is so whether or not it can be written down: on a full disk, with the next event that can.
    pub(super) fn enter_or_owe(&mut self, event: Event) -> Result<(), AgentError> {
        if !self.owed.contains(&event) {
            self.owed.push(event);
        }
        match self.enter_what_is_owed() {
            Err(AgentError::Ledger(error)) if error.is_full() => {
                tracing::warn!(%error, "an entry of the ledger waits for room on the disk");
                Ok(())
            }
            entered => entered,
        }
    }

    fn enter_what_is_owed(&mut self) -> Result<(), AgentError> {
        let ledger = Ledger::at(self.home.ledger());
        while let Some(event) = self.owed.first() {
            ledger.enter(event)?;
            self.owed.remove(0);
        }
        Ok(())
    }

    /// Holds the model of an assignment to its lineage and to its plan, and a run's last one to what was approved; a round that is
    /// accepted for the first time is written down before anything of it is fetched or trained.
    pub(super) fn hold_to_lineage(&mut self, directive: &Directive) -> Result<(), Failure> {
        let work = match directive {
            Directive::Train(work) => work,
            Directive::Finished { run, model, bytes } => return self.hold_last(run, *model, *bytes),
            Directive::Wait { .. } | Directive::Failed { .. } => return Ok(()),
        };
        let accepted = self.journal.run(&work.run).and_then(|run| run.accepted);
        let (federation, key) = (&self.member.enrolled.federation, self.member.enrolled.aggregator_key);
        let is_to_be_held = !self.is_done(work) && self.home.plan(work.plan).exists();
        let plan = is_to_be_held.then(|| self.read_plan(work.plan)).transpose()?;
        let held = lineage::check(work, federation, key, accepted)
            .and_then(|()| plan.as_ref().map_or(Ok(()), |plan| lineage::of_plan(work, plan)));
        if let Err(fault) = held {
            let (run, round, plan, base) = (work.run.clone(), work.round, work.plan, work.base);
            let why = fault.to_string();
            if self.refused_lineage.replace((run.clone(), round, base)) != Some((run.clone(), round, base)) {
                self.enter_or_owe(Event::LineageRefused {
                    run,
                    round,
                    plan,
                    base,
                    lineage: work.lineage.as_deref().copied(),
                    why: why.clone(),
                })?;
            }
            return Err(Failure::Decline(Decline::Lineage, why));
        }
        let now = Accepted { round: work.round, base: work.base };
        // Without its plan nothing of a round is done here: what is accepted was held to it. Of a round that is declined nothing is
        // fetched or trained.
        if plan.is_some() && accepted != Some(now) && !self.has_declined(directive) {
            let (run, round, plan, base) = (work.run.clone(), work.round, work.plan, work.base);
            self.enter(&Event::RoundAccepted {
                run,
                round,
                plan,
                base,
                lineage: work.lineage.as_deref().copied(),
                ledger: work.ledger.as_deref().copied(),
            })?;
            self.journal.accept(&work.run, now).map_err(AgentError::from)?;
        }
        Ok(())
    }

    /// Renews the certificate if it is time. A renewal that fails for a reason that may pass is tried again later: there is a
    /// third of the certificate's life for that.
    pub(super) async fn keep_certificate(&mut self) -> Result<(), AgentError> {
        let now_s = i64::try_from(rustls::pki_types::UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        if self.certificate.is_due(now_s, self.link.renewal_is_asked_for()) {
            let (member, mut link) = (self.member.clone(), self.link.clone());
            match self.watching(member.renew(&mut link)).await {
                Ok(()) => {
                    self.link = self.member.link()?.under(&self.config.policy, &self.home);
                    self.certificate = Certificate::of(&self.member)?;
                    let (not_after_s, authorities) =
                        (self.certificate.validity.not_after_s, self.member.authorities()?);
                    self.enter_or_owe(Event::Renewed { not_after_s, authorities })?;
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
