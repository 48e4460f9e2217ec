//! The plan of a run: what all parties agree on before anything trains, and its digest.
//!
//! Data only, never code. Two levels: [`PlanDraft`] is what a coordinator writes (TOML, unknown keys refused), [`Plan`]
//! is what it means once the first model is known: its tensor signature and digest are part of the plan. The plan's
//! SHA-256 is what sites approve and every message carries.

mod bounds;
mod changing;
mod defaults;
mod draft;
mod remarks;
mod size;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::encoding::Encoding;
use crate::ids::{Digest, RoundNumber, RunId};
use crate::task::{TaskError, TaskName};
use crate::weights::Signature;

pub use defaults::EXAMPLE;
pub use draft::{
    Adaptive, AggregationPlan, Centering, CropPlan, Exchange, FinetuningPlan, HeadPlan, ImagePlan, Init, ModelPlan,
    Optimizer, PlanDraft, PrivacyPlan, RoundPlan, ShareBy, Strategy, TrainingPlan,
};

/// A run, agreed: the draft plus the first model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the coordinator wrote.
    pub draft: PlanDraft,
    /// Names and shapes of every tensor that travels.
    pub signature: Signature,
    /// SHA-256 of the first model's file.
    pub first_model: Digest,
}

/// Why a plan cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A value outside its bounds.
    #[error("plan: {key} is {value}, but must be {bound}")]
    OutOfBounds {
        /// The key as written, with its section.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What is permitted.
        bound: String,
    },
    /// A task that cannot be done as it is declared.
    #[error("plan: finetuning, task {name}: {source}")]
    Task {
        /// The task.
        name: TaskName,
        /// What is wrong.
        source: TaskError,
    },
    /// The first model has no head for a task, or one that no task asks.
    #[error("plan: {0}: make the first model of this very plan with `site-agent init-model`")]
    Heads(String),
    /// The first model cannot be the plan's network.
    #[error(
        "plan: the first model has {found} values {what}, but the network that the plan describes has {expected}: make the first \
         model of this very plan with `site-agent init-model <plan> --out <file>`"
    )]
    Size {
        /// Values that count.
        found: u64,
        /// Which do.
        what: &'static str,
        /// Values of the network.
        expected: u64,
    },
    /// Not a plan's canonical bytes.
    #[error("these bytes are not a plan: {0}")]
    NotAPlan(#[from] serde_json::Error),
    /// The bytes of a plan do not have the digest that was agreed.
    #[error("the plan's digest is {found}, but {expected} was agreed: ask the coordinator which plan is meant")]
    DigestDiffers {
        /// The digest that was agreed.
        expected: Digest,
        /// The digest of the bytes at hand.
        found: Digest,
    },
}

impl Plan {
    /// The bytes whose SHA-256 is the plan's digest: JSON with the fields in the order they are declared in.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        // A plan holds strings, numbers and lists only, and `check` refuses numbers that JSON cannot write.
        serde_json::to_vec(self).expect("a plan is writable as JSON")
    }

    /// What sites approve and every message carries.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical_bytes())
    }

    /// Reads a plan received from elsewhere, and holds it to the digest that was agreed.
    pub fn from_agreed_bytes(bytes: &[u8], agreed: Digest) -> Result<Self, PlanError> {
        let plan = Self::from_kept_bytes(bytes, agreed)?;
        plan.draft.check()?;
        plan.check_tensors()?;
        Ok(plan)
    }

    /// Reads a plan that was held to its bounds when it came, and is kept under its digest. Bounds that are narrower by now take
    /// back no run, and keep nobody from reading of one that is over.
    pub fn from_kept_bytes(bytes: &[u8], agreed: Digest) -> Result<Self, PlanError> {
        let found = Digest::of(bytes);
        if found != agreed {
            return Err(PlanError::DigestDiffers { expected: agreed, found });
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The run's id.
    pub fn run(&self) -> &RunId {
        &self.draft.run
    }

    /// Length of the file of every model of the run.
    pub fn model_bytes(&self) -> u64 {
        Encoding::F32.file_bytes(&self.signature)
    }

    /// Steps of the global clock before a round.
    pub fn first_step(&self, round: RoundNumber) -> u64 {
        self.draft.training.steps_per_round as u64 * u64::from(round.0.saturating_sub(1))
    }

    /// The tasks whose heads are finetuned; none in a run that pretrains.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskName> {
        self.draft.finetuning.iter().flat_map(|finetuning| &finetuning.tasks).map(|task| &task.name)
    }

    /// Whether a tensor is of a task's head, and not of the backbone.
    pub fn is_of_a_head(&self, tensor: &str) -> bool {
        self.draft.finetuning.is_some() && tensor.starts_with(HEADS)
    }

    /// Whether the change of a tensor is ever sent: not that of a frozen backbone, and not of what sites keep for themselves.
    pub fn travels(&self, tensor: &str) -> bool {
        let frozen = self.draft.finetuning.as_ref().is_some_and(|finetuning| finetuning.frozen_backbone);
        !self.draft.aggregation.keep_local.match_name(tensor) && (!frozen || self.is_of_a_head(tensor))
    }

    /// Names and shapes of the tensors of an update that holds these heads: all of the signature that [travel](Self::travels)
    /// but for the heads of other tasks. In a run that pretrains there is no head to name.
    pub fn update_signature(&self, heads: &BTreeSet<TaskName>) -> Result<Signature, PlanError> {
        if self.draft.finetuning.is_none() {
            return match heads.first() {
                None => Ok(self.signature.filtered(|name| self.travels(name))),
                Some(head) => Err(PlanError::Heads(format!("the run pretrains, and has no head {head}"))),
            };
        }
        if let Some(unknown) = heads.iter().find(|head| !self.tasks().any(|task| task == *head)) {
            return Err(PlanError::Heads(format!("the run has no task {unknown}")));
        }
        if heads.is_empty() {
            return Err(PlanError::Heads("an update of a finetuning run holds one head or more".to_owned()));
        }
        let prefixes: Vec<String> = heads.iter().map(TaskName::head_prefix).collect();
        let in_head = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        Ok(self.signature.filtered(|name| self.travels(name) && (!name.starts_with(HEADS) || in_head(name))))
    }

    /// Whether the first model has what the plan speaks of: a head for each task and no other, and for each pattern of
    /// `keep_local` a tensor, but not all.
    pub fn check_tensors(&self) -> Result<(), PlanError> {
        let names: Vec<&str> = self.signature.iter().map(|(name, _)| name).collect();
        let kept = &self.draft.aggregation.keep_local;
        let refused = |value: &str, bound: &str| {
            let (key, value, bound) = ("aggregation.keep_local", value.to_owned(), bound.to_owned());
            Err(PlanError::OutOfBounds { key, value, bound })
        };
        if let Some(unused) = kept.unused(&names) {
            return refused(
                &format!("{unused:?}"),
                "a pattern that matches a tensor of the first model; this one matches none",
            );
        }
        if !names.iter().any(|name| self.travels(name)) {
            return refused("every tensor", "a list that leaves a tensor to be merged");
        }
        self.check_heads()
    }

    fn check_heads(&self) -> Result<(), PlanError> {
        if self.draft.finetuning.is_none() {
            return Ok(());
        }
        let prefixes: Vec<String> = self.tasks().map(TaskName::head_prefix).collect();
        let names: Vec<&str> =
            self.signature.iter().map(|(name, _)| name).filter(|name| name.starts_with(HEADS)).collect();
        let of = |prefix: &String| names.iter().any(|name| name.starts_with(prefix));
        if let Some(missing) = prefixes.iter().find(|prefix| !of(prefix)) {
            return Err(PlanError::Heads(format!("the first model has no tensor {missing}*")));
        }
        match names.iter().find(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix))) {
            Some(other) => Err(PlanError::Heads(format!("the first model has the tensor {other}, of no task"))),
            None => Ok(()),
        }
    }
}

/// What the names of all heads' tensors begin with.
const HEADS: &str = "heads.";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Encoding;

    pub(crate) fn draft() -> PlanDraft {
        toml::from_str(
            r#"
            run = "pretrain"
            [training]
            steps_per_round = 100
            epoch_steps = 100
            batch_size = 64
            [rounds]
            count = 10
            sites = ["a", "b"]
            quorum = 2
            deadline_s = 60
            "#,
        )
        .unwrap()
    }

    #[test]
    fn the_shortest_plan_is_the_published_vit_small_with_patch_8() {
        let draft = draft();
        draft.check().unwrap();
        assert_eq!((draft.model.dim, draft.model.depth, draft.model.patch_size), (384, 12, 8));
        assert_eq!(draft.training.teacher_momentum, [0.996, 1.0]);
        assert_eq!(draft.total_steps(), 1000);
    }

    #[test]
    fn a_plan_with_numbers_of_seventeen_digits_is_the_same_plan_after_it_was_sent_read_and_written() {
        let mut draft = draft();
        for sixteenths in 1..2000 {
            let third = f64::from(sixteenths) / 3.0;
            (draft.images.mean, draft.training.koleo) = (third, third / 1e4);
            let signature = Signature::new([("w".to_owned(), vec![2])]).unwrap();
            let plan = draft.clone().with_first_model(signature, Digest::of(b"model"));
            let read: Plan = serde_json::from_slice(&plan.canonical_bytes()).unwrap();
            assert_eq!(read.digest(), plan.digest(), "{third}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let written = "run = \"a\"\ntypo = 1\n[training]\nsteps_per_round = 1\nepoch_steps = 1\nbatch_size = 2\n[rounds]\ncount = 1\nsites = [\"a\"]\nquorum = 1\ndeadline_s = 1";
        let error = toml::from_str::<PlanDraft>(written).unwrap_err();
        assert!(error.to_string().contains("typo"), "{error}");
    }

    #[test]
    fn an_update_of_a_finetuning_run_holds_the_heads_it_names_and_the_backbone_unless_that_is_frozen() {
        let mut draft = draft();
        draft.finetuning = Some(finetuning(&["lge", "lge-b"]));
        draft.check().unwrap();
        let names = ["backbone.norm.bias", "heads.lge.last.weight", "heads.lge-b.last.weight"];
        let signature = Signature::new(names.map(|name| (name.to_owned(), vec![2]))).unwrap();
        let mut plan = draft.with_first_model(signature, Digest::of(b"model"));
        plan.check_tensors().unwrap();
        let names = |plan: &Plan, heads: &[&str]| -> Result<Vec<String>, PlanError> {
            let heads = heads.iter().map(|head| TaskName::try_from((*head).to_owned()).unwrap()).collect();
            Ok(plan.update_signature(&heads)?.iter().map(|(name, _)| name.to_owned()).collect())
        };
        assert_eq!(names(&plan, &["lge"]).unwrap(), ["backbone.norm.bias", "heads.lge.last.weight"]);
        assert!(names(&plan, &[]).is_err() && names(&plan, &["cine"]).is_err());
        plan.draft.finetuning.as_mut().unwrap().frozen_backbone = true;
        assert_eq!(names(&plan, &["lge-b"]).unwrap(), ["heads.lge-b.last.weight"]);
        plan.draft.finetuning = Some(finetuning(&["lge"]));
        assert!(plan.check_tensors().unwrap_err().to_string().contains("heads.lge-b.last.weight, of no task"));
        plan.draft.finetuning = Some(finetuning(&["lge", "lge-b", "cine"]));
        assert!(plan.check_tensors().unwrap_err().to_string().contains("no tensor heads.cine.*"));
        let pretrains = super::tests::draft().with_first_model(plan.signature.clone(), plan.first_model);
        pretrains.check_tensors().unwrap();
        assert_eq!(names(&pretrains, &[]).unwrap().len(), 3);
        assert!(names(&pretrains, &["lge"]).is_err());
    }

    #[test]
    fn an_encoding_is_written_by_its_name_and_survives_the_plans_bytes() {
        for (written, encoding) in
            [("\"int8\"", Encoding::Int8), ("\"bf16\"", Encoding::Bf16), ("{ top-k = 0.1 }", Encoding::TopK(0.1))]
        {
            let text = format!(
                "{}\n[aggregation]\nexchange = \"student\"\nencoding = {written}\n",
                toml::to_string(&draft()).unwrap().split("[aggregation]").next().unwrap()
            );
            let draft: PlanDraft = toml::from_str(&text).unwrap();
            assert_eq!(draft.aggregation.encoding, encoding);
            draft.check().unwrap();
            let plan =
                draft.with_first_model(Signature::new([("w".to_owned(), vec![2])]).unwrap(), Digest::of(b"model"));
            assert_eq!(Plan::from_agreed_bytes(&plan.canonical_bytes(), plan.digest()).unwrap(), plan);
        }
        let mut none = draft();
        none.aggregation.encoding = Encoding::TopK(0.0);
        assert!(none.check().unwrap_err().to_string().contains("aggregation.encoding.top-k is 0"));
        none.aggregation.encoding = Encoding::TopK(0.1);
        let told = none.check().unwrap_err().to_string();
        assert!(told.contains("aggregation.exchange is all, but must be \"student\" with encoding top-k"), "{told}");
    }

    #[test]
    fn a_plan_without_finetuning_or_signatures_has_the_bytes_it_always_had() {
        let signature = Signature::new([("center".to_owned(), vec![1, 4])]).unwrap();
        let plan = draft().with_first_model(signature, Digest::of(b"model"));
        let text = String::from_utf8(plan.canonical_bytes()).unwrap();
        assert!(!text.contains("finetuning") && !text.contains("signatures"), "{text}");
        let mut many = draft();
        many.signatures = 17;
        assert!(many.check().unwrap_err().to_string().contains("signatures is 17, but must be 0 to 16"));
    }

    #[test]
    fn what_sites_keep_for_themselves_is_in_no_update_and_a_pattern_must_name_something_and_leave_something() {
        let names = ["student.blocks.0.norm1.weight", "student.head.weight", "teacher.blocks.0.norm1.weight"];
        let signature = Signature::new(names.map(|name| (name.to_owned(), vec![2]))).unwrap();
        let with = |patterns: &[&str]| {
            let mut draft = draft();
            draft.aggregation.keep_local = toml::Value::from(patterns.to_vec()).try_into().unwrap();
            draft.with_first_model(signature.clone(), Digest::of(b"model"))
        };
        let plan = with(&["*.norm*"]);
        plan.check_tensors().unwrap();
        let sent = plan.update_signature(&BTreeSet::new()).unwrap();
        assert_eq!(sent.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["student.head.weight"]);
        assert_eq!(Plan::from_agreed_bytes(&plan.canonical_bytes(), plan.digest()).unwrap(), plan);
        for (patterns, told) in [
            (
                &["*.norm*", "*.bias"][..],
                "aggregation.keep_local is \"*.bias\", but must be a pattern that matches a tensor",
            ),
            (&["*"], "aggregation.keep_local is every tensor"),
        ] {
            let plan = with(patterns);
            let error = Plan::from_agreed_bytes(&plan.canonical_bytes(), plan.digest()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert!(!String::from_utf8(with(&[]).canonical_bytes()).unwrap().contains("keep_local"));
    }

    #[test]
    fn noise_that_would_count_twice_and_shares_by_what_heads_do_not_have_are_refused() {
        let mut noisy = draft();
        (noisy.privacy.max_delta_norm, noisy.privacy.noise_multiplier) = (1.0, 1.0);
        noisy.check().unwrap();
        noisy.aggregation.encoding = Encoding::TopK(0.1);
        noisy.aggregation.exchange = Exchange::Student;
        assert!(
            noisy
                .check()
                .unwrap_err()
                .to_string()
                .contains("privacy.noise_multiplier is 1, but must be 0 with encoding")
        );
        noisy.privacy.noise_multiplier = f64::NAN;
        assert!(noisy.check().unwrap_err().to_string().contains("0 to 1000"));
        let mut by_examples = draft();
        by_examples.aggregation.share_by = ShareBy::Examples;
        by_examples.check().unwrap();
        by_examples.finetuning = Some(finetuning(&["lge"]));
        assert!(by_examples.check().unwrap_err().to_string().contains("aggregation.share_by is examples"));
    }

    pub(crate) fn finetuning(names: &[&str]) -> FinetuningPlan {
        let task = |name: &&str| {
            serde_json::from_value(serde_json::json!({
                "name": name, "about": "", "kind": "segmentation", "labels": "masks", "classes": ["LV"], "input": {},
                "metrics": ["dice"], "best": { "metric": "dice", "direction": "higher" },
            }))
            .unwrap()
        };
        FinetuningPlan { frozen_backbone: false, tasks: names.iter().map(task).collect() }
    }

    #[test]
    fn a_plan_that_is_kept_is_read_though_its_bounds_are_narrower_by_now_and_no_new_one_like_it_is_taken() {
        let mut draft = draft();
        draft.aggregation.strategy = Strategy::TrimmedMean { fraction: 0.1 };
        let signature = Signature::new([("center".to_owned(), vec![1, 4])]).unwrap();
        let plan = draft.with_first_model(signature, Digest::of(b"model"));
        let bytes = plan.canonical_bytes();
        assert_eq!(Plan::from_kept_bytes(&bytes, plan.digest()).unwrap(), plan);
        let told = Plan::from_agreed_bytes(&bytes, plan.digest()).unwrap_err().to_string();
        assert!(told.contains("aggregation.strategy.fraction is 0.1"), "{told}");
        assert!(matches!(Plan::from_kept_bytes(&bytes, plan.first_model), Err(PlanError::DigestDiffers { .. })));
    }

    #[test]
    fn one_changed_byte_is_another_plan() {
        let signature = Signature::new([("center".to_owned(), vec![1, 4])]).unwrap();
        let plan = draft().with_first_model(signature, Digest::of(b"model"));
        let mut bytes = plan.canonical_bytes();
        assert_eq!(Plan::from_agreed_bytes(&bytes, plan.digest()).unwrap(), plan);
        *bytes.last_mut().unwrap() = b' ';
        assert!(matches!(Plan::from_agreed_bytes(&bytes, plan.digest()), Err(PlanError::DigestDiffers { .. })));
    }
}
