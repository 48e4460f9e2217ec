//! Which bytes of a model's file the rounds of a run may change. What a plan freezes, or leaves to the sites, is in every model of the
//! run what it is in the first one, and need not be fetched again.

use std::ops::Range;

use super::Plan;
use crate::encoding::Encoding;

/// Bytes of a value, as models are written.
const VALUE: u64 = size_of::<f32>() as u64;

impl Plan {
    /// The bytes of a model's file that may differ between two models of the run, in their order, as runs without a gap: those of the
    /// tensors that [travel](Self::travels).
    pub fn changing(&self) -> Vec<Range<u64>> {
        let header = Encoding::F32.header(&self.signature).len() as u64;
        let place = |value: u64| header + value * VALUE;
        let runs = self.signature.runs_of(|name| self.travels(name));
        runs.into_iter().map(|values| place(values.start)..place(values.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Digest, NamedTensors, PlanDraft};

    #[test]
    fn all_that_two_models_of_a_run_may_differ_in_is_where_it_changes_and_nothing_else() {
        let draft: PlanDraft = toml::from_str(
            "run = \"kept\"\n[training]\nsteps_per_round = 1\nepoch_steps = 1\nbatch_size = 2\n[rounds]\ncount = 2\nsites = [\"a\"]\n\
             quorum = 1\ndeadline_s = 60\n[aggregation]\nkeep_local = [\"*.norm*\"]\n",
        )
        .unwrap();
        let model = |moved: f32| {
            let mut model = NamedTensors::new();
            for (name, stays) in
                [("a.norm.weight", true), ("b.weight", false), ("c.bias", false), ("d.norm.bias", true), ("e", false)]
            {
                model.insert(name, vec![3], vec![if stays { 0.5 } else { moved }; 3]);
            }
            model
        };
        let (before, after) = (model(0.5).to_safetensors(), model(-7.25).to_safetensors());
        let plan = draft.with_first_model(model(0.5).signature(), Digest::of(&before));
        let changing = plan.changing();
        assert_eq!(changing.len(), 2, "{changing:?}");
        let mut made = before.clone();
        for range in changing {
            let range = range.start as usize..range.end as usize;
            assert_ne!(before[range.clone()], after[range.clone()]);
            made[range.clone()].copy_from_slice(&after[range]);
        }
        assert_eq!(made, after);
    }
}
