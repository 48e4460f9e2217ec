//! The plan of a run: what all parties agree on before anything trains, and its digest.
//!
//! Data only, never code. Two levels: [`PlanDraft`] is what a coordinator writes (TOML, unknown keys refused), [`Plan`]
//! is what it means once the first model is known: its tensor signature and digest are part of the plan. The plan's
//! SHA-256 is what sites approve and every message carries.

mod bounds;
mod draft;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RunId};
use crate::weights::Signature;

pub use draft::{
    Adaptive, AggregationPlan, Centering, CropPlan, Exchange, HeadPlan, ImagePlan, Init, ModelPlan, Optimizer,
    PlanDraft, PrivacyPlan, RoundPlan, Strategy, TrainingPlan,
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
        let found = Digest::of(bytes);
        if found != agreed {
            return Err(PlanError::DigestDiffers { expected: agreed, found });
        }
        let plan: Self = serde_json::from_slice(bytes)?;
        plan.draft.check()?;
        Ok(plan)
    }

    /// The run's id.
    pub fn run(&self) -> &RunId {
        &self.draft.run
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(super) fn draft() -> PlanDraft {
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
    fn an_unknown_key_is_refused_by_name() {
        let written = "run = \"a\"\ntypo = 1\n[training]\nsteps_per_round = 1\nepoch_steps = 1\nbatch_size = 2\n[rounds]\ncount = 1\nsites = [\"a\"]\nquorum = 1\ndeadline_s = 1";
        let error = toml::from_str::<PlanDraft>(written).unwrap_err();
        assert!(error.to_string().contains("typo"), "{error}");
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
