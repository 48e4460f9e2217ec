//! Wire to domain, refusing what is malformed; domain to wire, which cannot fail.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::enrolment::{Enrolling, Welcome};
use common::ledger::Head;
use common::score::MeasuredOn;
use common::signed::{Attestation, Ed25519, Lineage, PlanSignature, SignedHead, VerifyingKey};
use common::{
    Assignment, Decline, Digest, Directive, Holder, Meters, Person, Phase, Progress, RoundNumber, RunId, Score, SiteId,
    TaskName, UpdateManifest,
};

use crate::wire;

/// A field that is missing, or holds what its type cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of {message}: {why}")]
pub struct Malformed {
    /// The message.
    pub message: &'static str,
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// A message that speaks for a site: the site as it says, which the certificate must confirm.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced<T> {
    /// Who the message says it is from.
    pub site: SiteId,
    /// What it says.
    pub value: T,
}

fn text<T>(message: &'static str, field: &'static str, value: &str) -> Result<T, Malformed>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error: T::Err| Malformed { message, field, why: error.to_string() })
}

/// A digest from its 32 bytes.
pub fn digest(message: &'static str, field: &'static str, value: &Bytes) -> Result<Digest, Malformed> {
    let bytes: Result<[u8; 32], _> = value.as_ref().try_into();
    bytes.map(Digest).map_err(|_| Malformed {
        message,
        field,
        why: format!("{} bytes are no SHA-256, which has 32", value.len()),
    })
}

/// The 32 bytes of a digest.
pub fn digest_bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

/// The run of a message.
pub fn run(message: &'static str, value: &str) -> Result<RunId, Malformed> {
    text(message, "run", value)
}

/// The site of a message.
pub fn site(message: &'static str, value: &str) -> Result<SiteId, Malformed> {
    text(message, "site", value)
}

/// Who a message is about: a site, or a person in an office.
pub fn holder(message: &'static str, value: &str) -> Result<Holder, Malformed> {
    text(message, "holder", value)
}

impl TryFrom<wire::EnrolRequest> for Enrolling {
    type Error = Malformed;
    fn try_from(request: wire::EnrolRequest) -> Result<Self, Malformed> {
        const MESSAGE: &str = "EnrolRequest";
        let holder = match (request.site.as_str(), request.person.as_str()) {
            (named, "") => Holder::Site(site(MESSAGE, named)?),
            ("", person) => Holder::Person(text::<Person>(MESSAGE, "person", person)?),
            _ => {
                return Err(Malformed { message: MESSAGE, field: "person", why: "a site is named as well".to_owned() });
            }
        };
        Ok(Self {
            holder,
            csr_pem: request.csr_pem,
            signing_key: verifying_key(MESSAGE, &request.signing_key)?,
            signing_proof: Ed25519(bytes(MESSAGE, "signing_proof", &request.signing_proof)?),
            invitation_key: VerifyingKey(bytes(MESSAGE, "invitation_key", &request.invitation_key)?),
            invitation_proof: Ed25519(bytes(MESSAGE, "invitation_proof", &request.invitation_proof)?),
        })
    }
}

impl From<Enrolling> for wire::EnrolRequest {
    fn from(request: Enrolling) -> Self {
        let (site, person) = match request.holder {
            Holder::Site(site) => (site.to_string(), String::new()),
            Holder::Person(person) => (String::new(), person.to_string()),
        };
        Self {
            site,
            csr_pem: request.csr_pem,
            signing_key: Bytes::copy_from_slice(&request.signing_key.0),
            signing_proof: signature_bytes(request.signing_proof),
            invitation_key: Bytes::copy_from_slice(&request.invitation_key.0),
            invitation_proof: signature_bytes(request.invitation_proof),
            person,
        }
    }
}

impl TryFrom<wire::EnrolReply> for Welcome {
    type Error = Malformed;
    fn try_from(reply: wire::EnrolReply) -> Result<Self, Malformed> {
        Ok(Self {
            certificate_pem: reply.certificate_pem,
            authority_pem: reply.authority_pem,
            aggregator_key: verifying_key("EnrolReply", &reply.signing_key)?,
            authority_proof: reply.authority_proof.to_vec(),
            signing_certificate_pem: told(reply.signing_certificate_pem),
        })
    }
}

impl From<Welcome> for wire::EnrolReply {
    fn from(welcome: Welcome) -> Self {
        Self {
            certificate_pem: welcome.certificate_pem,
            authority_pem: welcome.authority_pem,
            signing_key: Bytes::copy_from_slice(&welcome.aggregator_key.0),
            authority_proof: welcome.authority_proof.into(),
            signing_certificate_pem: untold(welcome.signing_certificate_pem),
        }
    }
}

/// A text of the wire, where an empty one stands for none.
pub fn told(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The same the other way.
pub fn untold(text: Option<String>) -> String {
    text.unwrap_or_default()
}

impl TryFrom<wire::PlanSignature> for PlanSignature {
    type Error = Malformed;
    fn try_from(signed: wire::PlanSignature) -> Result<Self, Malformed> {
        let signature = Ed25519(bytes("PlanSignature", "signature", &signed.signature)?);
        Ok(Self { certificate_pem: signed.certificate_pem, signature })
    }
}

impl From<PlanSignature> for wire::PlanSignature {
    fn from(signed: PlanSignature) -> Self {
        Self { certificate_pem: signed.certificate_pem, signature: signature_bytes(signed.signature) }
    }
}

/// The 64 bytes of a signature.
pub fn signature_bytes(signature: Ed25519) -> Bytes {
    Bytes::copy_from_slice(&signature.0)
}

fn finite(message: &'static str, field: &'static str, value: f64) -> Result<f64, Malformed> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Malformed { message, field, why: format!("{value} is not a finite number") })
    }
}

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

impl TryFrom<wire::ReportReply> for Directive {
    type Error = Malformed;
    fn try_from(reply: wire::ReportReply) -> Result<Self, Malformed> {
        use wire::report_reply::Directive as Wire;
        match reply.directive {
            Some(Wire::Wait(wait)) => Ok(Self::Wait { because: wait.because }),
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
            Directive::Wait { because } => Wire::Wait(wire::Wait { because }),
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
            lineage: assignment.lineage.map(|lineage| from_lineage(MESSAGE, &lineage).map(Box::new)).transpose()?,
            ledger: assignment.ledger.map(|head| from_signed_head(MESSAGE, &head).map(Box::new)).transpose()?,
        })
    }
}

fn from_lineage(message: &'static str, lineage: &wire::Lineage) -> Result<Lineage, Malformed> {
    Ok(Lineage {
        round: RoundNumber(lineage.round),
        before: digest(message, "lineage.before", &lineage.before)?,
        signature: Ed25519(bytes(message, "lineage.signature", &lineage.signature)?),
    })
}

fn from_signed_head(message: &'static str, told: &wire::SignedHead) -> Result<SignedHead, Malformed> {
    let head = Head { entries: told.entries, digest: digest(message, "ledger.digest", &told.digest)? };
    Ok(SignedHead { head, signature: Ed25519(bytes(message, "ledger.signature", &told.signature)?) })
}

fn to_signed_head(SignedHead { head, signature }: SignedHead) -> wire::SignedHead {
    wire::SignedHead {
        entries: head.entries,
        digest: digest_bytes(head.digest),
        signature: Bytes::copy_from_slice(&signature.0),
    }
}

fn from_attestation(message: &'static str, attestation: &wire::Attestation) -> Result<Attestation, Malformed> {
    Ok(Attestation {
        ledger: attestation.ledger.as_ref().map(|head| from_signed_head(message, head)).transpose()?,
        signature: Ed25519(bytes(message, "attestation.signature", &attestation.signature)?),
    })
}

/// The public half of a signing key.
pub fn verifying_key(message: &'static str, value: &[u8]) -> Result<VerifyingKey, Malformed> {
    Ok(VerifyingKey(bytes(message, "signing_key", value)?))
}

/// So many bytes.
pub fn bytes<const N: usize>(message: &'static str, field: &'static str, value: &[u8]) -> Result<[u8; N], Malformed> {
    let why = || Malformed { message, field, why: format!("{} bytes, where {N} are expected", value.len()) };
    value.try_into().map_err(|_| why())
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
            lineage: assignment.lineage.map(|lineage| wire::Lineage {
                round: lineage.round.0,
                before: digest_bytes(lineage.before),
                signature: Bytes::copy_from_slice(&lineage.signature.0),
            }),
            ledger: assignment.ledger.map(|told| to_signed_head(*told)),
        }
    }
}

impl TryFrom<wire::UpdateManifest> for UpdateManifest {
    type Error = Malformed;
    fn try_from(manifest: wire::UpdateManifest) -> Result<Self, Malformed> {
        const MESSAGE: &str = "UpdateManifest";
        let missing = || Malformed { message: MESSAGE, field: "meters", why: "they are missing".to_owned() };
        let meters = manifest.meters.ok_or_else(missing)?;
        Ok(Self {
            run: run(MESSAGE, &manifest.run)?,
            round: RoundNumber(manifest.round),
            site: site(MESSAGE, &manifest.site)?,
            plan: digest(MESSAGE, "plan", &manifest.plan)?,
            base: digest(MESSAGE, "base", &manifest.base)?,
            blob: digest(MESSAGE, "blob", &manifest.blob)?,
            bytes: manifest.blob_bytes,
            subjects: manifest.subjects,
            heads: heads(MESSAGE, manifest.heads)?,
            examples: manifest.examples,
            steps: manifest.steps,
            meters: Meters {
                loss: finite(MESSAGE, "meters.loss", meters.loss)?,
                teacher_entropy: finite(MESSAGE, "meters.teacher_entropy", meters.teacher_entropy)?,
                batch_entropy: finite(MESSAGE, "meters.batch_entropy", meters.batch_entropy)?,
                rank_me: finite(MESSAGE, "meters.rank_me", meters.rank_me)?,
            },
            attestation: manifest.attestation.map(|told| from_attestation(MESSAGE, &told)).transpose()?,
        })
    }
}

impl From<&UpdateManifest> for wire::UpdateManifest {
    fn from(manifest: &UpdateManifest) -> Self {
        Self {
            run: manifest.run.to_string(),
            round: manifest.round.0,
            site: manifest.site.to_string(),
            plan: digest_bytes(manifest.plan),
            base: digest_bytes(manifest.base),
            blob: digest_bytes(manifest.blob),
            blob_bytes: manifest.bytes,
            subjects: manifest.subjects,
            examples: manifest.examples,
            steps: manifest.steps,
            meters: Some(wire::Meters {
                loss: manifest.meters.loss,
                teacher_entropy: manifest.meters.teacher_entropy,
                batch_entropy: manifest.meters.batch_entropy,
                rank_me: manifest.meters.rank_me,
            }),
            heads: manifest.heads.iter().map(|(task, subjects)| wire_head(task, *subjects)).collect(),
            attestation: manifest.attestation.map(|attestation| wire::Attestation {
                ledger: attestation.ledger.map(to_signed_head),
                signature: Bytes::copy_from_slice(&attestation.signature.0),
            }),
        }
    }
}

fn task(message: &'static str, value: &str) -> Result<TaskName, Malformed> {
    TaskName::try_from(value.to_owned()).map_err(|error| Malformed { message, field: "task", why: error.to_string() })
}

fn heads(message: &'static str, heads: Vec<wire::Head>) -> Result<BTreeMap<TaskName, u32>, Malformed> {
    let mut all = BTreeMap::new();
    for head in heads {
        let task = task(message, &head.task)?;
        if all.last_key_value().is_some_and(|(before, _)| *before >= task) {
            let why = format!("{task} is out of order, or named twice");
            return Err(Malformed { message, field: "heads", why });
        }
        all.insert(task, head.subjects);
    }
    Ok(all)
}

fn wire_head(task: &TaskName, subjects: u32) -> wire::Head {
    wire::Head { task: task.to_string(), subjects }
}

/// What a site measured of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelScores {
    /// The run.
    pub run: RunId,
    /// The model.
    pub model: Digest,
    /// What was measured.
    pub scores: Vec<Score>,
}

impl TryFrom<wire::ScoresRequest> for Announced<ModelScores> {
    type Error = Malformed;
    fn try_from(request: wire::ScoresRequest) -> Result<Self, Malformed> {
        const MESSAGE: &str = "ScoresRequest";
        let score = |score: wire::Score| {
            Ok(Score {
                task: task(MESSAGE, &score.task)?,
                metric: text(MESSAGE, "metric", &score.metric)?,
                on: if score.held_out { MeasuredOn::HeldOut } else { MeasuredOn::Validation },
                value: finite(MESSAGE, "value", score.value)?,
                subjects: score.subjects,
            })
        };
        let value = ModelScores {
            run: run(MESSAGE, &request.run)?,
            model: digest(MESSAGE, "model", &request.model)?,
            scores: request.scores.into_iter().map(score).collect::<Result<_, _>>()?,
        };
        Ok(Self { site: site(MESSAGE, &request.site)?, value })
    }
}

impl From<Announced<ModelScores>> for wire::ScoresRequest {
    fn from(Announced { site, value }: Announced<ModelScores>) -> Self {
        let score = |score: Score| wire::Score {
            task: score.task.into(),
            metric: score.metric.name().to_owned(),
            held_out: score.on == MeasuredOn::HeldOut,
            value: score.value,
            subjects: score.subjects,
        };
        Self {
            run: value.run.into(),
            site: site.into(),
            model: digest_bytes(value.model),
            scores: value.scores.into_iter().map(score).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::task::Metric;

    use super::*;

    fn head() -> SignedHead {
        SignedHead { head: Head { entries: 8, digest: Digest::of(b"entry") }, signature: Ed25519([9; 64]) }
    }

    fn manifest() -> UpdateManifest {
        UpdateManifest {
            run: "run".parse().unwrap(),
            round: RoundNumber(3),
            site: "aalst".parse().unwrap(),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            blob: Digest::of(b"blob"),
            bytes: 9,
            subjects: 10,
            heads: BTreeMap::from([(task("", "cine").unwrap(), 5), (task("", "lge").unwrap(), 10)]),
            examples: 25,
            steps: 7,
            meters: Meters { loss: 5.5, teacher_entropy: 1.0, batch_entropy: 2.0, rank_me: 20.0 },
            attestation: Some(Attestation { ledger: Some(head()), signature: Ed25519([7; 64]) }),
        }
    }

    #[test]
    fn there_and_back_is_the_identity() {
        assert_eq!(UpdateManifest::try_from(wire::UpdateManifest::from(&manifest())).unwrap(), manifest());
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
        let declines = (1..=17).map(|code| Phase::Declined(decline(code.try_into().unwrap()).unwrap()));
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
            lineage: Some(Box::new(Lineage {
                round: RoundNumber(0),
                before: Digest::of(b"base"),
                signature: Ed25519([9; 64]),
            })),
            ledger: Some(Box::new(head())),
        };
        let directives = [
            Directive::Wait { because: "no run".to_owned() },
            Directive::Train(assignment),
            Directive::Finished { run: "run".parse().unwrap(), model: Digest::of(b"m"), bytes: 1 },
        ];
        for directive in directives {
            assert_eq!(Directive::try_from(wire::ReportReply::from(directive.clone())).unwrap(), directive);
        }
    }

    #[test]
    fn whoever_enrols_is_a_site_or_a_person_and_a_request_is_the_same_after_the_wire() {
        let odd = [("", ""), ("aalst", "observer/eve"), ("", "aalst"), ("coordinator/alice", ""), ("", "root/x")];
        for holder in ["aalst", "coordinator/alice"] {
            let asked = Enrolling {
                holder: holder.parse().unwrap(),
                csr_pem: "a request".to_owned(),
                signing_key: VerifyingKey([1; 32]),
                signing_proof: Ed25519([2; 64]),
                invitation_key: VerifyingKey([3; 32]),
                invitation_proof: Ed25519([4; 64]),
            };
            let wired = wire::EnrolRequest::from(asked.clone());
            assert_eq!(Enrolling::try_from(wired.clone()).unwrap(), asked);
            for (site, person) in odd {
                let odd = wire::EnrolRequest { site: site.to_owned(), person: person.to_owned(), ..wired.clone() };
                assert!(Enrolling::try_from(odd).is_err(), "{site} {person}");
            }
            let short = wire::EnrolRequest { invitation_proof: Bytes::from_static(&[4; 63]), ..wired };
            assert_eq!(Enrolling::try_from(short).unwrap_err().field, "invitation_proof");
        }
        let signed = PlanSignature { certificate_pem: "pem".to_owned(), signature: Ed25519([3; 64]) };
        assert_eq!(PlanSignature::try_from(wire::PlanSignature::from(signed.clone())).unwrap(), signed);
    }

    #[test]
    fn scores_come_back_as_they_were_sent() {
        let metrics = [Metric::Dice, Metric::Within5Mm, Metric::F1Macro, Metric::EjectionFraction, Metric::Hd95];
        let score = |metric| Score {
            task: task("", "cine-sax").unwrap(),
            metric,
            on: MeasuredOn::HeldOut,
            value: 0.5,
            subjects: 15,
        };
        let run = "run".parse().unwrap();
        let value = ModelScores { run, model: Digest::of(b"m"), scores: metrics.map(score).to_vec() };
        let sent = Announced { site: "aalst".parse().unwrap(), value };
        let mut wire = wire::ScoresRequest::from(sent.clone());
        assert_eq!(wire.scores[1].metric, "within5-mm");
        assert_eq!(Announced::<ModelScores>::try_from(wire.clone()).unwrap(), sent);
        wire.scores[0].metric = "beauty".to_owned();
        assert_eq!(Announced::<ModelScores>::try_from(wire).unwrap_err().field, "metric");
    }

    #[test]
    fn a_malformed_field_is_named() {
        let refused = |change: fn(&mut wire::UpdateManifest)| {
            let mut wire = wire::UpdateManifest::from(&manifest());
            change(&mut wire);
            UpdateManifest::try_from(wire).unwrap_err().field
        };
        assert_eq!(refused(|wire| wire.run = "../etc".to_owned()), "run");
        assert_eq!(refused(|wire| wire.site.clear()), "site");
        assert_eq!(refused(|wire| wire.blob = Bytes::from_static(b"short")), "blob");
        assert_eq!(refused(|wire| wire.meters = None), "meters");
        assert_eq!(refused(|wire| wire.heads.reverse()), "heads");
        assert_eq!(refused(|wire| wire.heads[0].task = "../etc".to_owned()), "task");
        assert_eq!(refused(|wire| wire.meters.as_mut().unwrap().loss = f64::NAN), "meters.loss");
    }
}
