//! How a site is, and what it is to do.

use std::time::Duration;

use common::words::plain;
use common::{Assignment, Decline, Directive, Phase, Progress, RoundNumber};

use super::signatures::{from_lineage, from_signed_head, to_lineage, to_signed_head};
use super::{Announced, Malformed, digest, digest_bytes, finite, run, site};
use crate::wire;

impl TryFrom<wire::ReportRequest> for Announced<Progress> {
    type Error = Malformed;
    fn try_from(report: wire::ReportRequest) -> Result<Self, Malformed> {
        const MESSAGE: &str = "ReportRequest";
        let work = match report.run.as_str() {
            "" => None,
            written => Some((run(MESSAGE, written)?, RoundNumber(report.round))),
        };
        let unknown =
            |field| Malformed { message: MESSAGE, field, why: "a value this version does not know".to_owned() };
        let phase = match wire::Phase::try_from(report.phase) {
            Ok(wire::Phase::Idle) => Phase::Idle,
            Ok(wire::Phase::Fetching) => Phase::Fetching,
            Ok(wire::Phase::Training) => Phase::Training,
            Ok(wire::Phase::Sending) => Phase::Sending,
            Ok(wire::Phase::Reported) => Phase::Reported,
            Ok(wire::Phase::AwaitingApproval) => Phase::AwaitingApproval,
            Ok(wire::Phase::Indexing) => Phase::Indexing,
            Ok(wire::Phase::OutsideHours) => Phase::OutsideHours,
            Ok(wire::Phase::Declined) => {
                let reason = wire::Decline::try_from(report.decline).map_err(|_| unknown("decline"))?;
                Phase::Declined(decline(reason).ok_or_else(|| unknown("decline"))?)
            }
            Ok(wire::Phase::Unspecified) | Err(_) => return Err(unknown("phase")),
        };
        let meter = |field, value: Option<f64>| value.map(|value| finite(MESSAGE, field, value)).transpose();
        let value = Progress {
            work,
            phase,
            done: report.done,
            total: report.total,
            loss: meter("loss", report.loss)?,
            teacher_entropy: meter("teacher_entropy", report.teacher_entropy)?,
            eta: report.eta_ms.map(Duration::from_millis),
        };
        Ok(Self { site: site(MESSAGE, &report.site)?, value })
    }
}

impl From<Announced<Progress>> for wire::ReportRequest {
    fn from(Announced { site, value }: Announced<Progress>) -> Self {
        let (phase, reason) = match value.phase {
            Phase::Idle => (wire::Phase::Idle, wire::Decline::Unspecified),
            Phase::Fetching => (wire::Phase::Fetching, wire::Decline::Unspecified),
            Phase::Training => (wire::Phase::Training, wire::Decline::Unspecified),
            Phase::Sending => (wire::Phase::Sending, wire::Decline::Unspecified),
            Phase::Reported => (wire::Phase::Reported, wire::Decline::Unspecified),
            Phase::AwaitingApproval => (wire::Phase::AwaitingApproval, wire::Decline::Unspecified),
            Phase::Indexing => (wire::Phase::Indexing, wire::Decline::Unspecified),
            Phase::OutsideHours => (wire::Phase::OutsideHours, wire::Decline::Unspecified),
            Phase::Declined(reason) => (wire::Phase::Declined, wire_decline(reason)),
        };
        Self {
            site: site.into(),
            run: value.work.as_ref().map(|(run, _)| run.to_string()).unwrap_or_default(),
            round: value.work.map_or(0, |(_, round)| round.0),
            phase: phase.into(),
            decline: reason.into(),
            done: value.done,
            total: value.total,
            loss: value.loss,
            teacher_entropy: value.teacher_entropy,
            eta_ms: value.eta.map(milliseconds),
        }
    }
}

fn decline(reason: wire::Decline) -> Option<Decline> {
    Some(match reason {
        wire::Decline::Unspecified => return None,
        wire::Decline::PlanNotApproved => Decline::PlanNotApproved,
        wire::Decline::PlanDiffers => Decline::PlanDiffers,
        wire::Decline::TooFewImages => Decline::TooFewImages,
        wire::Decline::TooManySkipped => Decline::TooManySkipped,
        wire::Decline::TrainingFailed => Decline::TrainingFailed,
        wire::Decline::Withheld => Decline::Withheld,
        wire::Decline::DiskFull => Decline::DiskFull,
        wire::Decline::NoLabels => Decline::NoLabels,
        wire::Decline::PolicyPurposes => Decline::PolicyPurposes,
        wire::Decline::PolicyTasks => Decline::PolicyTasks,
        wire::Decline::PolicyBatchSize => Decline::PolicyBatchSize,
        wire::Decline::PolicySteps => Decline::PolicySteps,
        wire::Decline::PolicyTensors => Decline::PolicyTensors,
        wire::Decline::PolicyRoundsADay => Decline::PolicyRoundsADay,
        wire::Decline::PolicySignatures => Decline::PolicySignatures,
        wire::Decline::Stopped => Decline::Stopped,
        wire::Decline::Lineage => Decline::Lineage,
        wire::Decline::PolicyNoise => Decline::PolicyNoise,
        wire::Decline::PolicySubjects => Decline::PolicySubjects,
        wire::Decline::Architecture => Decline::Architecture,
    })
}

fn wire_decline(reason: Decline) -> wire::Decline {
    match reason {
        Decline::PlanNotApproved => wire::Decline::PlanNotApproved,
        Decline::PlanDiffers => wire::Decline::PlanDiffers,
        Decline::TooFewImages => wire::Decline::TooFewImages,
        Decline::TooManySkipped => wire::Decline::TooManySkipped,
        Decline::TrainingFailed => wire::Decline::TrainingFailed,
        Decline::Withheld => wire::Decline::Withheld,
        Decline::DiskFull => wire::Decline::DiskFull,
        Decline::NoLabels => wire::Decline::NoLabels,
        Decline::PolicyPurposes => wire::Decline::PolicyPurposes,
        Decline::PolicyTasks => wire::Decline::PolicyTasks,
        Decline::PolicyBatchSize => wire::Decline::PolicyBatchSize,
        Decline::PolicySteps => wire::Decline::PolicySteps,
        Decline::PolicyTensors => wire::Decline::PolicyTensors,
        Decline::PolicyRoundsADay => wire::Decline::PolicyRoundsADay,
        Decline::PolicySignatures => wire::Decline::PolicySignatures,
        Decline::Stopped => wire::Decline::Stopped,
        Decline::Lineage => wire::Decline::Lineage,
        Decline::PolicyNoise => wire::Decline::PolicyNoise,
        Decline::PolicySubjects => wire::Decline::PolicySubjects,
        Decline::Architecture => wire::Decline::Architecture,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Characters of what an aggregator says to the people at a site.
const MOST_WORDS: usize = 600;

/// What a site shows and writes down of words that came from elsewhere: one line of a bounded length, and nothing that a terminal obeys.
fn words(said: &str) -> String {
    plain(&said.chars().take(MOST_WORDS).collect::<String>())
}

impl TryFrom<wire::ReportReply> for Directive {
    type Error = Malformed;
    fn try_from(reply: wire::ReportReply) -> Result<Self, Malformed> {
        use wire::report_reply::Directive as Wire;
        match reply.directive {
            Some(Wire::Wait(wait)) if wait.failed.is_empty() => Ok(Self::Wait { because: words(&wait.because) }),
            Some(Wire::Wait(wait)) => {
                Ok(Self::Failed { run: run("Wait", &wait.failed)?, because: words(&wait.because) })
            }
            Some(Wire::Train(train)) => Ok(Self::Train(train.try_into()?)),
            Some(Wire::Finished(finished)) => Ok(Self::Finished {
                run: run("Finished", &finished.run)?,
                model: digest("Finished", "model", &finished.model)?,
                bytes: finished.model_bytes,
            }),
            None => Err(Malformed {
                message: "ReportReply",
                field: "directive",
                why: "it is missing, or of a kind this version does not know".to_owned(),
            }),
        }
    }
}

impl From<Directive> for wire::ReportReply {
    fn from(directive: Directive) -> Self {
        use wire::report_reply::Directive as Wire;
        let directive = match directive {
            Directive::Wait { because } => Wire::Wait(wire::Wait { because, failed: String::new() }),
            Directive::Failed { run, because } => Wire::Wait(wire::Wait { because, failed: run.into() }),
            Directive::Train(assignment) => Wire::Train(assignment.into()),
            Directive::Finished { run, model, bytes } => {
                Wire::Finished(wire::Finished { run: run.into(), model: digest_bytes(model), model_bytes: bytes })
            }
        };
        Self { directive: Some(directive), renew: false }
    }
}

impl TryFrom<wire::Assignment> for Assignment {
    type Error = Malformed;
    fn try_from(assignment: wire::Assignment) -> Result<Self, Malformed> {
        const MESSAGE: &str = "Assignment";
        Ok(Self {
            run: run(MESSAGE, &assignment.run)?,
            round: RoundNumber(assignment.round),
            plan: digest(MESSAGE, "plan", &assignment.plan)?,
            base: digest(MESSAGE, "base", &assignment.base)?,
            base_bytes: assignment.base_bytes,
            first_step: assignment.first_step,
            time_left: Duration::from_millis(assignment.time_left_ms),
            awaited: assignment.awaited,
            lineage: assignment.lineage.map(|lineage| from_lineage(MESSAGE, &lineage).map(Box::new)).transpose()?,
            ledger: assignment.ledger.map(|head| from_signed_head(MESSAGE, &head).map(Box::new)).transpose()?,
        })
    }
}

impl From<Assignment> for wire::Assignment {
    fn from(assignment: Assignment) -> Self {
        Self {
            run: assignment.run.into(),
            round: assignment.round.0,
            plan: digest_bytes(assignment.plan),
            base: digest_bytes(assignment.base),
            base_bytes: assignment.base_bytes,
            first_step: assignment.first_step,
            time_left_ms: milliseconds(assignment.time_left),
            awaited: assignment.awaited,
            lineage: assignment.lineage.map(|lineage| to_lineage(*lineage)),
            ledger: assignment.ledger.map(|told| to_signed_head(*told)),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::Digest;
    use common::ledger::Head;
    use common::signed::{Ed25519, Lineage, SignedHead};

    use super::*;

    #[test]
    fn a_report_and_its_answer_are_the_same_after_the_wire() {
        let phases = [
            Phase::Idle,
            Phase::AwaitingApproval,
            Phase::Fetching,
            Phase::Indexing,
            Phase::OutsideHours,
            Phase::Training,
            Phase::Sending,
            Phase::Reported,
        ];
        let declines = (1..)
            .map_while(|code| wire::Decline::try_from(code).ok())
            .map(|word| Phase::Declined(decline(word).unwrap()));
        for phase in phases.into_iter().chain(declines) {
            let progress = Progress {
                work: Some(("run".parse().unwrap(), RoundNumber(2))),
                phase,
                loss: Some(5.0),
                eta: Some(Duration::from_millis(1500)),
                ..Progress::idle()
            };
            let announced = Announced { site: "aalst".parse().unwrap(), value: progress };
            assert_eq!(Announced::try_from(wire::ReportRequest::from(announced.clone())).unwrap(), announced);
        }
        let assignment = Assignment {
            run: "run".parse().unwrap(),
            round: RoundNumber(1),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            base_bytes: 5,
            first_step: 100,
            time_left: Duration::from_secs(60),
            awaited: true,
            lineage: Some(Box::new(Lineage {
                round: RoundNumber(0),
                before: Digest::of(b"base"),
                signature: Ed25519([9; 64]),
            })),
            ledger: Some(Box::new(SignedHead {
                head: Head { entries: 8, digest: Digest::of(b"entry") },
                signature: Ed25519([9; 64]),
            })),
        };
        let directives = [
            Directive::Wait { because: "no run".to_owned() },
            Directive::Failed { run: "run".parse().unwrap(), because: "run run failed: a mistake".to_owned() },
            Directive::Train(assignment),
            Directive::Finished { run: "run".parse().unwrap(), model: Digest::of(b"m"), bytes: 1 },
        ];
        for directive in directives {
            assert_eq!(Directive::try_from(wire::ReportReply::from(directive.clone())).unwrap(), directive);
        }
    }

    #[test]
    fn words_for_people_are_cut_to_a_line_that_no_terminal_obeys() {
        let because = format!("wait\n\u{1b}[2J\u{9b}{}", "é".repeat(2_000));
        let wait = wire::Wait { because, failed: String::new() };
        let reply =
            wire::ReportReply { directive: Some(wire::report_reply::Directive::Wait(wait)), ..Default::default() };
        let Ok(Directive::Wait { because }) = Directive::try_from(reply) else { panic!("it waits") };
        assert_eq!(because.chars().count(), MOST_WORDS);
        assert!(because.starts_with("wait\u{fffd}\u{fffd}[2J\u{fffd}éé"), "{because}");
    }
}
