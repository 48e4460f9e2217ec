//! How many values a plan's network has, and whether a first model can be one. Names and shapes are held to the network by each
//! site, whose program has it; here a model that no site would take is refused before it gives the run its name.

use super::{Exchange, HEADS, ModelPlan, PlanDraft, PlanError};
use crate::weights::Signature;

/// By what fraction a first model may differ from the network. The count is that of the published network, value by value: another
/// version of the program may add a token or a norm, which is less; another width, depth or exchange is far more.
const TOLERANCE: f64 = 0.2;

impl PlanDraft {
    /// Holds a first model to the number of values that the plan's network has. Of a run that finetunes, to the backbone's alone:
    /// heads are what the tasks' own networks are.
    pub fn check_size(&self, first_model: &Signature) -> Result<(), PlanError> {
        let finetunes = self.finetuning.is_some();
        let counts = |name: &str| !finetunes || !name.starts_with(HEADS);
        let found = first_model.filtered(counts).value_count();
        let model = &self.model;
        let expected = match (finetunes, self.aggregation.exchange) {
            (true, _) => model.backbone_values(),
            (false, Exchange::Student) => model.values(),
            // Student, teacher and center.
            (false, Exchange::All) => 2.0 * model.values() + model.head.prototypes as f64,
        };
        if (found as f64 - expected).abs() <= TOLERANCE * expected {
            return Ok(());
        }
        let what = if finetunes { "beside its heads" } else { "in all" };
        Err(PlanError::Size { found: found as u64, what, expected: expected as u64 })
    }
}

impl ModelPlan {
    /// Values of a network: backbone and head. In floats, which do not overflow.
    pub(super) fn values(&self) -> f64 {
        let dim = self.dim as f64;
        let [hidden, bottleneck, prototypes] =
            [self.head.hidden, self.head.bottleneck, self.head.prototypes].map(|size| size as f64);
        let perceptron = hidden * (dim + hidden + bottleneck) + 2.0 * hidden + bottleneck;
        // The last layer is a direction and a length for each prototype.
        self.backbone_values() + perceptron + prototypes * (bottleneck + 1.0)
    }

    fn backbone_values(&self) -> f64 {
        let [dim, depth, patch, side] =
            [self.dim, self.depth, self.patch_size, self.image_size].map(|size| size as f64);
        let patches = (self.in_channels as f64 * patch * patch + 1.0) * dim;
        // The class token has a position as well.
        let tokens = dim + ((side / patch).powi(2) + 1.0) * dim;
        let hidden = (dim * self.mlp_ratio).floor();
        let attention = 4.0 * dim * dim + 4.0 * dim;
        let perceptron = 2.0 * dim * hidden + hidden + dim;
        let norm = 2.0 * dim;
        patches + tokens + depth * (attention + perceptron + 2.0 * norm) + norm
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::draft;
    use super::super::{FinetuningPlan, HeadPlan};
    use super::*;

    /// A model of so many values in its backbone, and in a head.
    fn model(backbone: usize, head: usize) -> Signature {
        Signature::new(
            [("backbone.all", backbone), ("heads.lge.all", head)].map(|(name, count)| (name.to_owned(), vec![count])),
        )
        .unwrap()
    }

    #[test]
    fn the_published_networks_are_counted_to_the_value() {
        // ViT-S/8 for three channels, as DINO published it: 21 670 272, and 44 022 400 with its head.
        let published = ModelPlan {
            in_channels: 3,
            head: HeadPlan { prototypes: 65_536, ..HeadPlan::default() },
            ..ModelPlan::default()
        };
        assert_eq!((published.backbone_values(), published.values()), (21_670_272.0, 44_022_400.0));
    }

    #[test]
    fn a_first_model_of_another_width_or_exchange_is_refused_with_both_numbers_and_the_remedy() {
        let mut draft = draft();
        let network = draft.model.values() as usize;
        let whole = 2 * network + draft.model.head.prototypes;
        draft.check_size(&model(whole, 1000)).unwrap();
        let refused = draft.check_size(&model(network, 1)).unwrap_err().to_string();
        assert!(refused.contains(&format!("has {} values in all", network + 1)), "{refused}");
        assert!(refused.contains(&format!("has {whole}")) && refused.contains("site-agent init-model"), "{refused}");
        draft.aggregation.exchange = Exchange::Student;
        draft.check_size(&model(network, 1000)).unwrap();
        draft.check_size(&model(whole, 1)).unwrap_err();
        draft.model.dim = 16;
        draft.check_size(&model(network, 1)).unwrap_err();
    }

    #[test]
    fn of_a_first_model_that_is_finetuned_the_backbone_alone_is_held_to_the_plan() {
        let mut draft = draft();
        let backbone = draft.model.backbone_values() as usize;
        draft.finetuning = Some(FinetuningPlan { frozen_backbone: false, tasks: Vec::new() });
        draft.check_size(&model(backbone, 3 * backbone)).unwrap();
        let refused = draft.check_size(&model(backbone / 2, backbone / 2)).unwrap_err().to_string();
        assert!(refused.contains("values beside its heads"), "{refused}");
    }
}
