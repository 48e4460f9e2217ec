//! Whether a plan's network is one that this program has: its tensors, name by name and shape by shape. A pure comparison.
//!
//! A plan lists its tensors itself, so an aggregator could list others than its network has. No such model is fetched.

use common::Plan;
use model::{Finetuner, ModelError};

/// The plan lists other tensors than its network has here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the plan's tensors are not those of the network that it describes, as this program builds it: {0}; make the first model \
     with `site-agent init-model` of this version, or ask the coordinator which program made it"
)]
pub struct Unlisted(#[from] ModelError);

/// Holds a plan's tensors to the network that it describes.
pub fn check(plan: &Plan) -> Result<(), Unlisted> {
    let network = match &plan.draft.finetuning {
        Some(finetuning) => Finetuner::signature(&plan.draft.model, &finetuning.tasks)?,
        None => model::signature(&plan.draft.model, plan.draft.aggregation.exchange)?,
    };
    Ok(network.require(&plan.signature).map_err(ModelError::from)?)
}

#[cfg(test)]
mod tests {
    use common::plan::{Exchange, FinetuningPlan};
    use common::{Digest, PlanDraft, Signature};

    use super::*;
    use crate::tasks::built_in;
    use crate::trainer;

    type Tensors = Vec<(String, Vec<usize>)>;

    fn drafts() -> [PlanDraft; 3] {
        let pretraining: PlanDraft = toml::from_str(include_str!("../../tests/plans/demo.toml")).unwrap();
        let (mut student, mut finetuning) = (pretraining.clone(), pretraining.clone());
        student.aggregation.exchange = Exchange::Student;
        finetuning.finetuning = Some(FinetuningPlan { frozen_backbone: true, tasks: built_in() });
        [pretraining, student, finetuning]
    }

    #[test]
    fn the_tensors_of_every_first_model_that_this_program_makes_are_those_of_its_plan() {
        for draft in drafts() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("first.safetensors");
            let digest = trainer::first_model(&draft, None, &path).unwrap();
            let first = common::NamedTensors::from_safetensors(&std::fs::read(&path).unwrap()).unwrap();
            draft.check_size(&first.signature()).unwrap();
            check(&draft.with_first_model(first.signature(), digest)).unwrap();
        }
    }

    #[test]
    fn a_tensor_more_one_less_and_one_of_another_shape_are_no_network_of_this_program() {
        for draft in drafts() {
            let plan = draft.with_first_model(Signature::new([]).unwrap(), Digest::of(b"model"));
            let refused = check(&plan).unwrap_err().to_string();
            let network: Tensors = match &plan.draft.finetuning {
                Some(finetuning) => Finetuner::signature(&plan.draft.model, &finetuning.tasks).unwrap().into(),
                None => model::signature(&plan.draft.model, plan.draft.aggregation.exchange).unwrap().into(),
            };
            assert!(refused.contains("site-agent init-model"), "{refused}");
            let with = |change: fn(&mut Tensors)| {
                let mut tensors = network.clone();
                change(&mut tensors);
                check(&common::Plan { signature: Signature::new(tensors).unwrap(), ..plan.clone() })
            };
            with(|_| {}).unwrap();
            let last = network.len() - 1;
            let name = &network[last].0;
            for (told, refused) in [
                (name.as_str(), with(|tensors| drop(tensors.pop()))),
                (name, with(|tensors| tensors.last_mut().unwrap().1.push(1))),
                ("student.backdoor", with(|tensors| tensors.push(("student.backdoor".to_owned(), vec![7])))),
            ] {
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains(told), "{told}: {refused}");
            }
        }
    }
}
