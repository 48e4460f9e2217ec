//! What a site sends of a round: an update's manifest, and what it measured.

use std::collections::BTreeMap;

use common::score::MeasuredOn;
use common::{Digest, Meters, RoundNumber, RunId, Score, TaskName, UpdateManifest};

use super::signatures::{from_attestation, to_attestation};
use super::{Announced, Malformed, digest, digest_bytes, finite, run, site, task, text};
use crate::wire;

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
            attestation: manifest.attestation.map(to_attestation),
        }
    }
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
    use bytes::Bytes;
    use common::ledger::Head;
    use common::signed::{Attestation, Ed25519, SignedHead};
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
    fn a_manifest_is_the_same_after_the_wire() {
        assert_eq!(UpdateManifest::try_from(wire::UpdateManifest::from(&manifest())).unwrap(), manifest());
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
