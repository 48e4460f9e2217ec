//! What a step that did not succeed means: try again, leave this round, or end.

use common::{Decline, Directive};

use super::AgentError;
use crate::durable::DiskError;
use crate::job::JobError;
use crate::journal::JournalError;
use crate::ledger::LedgerError;
use crate::link::LinkError;

/// Refusals after which asking again is of no use.
pub(super) fn is_final(error: &LinkError) -> bool {
    matches!(error.refusal(), Some("unidentified" | "speaks-for-another" | "revoked"))
}

/// Refusals that say that the directive is an old one: the next says what to do instead, and is not to be waited for long.
pub(super) fn is_of_an_old_round(error: &LinkError) -> bool {
    error.refusal() == Some("round-not-open")
}

pub(super) enum Then {
    AtOnce,
    Later,
    /// What was under way was dropped for this.
    Instead(Directive),
}

pub(super) enum Failure {
    /// Try again.
    Passing(LinkError),
    /// This round goes on without this site.
    Decline(Decline, String),
    /// The agent cannot go on.
    Ends(AgentError),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Plan(error) => Self::Decline(Decline::PlanDiffers, error.to_string()),
            LinkError::Disk(error) => error.into(),
            // The round has moved on, or counts without us: the next directive says how.
            LinkError::Refused { ref code, .. } if ["update", "signature", "conflict"].contains(&code.as_str()) => {
                Self::Decline(Decline::Withheld, error.to_string())
            }
            error if is_final(&error) => Self::Ends(AgentError::Refused(error)),
            error => Self::Passing(error),
        }
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        if error.is_full() { Self::Decline(Decline::DiskFull, error.to_string()) } else { Self::Ends(error.into()) }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Disk(error)
            | AgentError::Job(JobError::Disk(error))
            | AgentError::Journal(JournalError::Disk(error))
            | AgentError::Ledger(LedgerError::Disk(error)) => error.into(),
            error => Self::Ends(error),
        }
    }
}

/// Weights of the trainer's that cannot be read.
pub(super) fn unreadable(error: common::weights::WeightsError) -> Failure {
    Failure::Decline(Decline::TrainingFailed, error.to_string())
}

#[cfg(test)]
mod tests {
    use common::Refusal;
    use common::refusal::UpdateFault;

    use super::*;

    #[test]
    fn an_update_that_is_refused_ends_this_round_for_the_site_whatever_its_fault() {
        for (fault, code) in [(UpdateFault::Norm, "update-norm"), (UpdateFault::NotFinite, "update-not-finite")] {
            let refused = proto::refusal::status(&Refusal::Update(fault, "it is wrong".to_owned()));
            match Failure::from(LinkError::from(refused)) {
                Failure::Decline(Decline::Withheld, why) => assert!(why.contains(code), "{why}"),
                _ => panic!("{code} is tried again, or ends the agent"),
            }
        }
    }
}
