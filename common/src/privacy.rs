//! What is done to an update before it leaves a site. It fails closed.
//!
//! Filters take an [`Update`] and return one, or say why it is [`Withheld`]; there is no "not applicable". Only
//! [`Pipeline::seal`] builds a [`SealedUpdate`], the one type that the wire accepts. A site's own policy may be
//! stricter than the plan, never looser.

use crate::assignment::Decline;
use crate::fixed_point::MAX_MAGNITUDE;
use crate::ids::{Digest, DigestBuilder};
use crate::noise;
use crate::plan::{Plan, PlanError, ShareBy};
use crate::policy::SitePolicy;
use crate::update::{SealedUpdate, Update, UpdateManifest};
use crate::weights::{NamedTensors, WeightsError};

/// Subject counts leave a site rounded down to a multiple of this.
pub const SUBJECTS_ROUNDED_TO: u32 = 5;

/// What the norm of a delta may exceed its bound by, as a fraction of it: scaling in 32-bit floats rounds.
const NORM_ROUNDING: f64 = 5e-7;

/// Why an update stays at the site.
#[derive(Debug, thiserror::Error)]
pub enum Withheld {
    /// Heads that the plan does not have.
    #[error("update withheld: {0}")]
    Heads(PlanError),
    /// Other tensors than the plan says may travel, or values that are not finite.
    #[error("update withheld: {0}")]
    Tensors(#[from] WeightsError),
    /// Too few subjects, in all or behind one head.
    #[error(
        "update withheld: it, or a head of it, comes from fewer subjects than this site's minimum of {minimum}; index more images or change `policy.min_subjects`"
    )]
    TooFewSubjects {
        /// The site's minimum.
        minimum: u32,
    },
    /// Too few images for their count to leave.
    #[error(
        "update withheld: it comes from {examples} images, fewer than the {SUBJECTS_ROUNDED_TO} whose count may leave; index more"
    )]
    TooFewExamples {
        /// Images trained from.
        examples: u32,
    },
    /// Too few steps.
    #[error("update withheld: {steps} optimizer steps are fewer than this site's minimum of {minimum}")]
    TooFewSteps {
        /// Steps taken.
        steps: u32,
        /// The site's minimum.
        minimum: u32,
    },
    /// A tensor that the site's policy keeps here.
    #[error("update withheld: it holds the tensor {0}, which `policy.tensors` does not permit")]
    TensorStays(String),
    /// A meter that is NaN or infinite.
    #[error("update withheld: a meter is not a finite number; the training diverged")]
    Meters,
    /// Nothing to draw the plan's noise from.
    #[error("update withheld: the plan asks for noise, and this site's secret to draw it from is not there")]
    NoSecret,
    /// A step so large that it cannot be merged.
    #[error(
        "update withheld: tensor {tensor} moved by {moved} in one round, more than {MAX_MAGNITUDE}; lower the learning rate, or `privacy.noise_multiplier`"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// The largest magnitude in it.
        moved: f32,
    },
}

impl Withheld {
    /// The word that the coordinator hears: the policy's rule where it was one, and nothing of what was withheld.
    pub fn decline(&self) -> Decline {
        match self {
            Self::TooFewSubjects { .. } | Self::TooFewExamples { .. } => Decline::PolicySubjects,
            Self::TooFewSteps { .. } => Decline::PolicySteps,
            Self::TensorStays(_) => Decline::PolicyTensors,
            Self::Heads(_) | Self::Tensors(_) | Self::Meters | Self::NoSecret | Self::TooLarge { .. } => {
                Decline::Withheld
            }
        }
    }
}

/// The filters that every update passes, in order.
#[derive(Clone, Debug)]
pub struct Pipeline {
    plan: Plan,
    max_delta_norm: f64,
    policy: SitePolicy,
    noise_key: Option<NoiseKey>,
}

/// What a site draws its noise from. Who has it can take the noise off again: it never leaves the site.
#[derive(Clone, Copy)]
pub struct NoiseKey([u8; 32]);

impl NoiseKey {
    /// The key of a site, from a secret of its own.
    pub fn of(secret: &[u8]) -> Self {
        let mut digest = DigestBuilder::default();
        digest.update(b"cmrfed noise key 1\n");
        digest.update(secret);
        Self(digest.finish().0)
    }

    /// The seed of one update's noise. The same update has the same noise, so that one that is made again after a crash is
    /// the same to the bit, and no average over repetitions takes the noise off. Another delta has another noise, though it be of the same
    /// round: two with one noise would differ by what no noise is on.
    fn seed(&self, update: &Update) -> [u8; 32] {
        let mut digest = DigestBuilder::default();
        digest.update(&self.0);
        // All of one length, so that no two updates make the same bytes.
        digest.update(&Digest::of(update.run.as_str().as_bytes()).0);
        digest.update(&update.plan.0);
        digest.update(&update.base.0);
        digest.update(&update.round.0.to_le_bytes());
        digest.update(&update.delta.digest().0);
        digest.finish().0
    }
}

impl std::fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoiseKey")
    }
}

impl Pipeline {
    /// The pipeline of a plan under a site's policy: the stricter of both bounds holds.
    pub fn new(plan: &Plan, policy: SitePolicy) -> Self {
        let max_delta_norm = plan.draft.privacy.max_delta_norm.min(policy.max_delta_norm);
        Self { plan: plan.clone(), max_delta_norm, policy, noise_key: None }
    }

    /// Draws the plan's noise from this key. A plan that asks for noise seals nothing without.
    pub fn with_noise_from(self, key: NoiseKey) -> Self {
        Self { noise_key: Some(key), ..self }
    }

    /// The only door out of a site.
    pub fn seal(&self, update: Update) -> Result<SealedUpdate, Withheld> {
        let update = self.only_the_plans_tensors(update)?;
        let update = self.enough_subjects_and_steps(update)?;
        let update = finite(update)?;
        let update = clip(update, self.max_delta_norm);
        let update = self.noisy(update)?;
        let (blob, sent) = self.encoded(&update.delta)?;
        mergeable(&sent)?;
        let residual = self.plan.draft.aggregation.encoding.has_residual().then(|| update.delta.minus(&sent));
        let manifest = UpdateManifest {
            run: update.run,
            round: update.round,
            site: update.site,
            plan: update.plan,
            base: update.base,
            blob: Digest::of(&blob),
            bytes: blob.len() as u64,
            subjects: rounded(update.subjects),
            heads: update.heads.into_iter().map(|(task, subjects)| (task, rounded(subjects))).collect(),
            examples: match self.plan.draft.aggregation.share_by {
                ShareBy::Subjects => 0,
                ShareBy::Examples => rounded(update.examples),
            },
            steps: update.steps,
            meters: update.meters,
            attestation: None,
        };
        Ok(SealedUpdate { manifest, blob, residual: residual.transpose()? })
    }

    /// The delta's file, and what it holds for a reader. Rounding may lengthen a delta: what is sent keeps the bound.
    fn encoded(&self, delta: &NamedTensors) -> Result<(Vec<u8>, NamedTensors), Withheld> {
        let encoding = self.plan.draft.aggregation.encoding;
        let (mut delta, signature) = (delta.clone(), delta.signature());
        let privacy = &self.plan.draft.privacy;
        let bound = match privacy.noise_multiplier > 0.0 {
            true => privacy.max_sent_norm(signature.value_count()),
            false => self.max_delta_norm,
        };
        loop {
            let file = encoding.encode(&delta);
            let sent = encoding.decode(&file, &signature).map_err(|error| WeightsError::Format(error.to_string()))?;
            let norm = sent.l2_norm();
            if norm <= bound * (1.0 + NORM_ROUNDING) || !norm.is_finite() {
                return Ok((file, sent));
            }
            // A little shorter than the bound, so that the next rounding meets it, or the one after that.
            scale(&mut delta, bound / norm * (1.0 - NORM_ROUNDING));
        }
    }

    fn only_the_plans_tensors(&self, update: Update) -> Result<Update, Withheld> {
        let heads = update.heads.keys().cloned().collect();
        let expected = self.plan.update_signature(&heads).map_err(Withheld::Heads)?;
        expected.require(&update.delta.signature())?;
        if let Some((name, _)) = update.delta.iter().find(|(name, _)| !self.policy.tensors.match_name(name)) {
            return Err(Withheld::TensorStays(name.to_owned()));
        }
        Ok(update)
    }

    fn enough_subjects_and_steps(&self, update: Update) -> Result<Update, Withheld> {
        // The rounded count must not be 0: it would tell that there are fewer than the rounding.
        let minimum = self.policy.min_subjects.max(SUBJECTS_ROUNDED_TO);
        let fewest = update.heads.values().copied().fold(update.subjects, u32::min);
        if fewest < minimum {
            return Err(Withheld::TooFewSubjects { minimum });
        }
        if self.plan.draft.aggregation.share_by == ShareBy::Examples && update.examples < SUBJECTS_ROUNDED_TO {
            return Err(Withheld::TooFewExamples { examples: update.examples });
        }
        let minimum = self.policy.min_steps;
        if update.steps < minimum {
            return Err(Withheld::TooFewSteps { steps: update.steps, minimum });
        }
        Ok(update)
    }

    /// The Gaussian mechanism (Dwork and Roth 2014, Appendix A) on what is clipped: the site's own hand, before anybody else
    /// sees the update.
    fn noisy(&self, mut update: Update) -> Result<Update, Withheld> {
        let deviation = self.plan.draft.privacy.noise_deviation();
        if deviation > 0.0 {
            let seed = self.noise_key.ok_or(Withheld::NoSecret)?.seed(&update);
            noise::add(&mut update.delta, deviation, seed);
        }
        Ok(update)
    }
}

fn rounded(subjects: u32) -> u32 {
    subjects / SUBJECTS_ROUNDED_TO * SUBJECTS_ROUNDED_TO
}

fn finite(update: Update) -> Result<Update, Withheld> {
    update.delta.require_finite()?;
    if update.meters.can_be() { Ok(update) } else { Err(Withheld::Meters) }
}

/// Scales the delta down to the bound, over all tensors together (McMahan et al. 2018, flat clipping).
fn clip(mut update: Update, bound: f64) -> Update {
    let norm = update.delta.l2_norm();
    if norm > bound {
        scale(&mut update.delta, bound / norm);
    }
    update
}

fn scale(delta: &mut NamedTensors, factor: f64) {
    let factor = factor as f32;
    delta.iter_mut().for_each(|(_, values)| values.iter_mut().for_each(|value| *value *= factor));
}

fn mergeable(sent: &NamedTensors) -> Result<(), Withheld> {
    for (name, tensor) in sent.iter() {
        let moved = tensor.values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        if moved > MAX_MAGNITUDE {
            return Err(Withheld::TooLarge { tensor: name.to_owned(), moved });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::RoundNumber;
    use crate::update::Meters;
    use crate::{Encoding, TaskName};

    fn pipeline(policy: SitePolicy, max_delta_norm: f64) -> Pipeline {
        let plan = crate::plan::tests::draft().with_first_model(delta(&[0.0; 2]).signature(), Digest::of(b"model"));
        Pipeline { max_delta_norm, ..Pipeline::new(&plan, policy) }
    }

    fn delta(values: &[f32]) -> NamedTensors {
        let mut delta = NamedTensors::new();
        delta.insert("w", vec![values.len()], values.to_vec());
        delta
    }

    fn update(values: &[f32]) -> Update {
        Update {
            run: "run".parse().unwrap(),
            round: RoundNumber(1),
            site: "aalst".parse().unwrap(),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            subjects: 13,
            heads: BTreeMap::new(),
            examples: 93,
            steps: 10,
            meters: Meters::default(),
            delta: delta(values),
        }
    }

    #[test]
    fn a_sealed_update_carries_a_rounded_count_and_the_digest_of_its_bytes() {
        let sealed = pipeline(SitePolicy::default(), 10.0).seal(update(&[1.0, -2.0])).unwrap();
        assert_eq!(sealed.manifest().subjects, 10);
        assert_eq!(sealed.manifest().blob, Digest::of(sealed.blob()));
    }

    #[test]
    fn a_delta_longer_than_the_bound_is_scaled_to_it() {
        let sealed = pipeline(SitePolicy::default(), 0.5).seal(update(&[3.0, 4.0])).unwrap();
        let sent = NamedTensors::from_safetensors(sealed.blob()).unwrap();
        assert!((sent.l2_norm() - 0.5).abs() < 1e-6);
    }

    #[test]
    fn an_update_that_cannot_be_filtered_stays_at_the_site() {
        let normal = pipeline(SitePolicy::default(), 1e3);
        assert!(matches!(normal.seal(update(&[1.0])), Err(Withheld::Tensors(_))));
        assert!(matches!(normal.seal(update(&[1.0, f32::NAN])), Err(Withheld::Tensors(_))));
        assert!(matches!(normal.seal(update(&[1.0, 8.5])), Err(Withheld::TooLarge { .. })));
        let few = normal.seal(Update { subjects: 4, ..update(&[1.0, 1.0]) });
        assert!(matches!(few, Err(Withheld::TooFewSubjects { minimum: 5 })));
        let lax = pipeline(SitePolicy { min_subjects: 0, ..SitePolicy::default() }, 1e9);
        assert!(
            lax.seal(Update { subjects: 4, ..update(&[1.0, 1.0]) }).is_err(),
            "a policy cannot go below the rounding"
        );
        let strict = pipeline(SitePolicy { min_steps: 11, ..SitePolicy::default() }, 1e9);
        assert!(matches!(strict.seal(update(&[1.0, 1.0])), Err(Withheld::TooFewSteps { .. })));
        let kept = SitePolicy { tensors: toml::Value::from(vec!["v*"]).try_into().unwrap(), ..SitePolicy::default() };
        let stays = pipeline(kept, 1e9).seal(update(&[1.0, 1.0]));
        assert!(matches!(stays, Err(Withheld::TensorStays(name)) if name == "w"));
        let meters = Meters { loss: f64::INFINITY, ..Meters::default() };
        assert!(matches!(normal.seal(Update { meters, ..update(&[1.0, 1.0]) }), Err(Withheld::Meters)));
    }

    #[test]
    fn whatever_the_encoding_what_is_sent_keeps_the_bound_and_what_is_owed_is_what_was_not_sent() {
        let values: Vec<f32> = (0..600).map(|place| ((place * 37 % 101) as f32 - 50.0) / 10.0).collect();
        for encoding in [Encoding::F32, Encoding::Bf16, Encoding::F16, Encoding::Int8, Encoding::TopK(0.05)] {
            let mut draft = crate::plan::tests::draft();
            draft.aggregation.encoding = encoding;
            draft.privacy.max_delta_norm = 20.0;
            let plan = draft.with_first_model(delta(&values).signature(), Digest::of(b"model"));
            let sealed = Pipeline::new(&plan, SitePolicy::default()).seal(update(&values)).unwrap();
            assert_eq!(sealed.manifest().bytes, sealed.blob().len() as u64);
            let sent = encoding.decode(sealed.blob(), &plan.signature).unwrap();
            assert!(sent.l2_norm() <= 20.0 * (1.0 + 1e-6), "{encoding:?}: {}", sent.l2_norm());
            let Some(residual) = sealed.residual() else {
                assert!(!encoding.has_residual() && sent.l2_norm() > 19.9, "{encoding:?}: {}", sent.l2_norm());
                continue;
            };
            let clipped = clip(update(&values), 20.0).delta;
            assert_eq!(clipped.minus(&sent).unwrap(), *residual, "{encoding:?}");
        }
    }

    #[test]
    fn a_plans_noise_is_on_what_leaves_the_same_for_one_update_another_for_every_other_and_none_leaves_without_it() {
        let values = vec![0.001; 20_000];
        let mut draft = crate::plan::tests::draft();
        (draft.privacy.max_delta_norm, draft.privacy.noise_multiplier) = (0.1, 2.0);
        let plan = draft.with_first_model(delta(&values).signature(), Digest::of(b"model"));
        let without = Pipeline::new(&plan, SitePolicy::default());
        assert!(matches!(without.seal(update(&values)), Err(Withheld::NoSecret)));
        let own = |secret: &[u8]| without.clone().with_noise_from(NoiseKey::of(secret));
        let sent = |pipeline: &Pipeline, update: Update| {
            NamedTensors::from_safetensors(pipeline.seal(update).unwrap().blob()).unwrap()
        };
        let first = sent(&own(b"a"), update(&values));
        assert_eq!(sent(&own(b"a"), update(&values)), first, "made again after a crash");
        let next = Update { round: RoundNumber(2), ..update(&values) };
        let (next, other) = (sent(&own(b"a"), next), sent(&own(b"b"), update(&values)));
        // A machine that was restored trains an open round again, and comes to another delta.
        let mut values_again = values.clone();
        values_again[7] += 1e-6;
        let again = sent(&own(b"a"), update(&values_again));
        let renamed = sent(&own(b"a"), Update { run: "another".parse().unwrap(), ..update(&values) });
        let clipped = clip(update(&values), 0.1).delta;
        let noise = |sent: &NamedTensors| sent.clone().minus(&clipped).unwrap();
        for sent in [&first, &next, &other, &again, &renamed] {
            // Each value has deviation 0.2; the mean of their squares is within 5 deviations of that.
            let mean_square = noise(sent).l2_norm().powi(2) / 20_000.0;
            assert!((mean_square / 0.04 - 1.0).abs() < 5.0 * (2.0_f64 / 20_000.0).sqrt(), "{mean_square}");
            assert!(sent.l2_norm() <= plan.draft.privacy.max_sent_norm(20_000));
        }
        // Of independent noises, the difference is as long as both together.
        for other in [&next, &other, &again, &renamed] {
            let apart = first.clone().minus(other).unwrap().l2_norm().powi(2) / 20_000.0;
            assert!((apart / 0.08 - 1.0).abs() < 0.06, "{apart}");
        }
    }

    #[test]
    fn a_count_of_images_leaves_only_if_shares_are_counted_by_it_and_in_fives() {
        let plain = pipeline(SitePolicy::default(), 10.0).seal(update(&[1.0, 1.0])).unwrap();
        assert_eq!(plain.manifest().examples, 0);
        let mut draft = crate::plan::tests::draft();
        draft.aggregation.share_by = ShareBy::Examples;
        let plan = draft.with_first_model(delta(&[0.0; 2]).signature(), Digest::of(b"model"));
        let counted = Pipeline::new(&plan, SitePolicy::default());
        assert_eq!(counted.seal(update(&[1.0, 1.0])).unwrap().manifest().examples, 90);
        let few = counted.seal(Update { examples: 4, ..update(&[1.0, 1.0]) });
        assert!(matches!(few, Err(Withheld::TooFewExamples { examples: 4 })));
    }

    #[test]
    fn a_head_of_few_subjects_stays_and_one_that_the_delta_lacks_is_no_update() {
        let mut draft = crate::plan::tests::draft();
        draft.finetuning = Some(crate::plan::tests::finetuning(&["lge", "cine"]));
        let of = |names: &[&str]| {
            let mut tensors = NamedTensors::new();
            names.iter().for_each(|name| tensors.insert(*name, vec![1], vec![0.5]));
            tensors
        };
        let all = ["backbone.norm.bias", "heads.lge.last.weight", "heads.cine.last.weight"];
        let plan = draft.with_first_model(of(&all).signature(), Digest::of(b"model"));
        let pipeline = Pipeline::new(&plan, SitePolicy::default());
        let heads = |subjects| BTreeMap::from([(TaskName::try_from("lge".to_owned()).unwrap(), subjects)]);
        let update = Update { heads: heads(9), delta: of(&all[..2]), ..update(&[]) };
        let sealed = pipeline.seal(update.clone()).unwrap();
        assert_eq!(sealed.manifest().heads, heads(5));
        let few = pipeline.seal(Update { heads: heads(4), ..update.clone() });
        assert!(matches!(few, Err(Withheld::TooFewSubjects { .. })));
        let more = pipeline.seal(Update { delta: of(&all), ..update.clone() });
        assert!(matches!(more, Err(Withheld::Tensors(_))), "the head of a task that the site has no labels for");
        assert!(pipeline.seal(Update { heads: BTreeMap::new(), ..update }).is_err());
    }
}
