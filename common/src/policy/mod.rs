//! What a site permits, whatever a plan asks, and what it says of a plan that asks more. A pure function of both.
//!
//! A plan is held to it before anything of it is fetched or trained, and [`crate::privacy`] holds each update to it once
//! more before it leaves. Nothing in a plan can widen it.

mod hours;

use serde::{Deserialize, Serialize};

use crate::assignment::Decline;
use crate::ids::RunId;
use crate::plan::Plan;
use crate::privacy::SUBJECTS_ROUNDED_TO;
use crate::signed::{Signer, VerifyingKey, distinct};

pub use crate::pattern::Patterns;
pub use hours::{Hours, NotHours};

/// `[policy]` of a site's settings. The default permits every plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SitePolicy {
    /// What runs may be for.
    pub purposes: Vec<Purpose>,
    /// Coordinators who must have signed a plan, with certificates of the federation's CA; a plan may ask for more.
    pub signatures: u32,
    /// Signing keys of the coordinators who count; every one that the CA certified if there is none here. With the keys compared
    /// by telephone, the CA is not believed in this.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<VerifyingKey>,
    /// Names of the tasks that a run may finetune.
    pub tasks: Patterns,
    /// Names of the tensors that may leave.
    pub tensors: Patterns,
    /// Fewest images in a batch: the smaller it is, the more one patient shapes a step.
    pub min_batch_size: usize,
    /// Fewest subjects whose update may leave: the smaller the count, the more one patient shapes the delta.
    pub min_subjects: u32,
    /// Fewest optimizer steps in an update, for the same reason.
    pub min_steps: u32,
    /// Bound on the delta's L2 norm; the plan's bound holds as well.
    pub max_delta_norm: f64,
    /// Least noise that a plan must add to an update, as its noise multiplier; 0 for none.
    pub min_noise_multiplier: f64,
    /// Whether what this site measures of a model may leave, as scalars and rounded counts, in a run that finetunes.
    pub scores: bool,
    /// Most rounds that are begun on one day, UTC; none for as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rounds_a_day: Option<u32>,
    /// When this site reads images and trains for a run; none for always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Most megabytes (10^6 bytes) sent in a second; none for as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_upload_mb_s: Option<f64>,
    /// Most megabytes fetched in a second; none for as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_download_mb_s: Option<f64>,
}

impl Default for SitePolicy {
    fn default() -> Self {
        Self {
            purposes: vec![Purpose::Pretraining, Purpose::Finetuning],
            signatures: 0,
            signers: Vec::new(),
            tasks: Patterns::all(),
            tensors: Patterns::all(),
            min_batch_size: 1,
            min_subjects: SUBJECTS_ROUNDED_TO,
            min_steps: 1,
            max_delta_norm: 1000.0,
            min_noise_multiplier: 0.0,
            scores: true,
            max_rounds_a_day: None,
            hours: None,
            max_upload_mb_s: None,
            max_download_mb_s: None,
        }
    }
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A foundation model by DINO, without labels.
    Pretraining,
    /// Clinical tasks, with the site's labels.
    Finetuning,
}

impl Purpose {
    /// What a plan is for.
    pub fn of(plan: &Plan) -> Self {
        if plan.draft.finetuning.is_some() { Self::Finetuning } else { Self::Pretraining }
    }

    /// As plans and settings say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretraining => "pretraining",
            Self::Finetuning => "finetuning",
        }
    }
}

/// What a plan asks beyond the policy, with the rule as it is written in the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// A run for something else.
    #[error("the run is for {}, which `policy.purposes` does not permit; add it there if this site agrees", .0.name())]
    Purpose(Purpose),
    /// Too few coordinators have signed.
    #[error(
        "{found} coordinators who count here have signed the plan, but {needed} must have (`policy.signatures` of this site, or \
         `signatures` of the plan); another coordinator signs with `aggregator run sign {run}`"
    )]
    Signatures {
        /// Whose signatures are missing.
        run: RunId,
        /// How many count.
        found: usize,
        /// How many must.
        needed: u32,
    },
    /// A task that is not on the list.
    #[error("the run finetunes {0}, which `policy.tasks` does not permit; add it there if this site agrees")]
    Task(String),
    /// Batches of few images.
    #[error(
        "the run trains on batches of {found}, but `policy.min_batch_size` is {minimum}; ask for larger ones, or lower it"
    )]
    BatchSize {
        /// The plan's.
        found: usize,
        /// The site's.
        minimum: usize,
    },
    /// Updates of few steps.
    #[error(
        "the run sends an update every {found} steps, but `policy.min_steps` is {minimum}; ask for longer rounds, or lower it"
    )]
    Steps {
        /// The plan's.
        found: usize,
        /// The site's.
        minimum: u32,
    },
    /// Updates with less noise.
    #[error(
        "the run adds noise of multiplier {found} to an update, but `policy.min_noise_multiplier` is {minimum}; ask for more, or \
         lower it"
    )]
    Noise {
        /// The plan's.
        found: String,
        /// The site's.
        minimum: String,
    },
    /// A tensor that must stay.
    #[error("the run sends the tensor {0}, which `policy.tensors` does not permit; add it there if this site agrees")]
    Tensor(String),
    /// Enough for one day.
    #[error(
        "this site began {0} rounds today, and `policy.max_rounds_a_day` permits no more; it goes on after midnight, UTC"
    )]
    RoundsADay(u32),
}

impl Objection {
    /// The word that the coordinator hears: which rule, and nothing else.
    pub fn decline(&self) -> Decline {
        match self {
            Self::Purpose(_) => Decline::PolicyPurposes,
            Self::Signatures { .. } => Decline::PolicySignatures,
            Self::Task(_) => Decline::PolicyTasks,
            Self::BatchSize { .. } => Decline::PolicyBatchSize,
            Self::Steps { .. } => Decline::PolicySteps,
            Self::Noise { .. } => Decline::PolicyNoise,
            Self::Tensor(_) => Decline::PolicyTensors,
            Self::RoundsADay(_) => Decline::PolicyRoundsADay,
        }
    }
}

impl SitePolicy {
    /// Everything that a plan asks beyond this policy, in the order of the rules; of each rule the first instance.
    pub fn objections(&self, plan: &Plan) -> Vec<Objection> {
        let purpose = Purpose::of(plan);
        let mut found = Vec::new();
        if !self.purposes.contains(&purpose) {
            found.push(Objection::Purpose(purpose));
        }
        let task = plan.tasks().find(|task| !self.tasks.match_name(task.as_str()));
        found.extend(task.map(|task| Objection::Task(task.to_string())));
        let size = smallest_batch(plan);
        if size < self.min_batch_size {
            found.push(Objection::BatchSize { found: size, minimum: self.min_batch_size });
        }
        let steps = plan.draft.training.steps_per_round;
        if u32::try_from(steps).is_ok_and(|steps| steps < self.min_steps) {
            found.push(Objection::Steps { found: steps, minimum: self.min_steps });
        }
        let noise = plan.draft.privacy.noise_multiplier;
        if noise < self.min_noise_multiplier {
            found.push(Objection::Noise { found: noise.to_string(), minimum: self.min_noise_multiplier.to_string() });
        }
        let mut leaving = plan.signature.iter().map(|(name, _)| name).filter(|name| plan.travels(name));
        let tensor = leaving.find(|name| !self.tensors.match_name(name));
        found.extend(tensor.map(|tensor| Objection::Tensor(tensor.to_owned())));
        found
    }

    /// Whether enough different coordinators who count here have signed a plan: as many as this site asks for, and as many as
    /// the plan itself does. `signers` were verified against the federation's CA.
    pub fn signed(&self, plan: &Plan, signers: &[Signer]) -> Result<(), Objection> {
        let needed = self.signatures.max(plan.draft.signatures);
        let counts = |signer: &&Signer| self.signers.is_empty() || self.signers.contains(&signer.key);
        let found = distinct(signers.iter().filter(counts)).len();
        match found < needed as usize {
            true => Err(Objection::Signatures { run: plan.run().clone(), found, needed }),
            false => Ok(()),
        }
    }

    /// Whether a further round may begin on a day on which `begun` did.
    pub fn another_round(&self, begun: u32) -> Result<(), Objection> {
        match self.max_rounds_a_day {
            Some(most) if begun >= most => Err(Objection::RoundsADay(begun)),
            _ => Ok(()),
        }
    }
}

/// A run that finetunes trains each task on batches of its own.
fn smallest_batch(plan: &Plan) -> usize {
    let tasks = plan.draft.finetuning.iter().flat_map(|finetuning| &finetuning.tasks);
    tasks.map(|task| task.training.batch_size).min().unwrap_or(plan.draft.training.batch_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::plan::tests::{draft, finetuning};
    use crate::weights::Signature;

    fn pretrains() -> Plan {
        let names = ["center", "student.backbone.cls_token", "teacher.backbone.cls_token"];
        draft().with_first_model(signature(&names), Digest::of(b"model"))
    }

    fn finetunes(frozen_backbone: bool) -> Plan {
        let mut draft = draft();
        draft.finetuning = Some(finetuning(&["cine-sax", "disease"]));
        draft.finetuning.as_mut().unwrap().frozen_backbone = frozen_backbone;
        let names = ["backbone.norm.bias", "heads.cine-sax.last.weight", "heads.disease.last.weight"];
        draft.with_first_model(signature(&names), Digest::of(b"model"))
    }

    fn signature(names: &[&str]) -> Signature {
        Signature::new(names.iter().map(|name| ((*name).to_owned(), vec![2]))).unwrap()
    }

    fn policy(written: &str) -> SitePolicy {
        toml::from_str(written).unwrap()
    }

    #[test]
    fn rule_by_rule_a_plan_that_asks_more_is_refused_by_that_rule_and_one_that_does_not_is_permitted() {
        let (pretrains, finetunes, frozen) = (pretrains(), finetunes(false), finetunes(true));
        let (mut noisy, mut local) = (pretrains.clone(), pretrains.clone());
        noisy.draft.privacy.noise_multiplier = 1.0;
        local.draft.aggregation.keep_local = toml::Value::from(vec!["center"]).try_into().unwrap();
        // The policy; a plan that it permits; one that it refuses, by which rule, and what a person reads.
        let table = [
            ("purposes = ['finetuning']", &finetunes, &pretrains, Decline::PolicyPurposes, "for pretraining"),
            ("purposes = ['pretraining']", &pretrains, &frozen, Decline::PolicyPurposes, "for finetuning"),
            ("purposes = []\ntasks = ['no']", &pretrains, &pretrains, Decline::PolicyPurposes, "policy.purposes"),
            ("tasks = ['cine-*', 'disease']", &finetunes, &finetunes, Decline::PolicyTasks, ""),
            ("tasks = ['cine-*']", &pretrains, &finetunes, Decline::PolicyTasks, "finetunes disease"),
            ("min_batch_size = 33", &pretrains, &finetunes, Decline::PolicyBatchSize, "batches of 32"),
            ("min_batch_size = 65", &pretrains, &pretrains, Decline::PolicyBatchSize, "batches of 64, but `policy"),
            ("min_steps = 101", &pretrains, &pretrains, Decline::PolicySteps, "every 100 steps"),
            ("min_noise_multiplier = 0.5", &noisy, &pretrains, Decline::PolicyNoise, "multiplier 0 to an update"),
            ("min_noise_multiplier = 1.5", &noisy, &noisy, Decline::PolicyNoise, "multiplier 1 to an update, but"),
            ("tensors = ['student.*', 'teacher.*']", &local, &pretrains, Decline::PolicyTensors, "the tensor center"),
            ("tensors = ['student.*']", &pretrains, &pretrains, Decline::PolicyTensors, "the tensor center"),
            ("tensors = ['heads.*']", &frozen, &finetunes, Decline::PolicyTensors, "backbone.norm.bias"),
        ];
        for (written, permitted, refused, rule, told) in table {
            let policy = policy(written);
            let objections = policy.objections(refused);
            let Some(first) = objections.first() else {
                assert!(told.is_empty(), "{written} permits what it should not");
                continue;
            };
            assert_eq!(first.decline(), rule, "{written}");
            assert!(first.to_string().contains(told) && !told.is_empty(), "{written}: {first}");
            if permitted != refused {
                assert!(policy.objections(permitted).is_empty(), "{written}: {:?}", policy.objections(permitted));
            }
        }
        for plan in [&pretrains, &finetunes, &frozen] {
            assert!(SitePolicy::default().objections(plan).is_empty(), "the default permits every plan");
        }
    }

    #[test]
    fn a_plan_with_a_wider_bound_or_any_other_setting_changes_nothing_of_what_a_policy_says() {
        let strict = policy(
            "purposes = []\ntasks = []\ntensors = []\nmin_batch_size = 1000\nmin_steps = 100000\nmin_noise_multiplier = 1",
        );
        let mut plan = finetunes(false);
        let before = strict.objections(&plan);
        assert_eq!(before.len(), 6, "{before:?}");
        (plan.draft.privacy.max_delta_norm, plan.draft.rounds.quorum) = (1e12, 1);
        (plan.draft.training.batch_size, plan.draft.seed) = (1_000_000, 9);
        assert_eq!(strict.objections(&plan), before);
    }

    #[test]
    fn a_plan_needs_the_signatures_that_the_site_or_the_plan_asks_for_whichever_are_more() {
        let signer = |name: &str, key: u8| Signer { coordinator: name.parse().unwrap(), key: VerifyingKey([key; 32]) };
        let (alice, bob, carol) = (signer("alice", 1), signer("bob", 2), signer("carol", 3));
        let twice = signer("bob", 1);
        let pinned = format!("signatures = 2\nsigners = ['{}', '{}']", alice.key, carol.key);
        // The policy, what the plan asks, who signed, and whether that will do.
        let table: [(&str, u32, &[&Signer], bool); 12] = [
            ("", 0, &[], true),
            ("signatures = 1", 0, &[], false),
            ("signatures = 1", 0, &[&alice], true),
            ("signatures = 2", 0, &[&alice], false),
            ("signatures = 2", 1, &[&alice, &bob], true),
            ("signatures = 2", 0, &[&alice, &alice], false),
            ("signatures = 2", 0, &[&alice, &twice], false),
            ("", 2, &[&alice], false),
            ("signatures = 1", 2, &[&alice], false),
            ("", 2, &[&bob, &alice], true),
            (&pinned, 0, &[&alice, &bob], false),
            (&pinned, 0, &[&bob, &alice, &carol], true),
        ];
        for (place, (written, asked, signers, expected)) in table.into_iter().enumerate() {
            let mut plan = pretrains();
            plan.draft.signatures = asked;
            let signers: Vec<Signer> = signers.iter().copied().cloned().collect();
            let said = policy(written).signed(&plan, &signers);
            assert_eq!(said.is_ok(), expected, "case {place}: {said:?}");
            if let Err(objection) = said {
                assert_eq!(objection.decline(), Decline::PolicySignatures);
                assert!(objection.to_string().contains("`aggregator run sign pretrain`"), "{objection}");
            }
        }
    }

    #[test]
    fn the_last_round_of_a_day_is_the_one_that_reaches_the_most() {
        let two = policy("max_rounds_a_day = 2");
        assert!(two.another_round(0).is_ok() && two.another_round(1).is_ok());
        assert_eq!(two.another_round(2).unwrap_err().decline(), Decline::PolicyRoundsADay);
        assert!(SitePolicy::default().another_round(u32::MAX).is_ok());
        assert!(policy("max_rounds_a_day = 0").another_round(0).is_err());
    }

    #[test]
    fn what_is_written_comes_back_and_a_rule_that_nobody_knows_is_refused_by_name() {
        let written = policy("hours = '20:00-06:00 +01:00'\nmax_upload_mb_s = 0.5\ntensors = ['student.*']");
        let again: SitePolicy = toml::from_str(&toml::to_string(&written).unwrap()).unwrap();
        assert_eq!(again, written);
        let unknown = toml::from_str::<SitePolicy>("min_noise = 1.0").unwrap_err().to_string();
        assert!(unknown.contains("min_noise"), "{unknown}");
    }
}
